"""The documents as a site: it builds without a warning, asks no network, and fits a telephone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import browsing, needs_chromium
from tests.documents import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        build, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_all_pages_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert all((site / page).is_file() for page in pages)
    loaded = re.compile(
        r"<(?:script|img|iframe|link rel=\"(?:stylesheet|preconnect)\")[^>]*(?:src|href)=\"?(https?:|//)"
    )
    assert [page.name for page in site.rglob("*.html") if loaded.search(page.read_text(encoding="utf-8"))] == []


def test_lists_and_tables_of_the_documents_are_not_swallowed_by_paragraphs(site: Path) -> None:
    """The site's Markdown wants an empty line before a list or table where the forge's does not."""
    wrong = re.compile(r"<p>[^<]*(?:<code>[^<]*</code>[^<]*)*\n(?:- |\| ?-|\d\. )")
    assert [page.name for page in site.rglob("*.html") if wrong.search(page.read_text(encoding="utf-8"))] == []


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_site_opens_without_a_network(scheme: str, site: Path) -> None:
    asked: list[str] = []
    with browsing(viewport={"width": 375, "height": 800}, color_scheme=scheme, offline=True) as page:
        page.on(
            "request", lambda request: None if request.url.startswith(("file:", "data:")) else asked.append(request.url)
        )
        for name in ("index", "reference/study-file", "how-to/choose-a-strategy", "explanation/benchmarks"):
            page.goto((site / f"{name}.html").as_uri())
            page.get_by_role("heading", level=1).wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 375
        assert page.evaluate("document.body.dataset.mdColorScheme") == {"light": "default", "dark": "slate"}[scheme]
    assert asked == []
