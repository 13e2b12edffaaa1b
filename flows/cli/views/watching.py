"""Shows how far a study is until it is over."""

from __future__ import annotations

import contextlib
import sys
import time

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from hpo_core.ledger.ledger import Ledger
from hpo_core.lineage.listing import StudyState, shown_state, study_state
from hpo_flows.cli.views.status import print_status, progress


def watch(ledger: Ledger, seconds: float, as_json: bool) -> None:
    """Show a study's progress until it is over: in place on a terminal, elsewhere a line each time."""
    console = Console()
    shown = None
    if console.is_terminal and not as_json:
        shown = Live(console=console, auto_refresh=False, vertical_overflow="visible")
    with shown or contextlib.nullcontext():
        while True:
            ledger.hear()
            history, run, spec = ledger.load(), ledger.study_run, ledger.spec
            state = study_state(ledger.store, run, spec, history, live=bool(ledger.owners()))
            shown_as = shown_state(state, ledger.study.instructions.paused)
            line = f"{spec.name}: {shown_as}  |  {progress(ledger, history)}"
            if shown is not None:
                shown.update(Text(line), refresh=True)
            elif as_json:
                print_status(ledger, history, state=state.value)
            else:
                typer.echo(line)
            sys.stdout.flush()
            if state is not StudyState.RUNNING:
                return
            time.sleep(seconds)
