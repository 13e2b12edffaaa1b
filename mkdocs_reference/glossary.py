"""Links the words of the glossary where a page first uses them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path, PurePosixPath
from posixpath import relpath

ROOT = Path(__file__).parents[1]
GLOSSARY = "docs/reference/glossary.md"

FENCED, LINE, SPAN, LINK, TAG = (
    r"```.*?^```",
    r"^(?: {4}|#|\s*\| ?-)[^\n]*",
    r"`[^`]*`",
    r"!?\[[^\]]*\]\([^)]*\)",
    r"<[^>\n]+>",
)
LEFT_ALONE = re.compile(f"({'|'.join((FENCED, LINE, SPAN, LINK, TAG))})", re.DOTALL | re.MULTILINE)
"""Code, headings and what is a link already."""


@cache
def terms() -> tuple[str, ...]:
    """The words that have a heading of their own, in lower case; the basics are taken for known."""
    text = (ROOT / GLOSSARY).read_text(encoding="utf-8")
    return tuple(each.lower() for each in re.findall(r"^## (\w+)$", text, re.MULTILINE))


def linked(text: str, page: str) -> str:
    """A page with a link at the first use of each word; unchanged if they are there.

    >>> linked("The incumbent, an incumbent.", "docs/faq.md")
    'The [incumbent](reference/glossary.md#incumbent), an incumbent.'
    """
    glossary = relpath(GLOSSARY, PurePosixPath(page).parent)
    parts = LEFT_ALONE.split(text)
    for term in terms():
        plural = f"{term[:-1]}(?:y|ies)" if term.endswith("y") else f"{term}s?"
        word = re.compile(rf"(?<![\w-]){plural}(?!\w)", re.IGNORECASE)
        for i, part in enumerate(parts):
            if f"{glossary}#{term})" in part:
                break
            if i % 2 == 0 and word.search(part):
                parts[i] = word.sub(lambda found: f"[{found[0]}]({glossary}#{term})", part, count=1)  # noqa: B023
                parts = LEFT_ALONE.split("".join(parts))
                break
    return "".join(parts)
