"""The command line, ``hpo``: its commands, options and exit codes.

Exit codes: 0 done, 1 no trial returned a value, 2 bad input, 3 a server does not answer, 130 or 143 interrupted.
What loads numpy, pydantic or Prefect is imported inside the commands, so that ``hpo --help`` is instant.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo_core.base.errors import InputError, StudyFailed, TrackingRefusal, Unreachable
from hpo_core.study.names import model_name, study_name
from hpo_core.tracking.connection import connect, tracking_uri, ui_command
from hpo_core.tracking.credentials import redact
from hpo_flows.base import stopping
from hpo_flows.base.paths import home
from hpo_flows.cli import schedules
from hpo_flows.cli.schedules import Deployed, Plan
from hpo_flows.objectives.reference import Objective, search_path
from hpo_flows.workers.output import PRINTED

if TYPE_CHECKING:
    from hpo_core.ledger.ledger import Ledger
    from hpo_core.study.spec import StudySpec


app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Tune hyperparameters in Prefect flows, with MLflow as the only state.",
)

UsageError: type[Any] = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "ClickException")
"""What typer raises for an invalid command line: the error of click, or of its own copy in some releases."""


def _print_version(wanted: bool) -> None:
    from importlib.metadata import version

    if wanted:
        typer.echo(f"hpo-flows {version('hpo-flows')}")
        raise typer.Exit


@app.callback()
def _before_all(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A study file (YAML), or the name of a study.")]

StudyFileArgument = Annotated[str, typer.Argument(metavar="STUDY.yaml", help="A study file.")]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key: stop.minutes=5")
]


def _is_file(study: str) -> bool:
    if Path(study).suffix in (".yaml", ".yml") or "/" in study:
        return True
    try:
        return Path(study).is_file()
    except OSError:  # too long for a file name
        return False


def _load_spec(study: str, overrides: list[str]) -> StudySpec:
    from hpo_core.study.file import load_study

    return load_study(Path(study), overrides)


def _open(study: str) -> Ledger:
    """The stored study for a file or a name. Creates nothing."""
    from hpo_core.lineage.opening import find_study
    from hpo_core.lineage.series import find_current

    if _is_file(study):
        spec = _load_spec(study, [])
        return find_current(connect(), spec)
    name = study_name(study)
    return find_study(connect(), name)


def _search_path(study: str) -> tuple[str, ...]:
    """The folders searched for an objective: the working folder, then the study file's."""

    return search_path(study) if _is_file(study) else (os.getcwd(),)


@app.command()
def tune(
    study: StudyArgument,
    trials: Annotated[
        str | None, typer.Option(metavar="N", help="Total number of trials of the study; +N for N more.")
    ] = None,
    parallel: Annotated[int | None, typer.Option(help="Trials at a time.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Name of a strategy.")] = None,
    set_: SetOption = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what trials print, after the number of each.")
    ] = False,
) -> None:
    """Run a study, or go on with it."""
    from hpo_core.study.file import override_spec
    from hpo_flows.api import open_ledger, run
    from hpo_flows.reports.live import LiveProgress
    from hpo_flows.reports.terminal import print_summary

    overrides = list(set_ or [])
    if trials is not None:
        overrides.append(f"stop.trials={trials}")
    if parallel is not None:
        overrides.append(f"parallel={parallel}")
    if strategy is not None:
        overrides.append(f"strategy={json.dumps(strategy)}")
    spec = _load_spec(study, overrides) if _is_file(study) else override_spec(_open(study).spec, overrides)
    objective = Objective(spec.objective, _search_path(study))
    if not spec.runner.elsewhere:  # otherwise it must be importable there, not here
        objective.precheck()
    ledger = open_ledger(
        spec,
        on_message=lambda line: typer.echo(line, err=True),
        path=objective.path,
    )
    spec = ledger.spec
    if verbose and spec.runner.elsewhere:
        typer.echo(f"what trials print on other machines is not streamed; see {PRINTED} in their runs", err=True)
    try:
        with LiveProgress(spec, verbose=verbose) as observe:
            result = run(ledger, objective, observe)
    except KeyboardInterrupt as stopped:
        typer.echo("stopped; run the same command to go on", err=True)
        raise typer.Exit(128 + getattr(stopped, "number", 2)) from None
    print_summary(spec, result.history, result.reason, _ui_hint(ledger), choice=result.choice)
    if result.challenge is not None and spec.champion is not None:
        from hpo_flows.reports.text import challenge_line

        typer.echo(challenge_line(result.challenge, spec.champion.model))
    if result.best is None:
        raise typer.Exit(1)


