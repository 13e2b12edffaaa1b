"""What the documents tell people to type: fenced blocks, indented commands, and commands and keys inside sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        key: Page and heading, with a number from the second block of a heading on: ``docs/faq.md: Seeds (2)``.
        language: The word after the fence; ``console`` of an indented block.
        text: What stands in it.
    """

    key: str
    language: str
    text: str


def blocks(pages: list[Path] = PAGES) -> Iterator[Block]:
    """All fenced and indented blocks, in order."""
    for page in pages:
        seen: Counter[str] = Counter()
        for heading, language, text in _blocks(page.read_text(encoding="utf-8")):
            seen[heading] += 1
            number = f" ({seen[heading]})" if seen[heading] > 1 else ""
            yield Block(f"{page.relative_to(ROOT)}: {heading}{number}", language, text)


def _blocks(text: str) -> Iterator[tuple[str, str, str]]:
    heading, language, lines, blank = "", None, [], True
    for line in [*text.splitlines(), ""]:
        if language == "console" and lines and lines[0].startswith("    ") and not line.startswith("    "):
            yield heading, "console", "\n".join(each[4:] for each in lines)  # the end of an indented block
            language = None
        if line.startswith("```"):
            if language is None:
                language, lines = line.removeprefix("```") or "text", []
            else:
                yield heading, language, "\n".join(lines)
                language = None
        elif language is not None:
            lines.append(line)
        elif match := re.match(r"#+ +(.*)", line):
            heading = match[1]
        elif line.startswith("    ") and blank:
            language, lines = "console", [line]
        blank = not line.strip()


def commands(block: Block) -> list[str]:
    """The commands of a console block, without prompts and remarks."""
    lines = (re.sub(r"^\$ |\s+# .*$", "", line).strip() for line in block.text.splitlines())
    return [line for line in lines if line]


def spans(pages: list[Path] = PAGES) -> Iterator[tuple[str, str]]:
    """Code inside sentences and tables, with its page."""
    for page in pages:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
        for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
            yield str(page.relative_to(ROOT)), " ".join(code.split())
