"""The commands that look at a study: status, best, explain, report and ui."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpo_core.base.errors import InputError
from hpo_flows.cli.common import JsonOption, StudyArgument, open_stored, print_json


def status(
    study: StudyArgument,
    as_json: JsonOption = False,
    watch: Annotated[
        float | None,
        typer.Option(
            metavar="[SECONDS]", help="Look again every SECONDS (5) until the study is over.", min=0.5, max=86_400
        ),
    ] = None,
) -> None:
    """Say how far a study is, and why it has ended."""
    ledger = open_stored(study)
    if watch is not None:
        from hpo_flows.cli.views.watching import watch as show_until_over

        show_until_over(ledger, watch, as_json)
    else:
        from hpo_flows.cli.views.status import show

        show(ledger, as_json=as_json)


def best(
    study: StudyArgument,
    as_json: JsonOption = False,
    yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the configuration alone, as `first:` of a study file.")
    ] = False,
    prefer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WISH",
            help="With several metrics, a point of the Pareto front: 'latency_ms <= 10', or weights: "
            "'accuracy=2, latency_ms=1'.",
        ),
    ] = None,
) -> None:
    """Show the best trials and the configuration of the winner, or of the incumbent where no winner is chosen.

    With several metrics it shows the Pareto front, and the configuration of one point of it.
    """
    if as_json and yaml:
        raise InputError("--yaml", "it is given together with --json", "give one of them")
    from hpo_flows.cli.views.best import show

    show(open_stored(study), prefer or [], as_json=as_json, yaml=yaml)


def explain_trial(
    study: StudyArgument,
    trial: Annotated[
        int | None, typer.Argument(metavar="[TRIAL]", help="The number of a trial; the study where absent.", min=0)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a trial has its configuration, or what sets the best trials of the study apart."""
    from hpo_core.lineage.replay import explain
    from hpo_flows.reports.explanation import data, lines, study_data, study_lines

    ledger = open_stored(study)
    if trial is None:
        history = ledger.load()
        if as_json:
            print_json(**study_data(ledger.spec, history))
        else:
            typer.echo("\n".join(study_lines(ledger.spec, history)))
        return
    found = explain(ledger, trial)
    if as_json:
        print_json(**data(ledger.spec, found))
        return
    for line in lines(ledger.spec, found):
        typer.echo(line)


def write_study_report(
    study: StudyArgument,
    out: Annotated[Path | None, typer.Option(help="The folder to write to; report-NAME by default.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
) -> None:
    """Write the study's report to a folder."""
    from hpo_flows.cli.views.report import write

    write(study, out, browse=open_)


def ui(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study file (YAML), or the name of a study.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
    open_: Annotated[bool, typer.Option("--open", help="Open the address in a browser.")] = False,
) -> None:
    """Open MLflow's UI over the tracking store, on the trials of a study if one is given."""
    from hpo_flows.cli.views.pages import show

    show(study, port, browse=open_)
