"""The commands that look at a study: status, best, explain, report and ui."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo_core.base.errors import InputError, TrackingError
from hpo_core.study.names import file_name
from hpo_core.tracking.connection import connect, tracking_uri, ui_command
from hpo_flows.base.stopping import ENDINGS
from hpo_flows.cli.common import JsonOption, StudyArgument, open_stored, print_json, shown_uri, ui_hint

if TYPE_CHECKING:
    from hpo_core.history.history import History
    from hpo_core.history.trial import Trial
    from hpo_core.ledger.ledger import Ledger
    from hpo_core.selection.final_choice import Choice
    from hpo_core.study.spec import StudySpec
    from mlflow_server.processes import Process


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
    from hpo_flows.reports.text import skipped_line

    ledger = open_stored(study)
    if watch is not None:
        _watch(ledger, watch, as_json)
        return
    history = ledger.load()
    if as_json:
        _print_status(ledger, history)
        return
    if ledger.skipped:
        typer.echo(skipped_line(ledger.skipped), err=True)
    paused = f"paused (hpo resume {shlex.quote(ledger.spec.name)})  |  " if ledger.study.instructions.paused else ""
    typer.echo(f"{ledger.spec.name}: {paused}{_progress(ledger, history)}")


def _progress(ledger: Ledger, history: History) -> str:
    """A study's progress in one line, what waits to be tried, and why it has ended, if it has."""
    from hpo_core.ledger.study_run import why_ended, winner_of
    from hpo_flows.reports.text import status_line

    why, winner = why_ended(ledger.study_run, history), winner_of(ledger.study_run, history)
    chosen = "" if winner is None else f"  |  winner trial {winner}"
    count = len(ledger.spec.waiting(history, ledger.study.instructions.queue))
    queue = f"  |  {count} enqueued" if count else ""
    return f"{status_line(ledger.spec, history, 0.0)}{chosen}{queue}" + (f"  |  ended: {why}" if why else "")


def _watch(ledger: Ledger, seconds: float, as_json: bool) -> None:
    """Show a study's progress until it is over: in place on a terminal, elsewhere a line each time."""
    import contextlib
    import time

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from hpo_core.lineage.listing import StudyState, shown_state, study_state

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
            line = f"{spec.name}: {shown_as}  |  {_progress(ledger, history)}"
            if shown is not None:
                shown.update(Text(line), refresh=True)
            elif as_json:
                _print_status(ledger, history, state=state.value)
            else:
                typer.echo(line)
            sys.stdout.flush()
            if state is not StudyState.RUNNING:
                return
            time.sleep(seconds)


def _print_status(ledger: Ledger, history: History, **more: str) -> None:
    from hpo_core.ledger.study_run import why_ended, winner_of
    from hpo_flows.reports.front import best_facts

    spec = ledger.spec
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
        **best_facts(spec, history),
        winner=winner_of(ledger.study_run, history),
        experiment=spec.experiment,
        run_id=ledger.study_run.id,
        tracking_uri=shown_uri(ledger),
        **more,
    )


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
    from rich.console import Console

    from hpo_core.selection.final_choice import best_front, best_trial
    from hpo_core.study.preference import preference_of
    from hpo_flows.loop.final import choice_of
    from hpo_flows.reports.ending import as_yaml
    from hpo_flows.reports.terminal import best_table, print_choice
    from hpo_flows.reports.text import certainty_lines, metric_value, outside_lines, tuning_lines

    if as_json and yaml:
        raise InputError("--yaml", "it is given together with --json", "give one of them")
    ledger = open_stored(study)
    spec, history = ledger.spec, ledger.load()
    incumbent = history.incumbent
    if incumbent is None:
        typer.echo(f"study {spec.name!r} has no complete trial yet", err=True)
        raise typer.Exit(1)
    choice = choice_of(ledger, history)
    winner = None if choice is None else choice.winner
    best, what, front = best_trial(history, choice, spec.stands_for), "", best_front(history, choice)
    assert best is not None
    if prefer:
        wanted = preference_of(prefer, spec.objectives)
        best, what = wanted.choose(front, spec.objectives), f"preferred by {wanted}"
    if yaml:
        typer.echo("first:\n  - " + "\n    ".join(as_yaml(best.config) or ["{}"]))
        return
    if spec.metrics:
        _show_front(ledger, history, best, what, choice, as_json=as_json)
        return
    if as_json:
        print_json(
            study=spec.name,
            trial=best.number,
            value=metric_value(spec, best),
            metric=spec.metric,
            config=dict(best.config),
            metrics=dict(best.metrics),
            feasible=(best if winner is None else winner.averaged).feasible,
            **_certainty(history),
            tuning=_tuning(spec, history, choice),
            run_id=best.run_id,
            incumbent=incumbent.number,
            final=None if winner is None else {"mean": spec.sign * winner.mean, "error": winner.standard_error},
            test=None if choice is None or choice.test is None else dict(choice.test.metrics),
        )
        return
    Console().print(best_table(spec, history, f"Best trials of {spec.name} by {spec.metric}"))
    if choice is not None and choice.standings:
        print_choice(spec, history, choice, Console())
    if choice is None or choice.winner is None:
        remarks = [*certainty_lines(spec, history), *tuning_lines(spec, history, choice)]
        remarks += outside_lines(spec, history)
        for line in [*as_yaml(incumbent.config), *(f"# {each}" for each in remarks)]:
            typer.echo(line)
    _show_places(ledger, history, best, choice)


