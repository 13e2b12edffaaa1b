"""A real browser for the tests: Debian's Chromium, driven by Playwright, which brings none of its own here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def chromium() -> str | None:
    """The machine's browser; None if it has none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


needs_chromium = pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")


@contextmanager
def browsing(**settings: Any) -> Iterator[Any]:
    """A page in a context with these settings (``viewport``, ``color_scheme``, ``offline``)."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        # No sandbox: it needs rights that containers lack. WebGL by software: parallel coordinates are drawn with it.
        arguments = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield browser.new_context(**settings).new_page()
        finally:
            browser.close()
