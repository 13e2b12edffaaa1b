"""Writes a study's report to a folder."""

from __future__ import annotations

from pathlib import Path

import typer

from hpo_core.base.errors import InputError
from hpo_core.ledger.study_run import why_ended
from hpo_core.study.names import file_name
from hpo_flows.cli.common import open_stored
from hpo_flows.cli.views import browser
from hpo_flows.loop.stages import Stages
from hpo_flows.reports.html.curves import CurveReader
from hpo_flows.reports.html.publish import place_of, write_report


def write(study: str, out: Path | None, *, browse: bool) -> None:
    """Write the report of a study, to report-NAME by default, and open it in a browser if that is wanted."""
    ledger = open_stored(study)
    history, stages = ledger.load(), Stages(ledger)
    stages.load(history)
    curves = CurveReader(ledger.store, ledger.spec).read(history)
    folder = out or Path(f"report-{file_name(ledger.spec.name)}")
    try:
        place = place_of(ledger)
        why = why_ended(ledger.study_run, history)
        path = write_report(ledger.spec, history, folder, place, curves, stages.choice, stages.challenge, why)
    except OSError as error:
        raise InputError(
            "--out", f"the report cannot be written to {folder} ({error})", "name another folder"
        ) from None
    typer.echo(f"The report is {path}")
    if browse:
        browser.show(path.absolute().as_uri())
