"""Turns docstrings into Markdown, and rows into tables."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

Row = tuple[str, ...]
SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:", ">>>")


def table(heads: Iterable[str], rows: Iterable[Row]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def first_sentence(doc: str | None) -> str:
    return re.split(r"(?<=\.)\s", inspect.cleandoc(doc or ""), maxsplit=1)[0]


def summary(doc: str | None) -> str:
    """A docstring's paragraphs, without its sections and its examples."""
    paragraphs = re.split(r"\n\n+", inspect.cleandoc(doc or ""))
    return markdown("\n\n".join(each for each in paragraphs if not each.startswith(SECTIONS)))


def section(doc: str | None, name: str) -> dict[str, str]:
    """The entries of a section such as ``Args:``; an entry of several names counts for each of them."""
    match = re.search(rf"^{name}:\n((?:    .*\n?|\n(?=    ))+)", inspect.cleandoc(doc or ""), re.MULTILINE)
    entries = re.findall(r"^    ([*\w, ]+): (.*(?:\n {8}.*)*)", match[1] if match else "", re.MULTILINE)
    return {each.strip(" *"): " ".join(text.split()) for names, text in entries for each in names.split(",")}


def prose(doc: str | None, name: str) -> str:
    """A section that is a sentence, such as ``Returns:``."""
    match = re.search(rf"^{name}:\n((?:    .*\n?)+)", inspect.cleandoc(doc or ""), re.MULTILINE)
    return " ".join(match[1].split()) if match else ""


def cell(text: str) -> str:
    return markdown(text).replace("|", "\\|")


def markdown(text: str) -> str:
    """Docstrings are written in reStructuredText: ``code`` and :class:`links`."""
    text = re.sub(r":(?:class|attr|meth|func|mod):`~?\.?(?:hpo_(?:core|flows)\.)?([\w.]+)`", r"`\1`", text)
    return re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)