CronOption = Annotated[str | None, typer.Option(metavar="LINE", help='When: "0 2 * * *" is two at night.')]

EveryOption = Annotated[float | None, typer.Option(metavar="SECONDS", help="How often, instead of --cron.")]

TimezoneOption = Annotated[str, typer.Option(metavar="ZONE", help="The timezone of --cron, such as Europe/Berlin.")]


@app.command()
def deploy(
    study: StudyFileArgument,
    cron: CronOption = None,
    every: EveryOption = None,
    timezone: TimezoneOption = "UTC",
    work_pool: Annotated[str, typer.Option(help="The work pool, of type process, whose workers run it.")] = "hpo",
    set_: SetOption = None,
) -> None:
    """Have Prefect's workers run a study on a schedule."""
    deployed = _deployed(study, cron, every, timezone, set_)
    plan = deployed.plan.told
    name = schedules.deploy(deployed, work_pool)
    typer.echo(f"{name} runs {plan}, in {deployed.folder}, once a worker is there:")
    typer.echo(f"  prefect worker start --pool {work_pool} --type process")


@app.command()
def serve(
    study: StudyFileArgument,
    cron: CronOption = None,
    every: EveryOption = None,
    timezone: TimezoneOption = "UTC",
    set_: SetOption = None,
) -> None:
    """Run a study on a schedule from this process, until Ctrl-C."""
    deployed = _deployed(study, cron, every, timezone, set_)
    typer.echo(f"{deployed.name} runs {deployed.plan.told} (Ctrl-C ends it)")
    schedules.serve(deployed)


def _deployed(study: str, cron: str | None, every: float | None, timezone: str, set_: list[str] | None) -> Deployed:
    """A study file with its plan. The file and its objective are checked now, not when the schedule is due."""

    plan = Plan(cron, every, timezone)
    overrides = list(set_ or [])
    spec = _load_spec(study, overrides)
    Objective(spec.objective, _search_path(study)).precheck()
    return Deployed(study, Path.cwd(), spec.name, plan, overrides)


@app.command()
def status(study: StudyArgument, as_json: JsonOption = False) -> None:
    """Say how far a study is."""
    from hpo_flows.reports.text import metric_value, skipped_line, status_line

    ledger = _open(study)
    spec, history = ledger.spec, ledger.load()
    best = history.incumbent
    if not as_json:
        if ledger.skipped:
            typer.echo(skipped_line(ledger.skipped), err=True)
        typer.echo(f"{spec.name}: {status_line(spec, history, 0.0)}")
        return
    _print_json(
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
        tracking_uri=_shown_uri(ledger),
    )


@app.command()
def best(study: StudyArgument, as_json: JsonOption = False) -> None:
    """Show the best trials and the configuration of the winner, or of the incumbent where no winner is chosen."""
    from rich.console import Console

    from hpo_flows.loop.final import choice_of
    from hpo_flows.reports.terminal import TOP, print_choice, trials_table
    from hpo_flows.reports.text import metric_value, ranked

    ledger = _open(study)
    spec, history = ledger.spec, ledger.load()
    incumbent = history.incumbent
    if incumbent is None:
        typer.echo(f"study {spec.name!r} has no complete trial yet", err=True)
        raise typer.Exit(1)
    choice = choice_of(ledger, history)
    if as_json:
        winner = None if choice is None else choice.winner
        best = incumbent if winner is None else winner.trial
        _print_json(
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


@app.command("explain")
def explain_trial(
    study: StudyArgument,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="The number of a trial.", min=0)],
    as_json: JsonOption = False,
) -> None:
    """Say why a trial has its configuration."""
    from hpo_core.lineage.replay import explain
    from hpo_flows.reports.explanation import data, lines

    ledger = _open(study)
    found = explain(ledger, trial)
    if as_json:
        _print_json(**data(ledger.spec, found))
        return
    for line in lines(ledger.spec, found):
        typer.echo(line)


