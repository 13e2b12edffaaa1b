"""``python -m mkdocs_reference``: renew the generated pages; ``make reference`` calls it."""

from __future__ import annotations

from mkdocs_reference.pages import FOLDER, PAGES

for name, page in PAGES.items():
    (FOLDER / name).write_text(page(), encoding="utf-8")
