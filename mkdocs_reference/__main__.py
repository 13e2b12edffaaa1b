"""``make reference``: renew the generated pages, and the links to the glossary in all."""

from __future__ import annotations

from mkdocs_reference.pages import ROOT, pages

for name, text in pages():
    (ROOT / name).write_text(text, encoding="utf-8")
