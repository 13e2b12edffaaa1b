"""What people see of a study while it runs."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from flows.report import LiveProgress
from tests.test_study import spec as make_spec


@pytest.mark.parametrize("terminal", [False, True])
def test_warnings_are_seen_while_a_study_runs_and_only_then(terminal: bool) -> None:
    screen = io.StringIO()
    log = logging.getLogger("hpo.somewhere")
    with LiveProgress(make_spec(), Console(file=screen, force_terminal=terminal, width=40)):
        log.warning("%d results had waited on disk, and this line is longer than the screen is wide", 2)
        log.info("nobody asked for this")
    log.warning("too late")
    shown = screen.getvalue()
    assert "warning: 2 results had waited on disk, and this line is longer than the screen is wide" in shown
    assert "nobody asked" not in shown and "too late" not in shown
