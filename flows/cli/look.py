"""The commands that look at a study: status, best, explain, report and ui."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpo_core.base.errors import InputError, TrackingError
from hpo_core.tracking.connection import connect, tracking_uri, ui_command
from hpo_flows.base.stopping import ENDINGS
from hpo_flows.cli.common import JsonOption, StudyArgument, open_stored, print_json, shown_uri

if TYPE_CHECKING:
    from hpo_core.ledger.ledger import Ledger
    from mlflow_server.processes import Process


def status(study: StudyArgument, as_json: JsonOption = False) -> None:
    """Say how far a study is."""
    from hpo_flows.reports.text import metric_value, skipped_line, status_line

    ledger = open_stored(study)
    spec, history = ledger.spec, ledger.load()
    best = history.incumbent
    if not as_json:
        if ledger.skipped:
            typer.echo(skipped_line(ledger.skipped), err=True)
        typer.echo(f"{spec.name}: {status_line(spec, history, 0.0)}")
        return
    print_json(
        study=spec.name,
        complete=len(history.complete),
        running=len(history.running),
        failed=len(history.failed),
        skipped=len(ledger.skipped),
        trials=spec.stop.trials,
        best=metric_value(spec, best),
        best_trial=None if best is None else best.number,
        metric=spec.metric,
        direction=spec.direction,
        experiment=spec.experiment,
        run_id=ledger.study_run.id,
        tracking_uri=shown_uri(ledger),
    )


def best(study: StudyArgument, as_json: JsonOption = False) -> None:
    """Show the best trials and the configuration of the winner, or of the incumbent where no winner is chosen."""
    from rich.console import Console

    from hpo_flows.loop.final import choice_of
    from hpo_flows.reports.terminal import TOP, print_choice, trials_table
    from hpo_flows.reports.text import metric_value, ranked

    ledger = open_stored(study)
    spec, history = ledger.spec, ledger.load()
    incumbent = history.incumbent
    if incumbent is None:
        typer.echo(f"study {spec.name!r} has no complete trial yet", err=True)
        raise typer.Exit(1)
    choice = choice_of(ledger, history)
    if as_json:
        winner = None if choice is None else choice.winner
        best = incumbent if winner is None else winner.trial
        print_json(
            study=spec.name,
            trial=best.number,
            value=metric_value(spec, best),
            metric=spec.metric,
            config=dict(best.config),
            metrics=dict(best.metrics),
            run_id=best.run_id,
            incumbent=incumbent.number,
            final=None if winner is None else {"mean": spec.sign * winner.mean, "error": winner.standard_error},
            test=None if choice is None or choice.test is None else dict(choice.test.metrics),
        )
        return
    Console().print(trials_table(spec, ranked(history)[:TOP], f"Best trials of {spec.name} by {spec.metric}"))
    if choice is not None and choice.standings:
        print_choice(spec, choice, Console())
        if choice.winner is not None:
            return
    for name, value in incumbent.config.items():
        typer.echo(f"{name} = {value}")


def explain_trial(
    study: StudyArgument,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="The number of a trial.", min=0)],
    as_json: JsonOption = False,
) -> None:
    """Say why a trial has its configuration."""
    from hpo_core.lineage.replay import explain
    from hpo_flows.reports.explanation import data, lines

    ledger = open_stored(study)
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
    """Write the study's report and plots to a folder."""
    import webbrowser

    from hpo_flows.reports.html.publish import write_report

    ledger = open_stored(study)
    folder = out or Path(f"report-{ledger.spec.name}")
    try:
        path = write_report(ledger.spec, ledger.load(), folder)
    except OSError as error:
        raise InputError(
            "--out", f"the report cannot be written to {folder} ({error})", "name another folder"
        ) from None
    typer.echo(f"The report is {path}")
    if open_ and not webbrowser.open(path.absolute().as_uri()):
        typer.echo("no browser could be started", err=True)


def ui(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study file (YAML), or the name of a study.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
    open_: Annotated[bool, typer.Option("--open", help="Open the address in a browser.")] = False,
) -> None:
    """Open MLflow's UI over the tracking store, on the trials of a study if one is given."""

    uri = tracking_uri()
    ledger = None if study is None else open_stored(study)
    if uri.startswith("http"):
        _show_pages(uri, ledger, open_)
        return
    if ledger is None:
        connect(uri)
    try:
        with _served(uri, port) as server:
            _show_pages(f"http://127.0.0.1:{port}", ledger, open_)
            typer.echo("Ctrl-C ends it")
            while not server.ended:
                time.sleep(0.2)
            raise TrackingError(server.obituary())
    except KeyboardInterrupt as stopped:
        raise typer.Exit(128 + getattr(stopped, "number", signal.SIGINT)) from None


@contextlib.contextmanager
def _served(uri: str, port: int) -> Iterator[Process]:
    """MLflow's UI over a database, from its first answer to the end of the block."""
    from mlflow_server.processes import Process, http_answers

    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            problem = f"something answers at 127.0.0.1:{port} already"
            raise InputError("--port", problem, "end that, or choose another port: hpo ui --port 5001")
    server = Process(
        "MLflow's UI",
        ui_command(uri, port=port),
        http_answers(f"http://127.0.0.1:{port}/health"),
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # 2 GB for what no study uses
        log=Path(os.devnull),
    )
    ENDINGS.append(server.stop)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        ENDINGS.remove(server.stop)


def _show_pages(server: str, ledger: Ledger | None, browse: bool) -> None:
    """Print the addresses of a study's pages, or the one of all experiments, and open the first in a browser."""
    import webbrowser

    from hpo_flows.reports.links import experiments_url, run_url, trials_url

    if ledger is None:
        pages = {"MLflow's UI": experiments_url(server)}
    else:
        spec, run = ledger.spec, ledger.study_run
        trials = partial(trials_url, server, run.experiment, spec.metric, spec.direction == "minimize", study=spec.name)
        pages = {
            "Trials, best first": trials(),
            "Charts": trials(charts=True),
            "Study": run_url(server, run.experiment, run.id),
        }
    for name, address in pages.items():
        typer.echo(f"{name}: {address}")
    if browse and not webbrowser.open(next(iter(pages.values()))):
        typer.echo("no browser could be started", err=True)
