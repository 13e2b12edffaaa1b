"""Lists the generated pages, by file name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mkdocs_reference import commands, python, study_file

FOLDER = Path(__file__).parents[1] / "docs" / "reference"

PAGES: dict[str, Callable[[], str]] = {
    "study-file.md": study_file.page,
    "commands.md": commands.page,
    "python.md": python.page,
}