@app.command("report")
def write_study_report(
    study: StudyArgument,
    out: Annotated[Path | None, typer.Option(help="The folder to write to; report-NAME by default.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
) -> None:
    """Write the study's report and plots to a folder."""
    import webbrowser

    from hpo_flows.reports.html.publish import write_report

    ledger = _open(study)
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


@app.command()
def stop(study: StudyArgument) -> None:
    """End a study in order: running trials finish, nothing new starts."""
    ledger = _open(study)
    running = len(ledger.load().running)
    ledger.study.request_stop()
    typer.echo(f"{ledger.spec.name}: no further trial starts; {running} running ones finish")


@app.command()
def promote(
    study: StudyArgument,
    force: Annotated[bool, typer.Option("--force", help="Against the verdict, or after a rollback.")] = False,
    reason: Annotated[str, typer.Option(help="Why; kept in the registry.")] = "",
) -> None:
    """Make the study's registered model the champion of its registered model."""
    from hpo_core.champion import registry

    typer.echo(registry.promote(_open(study), force=force, reason=reason))


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model in MLflow's registry.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the registry.")] = "",
) -> None:
    """Make the champion before the present one the champion again."""
    from hpo_core.champion import registry

    undone, champion = registry.rollback(connect(), model_name(model), reason)
    typer.echo(f"{model}: version {champion} is the champion again; version {undone} is rolled back")


@app.command()
def validate(study: StudyArgument, set_: SetOption = None) -> None:
    """Check a study file and that its objective can be imported; nothing is run."""

    spec = _load_spec(study, list(set_ or []))
    Objective(spec.objective, _search_path(study), needs_hypergradient=spec.needs_hypergradient).load()
    size = spec.search_space.size
    configurations = "endless" if size == float("inf") else f"up to {size:,.0f}"
    typer.echo(
        f"{study} is valid: study {spec.name!r}, {spec.search_space.dimensions} parameters "
        f"({configurations} configurations), strategy {spec.strategy.name!r}"
    )


@app.command()
def doctor(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study file (YAML), or a name.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="End the trials whose flow is dead, as failed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check installation, store and study: a line each, with the remedy. Exit code 1 if there is a problem."""
    from hpo_flows.cli.doctor.checks import examine
    from hpo_flows.cli.doctor.findings import PATIENCE_SECONDS, Finding, Level

    spec = _load_spec(study, []) if study is not None and _is_file(study) else None
    name = spec.name if spec is not None else None if study is None else study_name(study)
    findings: list[Finding] = []
    for finding in examine(
        lambda: connect(patience=PATIENCE_SECONDS),
        spec,
        name,
        _search_path(study or ""),
        home(),
        repair=repair,
    ):
        findings.append(finding)
        if not as_json:
            typer.echo(finding)
    healthy = all(finding.level is not Level.PROBLEM for finding in findings)
    if as_json:
        _print_json(study=study, healthy=healthy, findings=[vars(finding) for finding in findings])
    if not healthy:
        raise typer.Exit(1)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow's UI over the tracking store."""

    uri = tracking_uri()
    if uri.startswith("http"):
        typer.echo(f"The tracking server has its own UI: {_redacted(uri)}")
        return
    connect(uri)
    typer.echo(f"MLflow's UI is at http://127.0.0.1:{port} (Ctrl-C ends it)")
    raise typer.Exit(subprocess.call(ui_command(uri, port=port)))


def _redacted(uri: str) -> str:

    return redact(uri)


def _shown_uri(ledger: Ledger) -> str:
    return _redacted(ledger.store.uri)


def _ui_hint(ledger: Ledger) -> str:
    uri = ledger.store.uri
    if uri.startswith("http"):
        return f"{_redacted(uri)}/#/experiments/{ledger.study_run.experiment}/runs/{ledger.study_run.id}"
    return "hpo ui (or make ui), then http://127.0.0.1:5000"


def _print_json(**fields: Any) -> None:
    print(json.dumps(fields))


def main() -> None:
    """The console script: typer's commands, with errors that users can act on instead of tracebacks."""

    stopping.begin()
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        print(f"error: {_usage_line(error)}", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort) as stopped:
        cause = stopped.__cause__
        # For example a pipe that ended early, which typer takes for Ctrl-D at a prompt.
        code = _explain(cause) if isinstance(cause, EOFError) else 128 + getattr(stopped, "number", 2)
    except Exception as error:
        code = _explain(error)
    sys.exit(code or 0)


UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST}
"""The errors for a folder that is read-only, full, or not a folder."""


def _usage_line(error: Any) -> str:
    """One line that says what is wrong with a command line, and where to find help."""
    problem = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{problem}; see {'hpo' if context is None else context.command_path} --help"


def _explain(error: Exception) -> int:

    if isinstance(error, StudyFailed):
        print(f"error: {error}", file=sys.stderr)
        return 1
    if isinstance(error, InputError):
        print(f"error: {error}", file=sys.stderr)
        return 2
    if isinstance(error, Unreachable | TrackingRefusal):
        print(f"error: {error}", file=sys.stderr)
        return 3
    if isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename is not None:
        print(f"error: {error.filename} cannot be written ({error.strerror}); see to it and try again", file=sys.stderr)
        return 3
    raise error