def _show_front(
    ledger: Ledger, history: History, point: Trial, what: str, choice: Choice | None, *, as_json: bool
) -> None:
    """Show the Pareto front, and the point of it that was chosen, or the one that stands for it."""
    from rich.console import Console

    from hpo_core.selection.final_choice import best_front
    from hpo_flows.reports.front import front_data, prefer_hint, standing_line
    from hpo_flows.reports.terminal import front_table, front_title, print_choice, print_point
    from hpo_flows.reports.text import metric_values

    spec, console, front = ledger.spec, Console(), best_front(history, choice)
    point = next((trial for trial in front if trial.number == point.number), point)
    if as_json:
        print_json(
            study=spec.name,
            trial=point.number,
            values=metric_values(spec, point),
            metrics=dict(spec.metrics),
            config=dict(point.config),
            feasible=point.feasible,
            run_id=point.run_id,
            front=front_data(spec, front),
            hypervolume=history.hypervolume,
            winner=None if choice is None or choice.winner is None else choice.winner.trial.number,
            test=None if choice is None or choice.test is None else dict(choice.test.metrics),
        )
        return
    console.print(front_table(spec, front, front_title(spec, history, front)))
    if choice is not None and choice.standings and not what:
        print_choice(spec, history, choice, console)
    if choice is None or choice.winner is None or what:
        print_point(spec, history, point, what or standing_line(spec, front), console)
    if not what and len(front) > 1:
        typer.echo(f"Another point: {prefer_hint(spec, front)}")
    _show_places(ledger, history, point, choice)


def _show_places(ledger: Ledger, history: History, best: Trial, choice: Choice | None) -> None:
    """Say where the model of the best trial and the study are."""
    from hpo_flows.reports.ending import kept_model, model_lines, serve_line

    if (model := kept_model(ledger, history, best, choice)) is not None:
        for line in [f"Model: {model.uri}, loaded by", *model_lines(model), "and served by", serve_line(model)]:
            typer.echo(line)
    typer.echo(f"MLflow: {ui_hint(ledger)}")


def _certainty(history: History) -> dict[str, Any]:
    """How sure the incumbent is, and how lucky the luckiest trial was, for JSON."""
    from hpo_core.selection.repeats import winner_of

    found = winner_of(history)
    if found is None:
        return {}
    error, luck = (None if math.isnan(value) else value for value in (found.error, found.luck))
    return {
        "trainings": found.trial.observations,
        "error": error,
        "luckiest": {"trial": found.luckiest.number, "luck": luck},
    }


def _tuning(spec: StudySpec, history: History, choice: Choice | None) -> dict[str, Any] | None:
    """The winner beside the first trial, for JSON; null stands for what is not known."""
    from hpo_core.selection.overtuning import overtuning_of

    found = overtuning_of(history, choice, spec.metric, spec.sign)
    if found is None:
        return None
    told: dict[str, Any] = {}
    for name, scores in (("winner", found.winner), ("first", found.first)):
        values = {"search": scores.searched, "confirmed": scores.confirmed, "test": scores.test}
        shown = {key: None if math.isnan(value) else spec.sign * value for key, value in values.items()}
        told[name] = {
            "trial": scores.trial.number,
            **shown,
            "error": None if math.isnan(scores.error) else scores.error,
        }
    gain, error = (None if math.isnan(value) else value for value in (found.gain, found.error))
    return {**told, "gain": gain, "error": error, "first_as_good": found.in_vain}


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
    import webbrowser

    from hpo_core.ledger.study_run import why_ended
    from hpo_flows.loop.stages import Stages
    from hpo_flows.reports.html.curves import CurveReader
    from hpo_flows.reports.html.publish import place_of, write_report

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
            raise InputError("--port", problem, f"end that, or choose another port: --port {port + 1}")
    server = Process(
        "MLflow's UI",
        ui_command(uri, port=port),
        http_answers(f"http://127.0.0.1:{port}/health"),
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # 2 GB for what no study uses
        log=Path(os.devnull),
    )
    typer.echo("MLflow's UI starts ...", err=True)
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
            f"Trials by {spec.metric}" if spec.metrics else "Trials, best first": trials(),
            "Charts": trials(charts=True),
            "Study": run_url(server, run.experiment, run.id),
        }
    for name, address in pages.items():
        typer.echo(f"{name}: {address}")
    if browse and not webbrowser.open(next(iter(pages.values()))):
        typer.echo("no browser could be started", err=True)
