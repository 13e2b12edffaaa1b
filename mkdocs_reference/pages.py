"""Lists the pages: those that are generated, by file name, and those that people write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs_reference import commands, mlflow, python, study_file
from mkdocs_reference.glossary import GLOSSARY, linked

ROOT = Path(__file__).parents[1]
GENERATED: dict[str, Callable[[], str]] = {
    "docs/reference/study-file.md": study_file.page,
    "docs/reference/commands.md": commands.page,
    "docs/reference/python.md": python.page,
    "docs/reference/mlflow.md": mlflow.page,
}


def pages() -> Iterator[tuple[str, str]]:
    """Every page but the decisions and the glossary, with the text that it should have."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        name = path.relative_to(ROOT).as_posix()
        if name != GLOSSARY and not name.startswith("docs/decisions/"):
            text = GENERATED[name]() if name in GENERATED else path.read_text(encoding="utf-8")
            yield name, linked(text, name)
    for name in GENERATED:
        if not (ROOT / name).exists():
            yield name, linked(GENERATED[name](), name)
