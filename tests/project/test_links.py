"""What the documents point to is there: pages, headings, files, tests, tags, pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from hpo_core.ledger.tags import MEASURED_SECONDS, Tag
from hpo_flows.loop.view.events import EventName
from mkdocs_reference.mlflow import STUDY, TRIAL, VERSION
from tests.documents import PAGES, ROOT, spans

POINTING = [*PAGES, ROOT / "CHANGELOG.md"]
NAMES = [page.relative_to(ROOT).as_posix() for page in POINTING]


def slugs(page: Path) -> set[str]:
    """The anchors of a page that are the same on the site and on a forge, which differ in some."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading).strip().lower()
        if (forge := plain.replace(" ", "-")) == re.sub(r"[-\s]+", "-", plain):
            found.add(forge)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    text = re.sub(r"`[^`]*`", "", page.read_text(encoding="utf-8"))
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
        link = "".join(target)
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        there = (page.parent / path) if path else page
        if not there.exists() or (anchor and anchor not in slugs(there)):
            dead.append(link)
    assert dead == []


def test_every_picture_is_shown() -> None:
    shown = {
        Path(path).name for page in PAGES for path in re.findall(r"images/[\w.-]+", page.read_text(encoding="utf-8"))
    }
    assert {path.name for path in (ROOT / "docs" / "images").iterdir()} == shown


def test_files_tests_and_tags_that_are_named_exist() -> None:
    tests = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    tags = {value for name, value in vars(Tag).items() if name.isupper()} | {*STUDY, *TRIAL, *VERSION}
    tags |= {*get_args(EventName), MEASURED_SECONDS}
    wrong = []
    for page, code in spans():
        if page.startswith("docs/decisions/"):
            continue
        file, _, test = code.partition("::")
        if re.fullmatch(r"test_\w+\.py", file):
            known = file in tests and (not test or f"def {test}(" in tests[file])
        elif re.fullmatch(r"(hpo_core|flows|examples|deploy|tests|mlflow_server)/[\w./-]+\.\w+", code):
            known = (ROOT / code).exists() or code.endswith("/mine.py")  # which is to be written
        else:
            known = code in tags or not re.fullmatch(r"hpo\.[a-z_.]+", code)
        if not known:
            wrong.append((page, code))
    assert wrong == []
