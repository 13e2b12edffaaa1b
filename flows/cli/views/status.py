"""Says how far a study is, and why it has ended."""

from __future__ import annotations

import shlex

import typer

from hpo_core.history.history import History
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.study_run import why_ended
from hpo_flows.cli.common import print_json, shown_uri
from hpo_flows.loop.final import choice_of
from hpo_flows.reports.front import best_facts, winner_facts
from hpo_flows.reports.text import choice_line, skipped_line, status_line


def show(ledger: Ledger, *, as_json: bool) -> None:
    """Print how far a study is."""
    history = ledger.load()
    if as_json:
        print_status(ledger, history)
        return
    if ledger.skipped:
        typer.echo(skipped_line(ledger.skipped), err=True)
    paused = f"paused (hpo resume {shlex.quote(ledger.spec.name)})  |  " if ledger.study.instructions.paused else ""
    typer.echo(f"{ledger.spec.name}: {paused}{progress(ledger, history)}")


def progress(ledger: Ledger, history: History) -> str:
    """A study's progress in one line, its final choice, what waits to be tried, and why it has ended, if it has."""
    choice, why = choice_of(ledger, history), why_ended(ledger.study_run, history)
    chosen = f"  |  {choice_line(ledger.spec, choice)}" if choice is not None and choice.standings else ""
    count = len(ledger.spec.waiting(history, ledger.study.instructions.queue))
    queue = f"  |  {count} enqueued" if count else ""
    ended = f"  |  ended: {why}" if why else ""
    return f"{status_line(ledger.spec, history, 0.0)}{chosen}{queue}{ended}"


def print_status(ledger: Ledger, history: History, **more: str) -> None:
    """Print the same as one JSON object."""
    spec, choice = ledger.spec, choice_of(ledger, history)
    print_json(
        study=spec.name,
        complete=len(history.complete),
        running=len(history.under_way),
        failed=len(history.failed),
        outside=len(history.outside),
        enqueued=len(spec.waiting(history, ledger.study.instructions.queue)),
        paused=ledger.study.instructions.paused,
        skipped=len(ledger.skipped),
        ended=why_ended(ledger.study_run, history) or None,
        trials=spec.stop.trials,
        **best_facts(spec, history, choice),
        incumbent=None if history.incumbent is None else history.incumbent.number,
        **winner_facts(spec, choice),
        experiment=spec.experiment,
        run_id=ledger.study_run.id,
        tracking_uri=shown_uri(ledger),
        **more,
    )
