"""The commands that check and run a study: validate and tune."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from hpo_core.base.errors import InputError
from hpo_core.study.names import is_file
from hpo_flows.cli.common import (
    ChangeSpaceOption,
    SetOption,
    StudyArgument,
    load_spec,
    open_stored,
    overrides_of,
    search_path,
)
from hpo_flows.loop.temporary_server import start_early
from hpo_flows.objectives.reference import Objective
from hpo_flows.workers.output import PRINTED

if TYPE_CHECKING:
    from hpo_core.ledger.ledger import Ledger
    from hpo_core.study.spec import StudySpec
    from hpo_flows.reports.live import LiveProgress
    from hpo_flows.results import StudyResult


def validate(
    study: StudyArgument,
    set_: SetOption = None,
    change_space: Annotated[
        bool, typer.Option("--change-space", help="Say what becomes of the study's trials in the file's space.")
    ] = False,
) -> None:
    """Check a study file and that its objective, if any, can be imported; nothing is run."""
    spec = load_spec(study, list(set_ or []))
    if change_space:
        _preview(study, spec)
    if spec.objective:
        with _without_chatter():
            Objective(spec.objective, search_path(study), needs_hypergradient=spec.needs_hypergradient).load()
    size = spec.search_space.size
    configurations = "infinitely many" if size == float("inf") else f"up to {size:,.0f}"
    count = spec.search_space.dimensions
    typer.echo(
        f"{study} is valid: study {spec.name!r}, {count} parameter{'' if count == 1 else 's'} "
        f"({configurations} configurations), strategy {spec.strategy.name!r}"
    )
    given = "".join(f" --set {shlex.quote(each)}" for each in set_ or []) + " --change-space" * change_space
    if spec.objective:
        typer.echo(f"start it: hpo tune {shlex.quote(study)}{given}")
    else:
        typer.echo(f"it has no objective: ask for its trials with hpo ask {shlex.quote(study)}")


def _preview(study: str, spec: StudySpec) -> None:
    """Say what becomes of the trials of a study that goes on in another space. Changes nothing.

    Raises:
        StudyConflict: More than its space differs, so that it cannot go on.
    """
    from hpo_core.lineage.opening import as_resumed
    from hpo_core.lineage.space_change import change_space
    from hpo_core.study.editions import has_changed
    from hpo_core.study.resume import CHANGES_SPACE, compare

    ledger = open_stored(study)
    given = as_resumed(spec, ledger.spec)
    changed = {key: getattr(given, key) for key in (*CHANGES_SPACE, "experiment")}
    compare(ledger.spec.model_copy(update=changed), given)
    if not has_changed(ledger.spec, given):
        typer.echo(f"{ledger.spec.name}: the study has this space already")
        return
    for line in change_space(ledger, given).lines():
        typer.echo(line)


def check_strategy(
    name: Annotated[str, typer.Argument(metavar="STRATEGY", help="module:Class, an entry point, or one of ours.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the strategy: start=5")
    ] = None,
    seed: Annotated[int, typer.Option(help="From which the histories are drawn that it is asked about.")] = 0,
) -> None:
    """Hold a strategy to the laws that all strategies keep. Exit code 1 if it breaks one."""
    from hpo_core.strategies.contract.check import examine
    from hpo_core.study.file import settings_of

    broken = count = 0
    for verdict in examine(name, settings_of(set_ or []), seed):
        count += 1
        mark, indent = "FAIL" if verdict.counter_example else "ok", " " * 6
        typer.echo(textwrap.fill(verdict.law, 80, initial_indent=f"{mark:6}", subsequent_indent=indent))
        if verdict.counter_example:
            broken += 1
            typer.echo(textwrap.fill(verdict.counter_example, 80, initial_indent=indent, subsequent_indent=indent))
    if broken:
        typer.echo(f"{name} breaks {broken} of {count} laws")
        raise typer.Exit(1)
    typer.echo(f"{name} keeps all {count} laws")


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep back what is written to stderr, unless an error ends it: TensorFlow greets with 14 lines, from C++."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


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
    debug: Annotated[
        bool, typer.Option("--debug", help="Train in this process, one trial at a time, so that breakpoint() works.")
    ] = False,
    change_space: ChangeSpaceOption = False,
) -> None:
    """Run a study, or go on with it."""
    from hpo_flows.reports.live import LiveProgress

    if debug and parallel not in (None, 1):
        raise InputError("--parallel", f"{parallel} trials at a time cannot be debugged", "leave out one of the two")
    overrides = overrides_of(set_, trials=trials, parallel=parallel, strategy=strategy)
    try:
        with LiveProgress(verbose=verbose and not debug, moving=not debug) as live:
            live.say(f"reading {study} ...")  # before what takes its time to import
            ledger, result = _run(study, overrides, live, verbose=verbose, debug=debug, change_space=change_space)
    except KeyboardInterrupt as stopped:
        logging.raiseExceptions = False  # it also ended Prefect's temporary server, which can take no more logs
        typer.echo("stopped; run the same command to go on", err=True)
        raise typer.Exit(128 + getattr(stopped, "number", 2)) from None
    from hpo_flows.reports.ending import places_of
    from hpo_flows.reports.terminal import print_summary
    from hpo_flows.reports.text import challenge_line

    spec = ledger.spec
    places = places_of(ledger, result.history, result.best, result.choice)
    print_summary(spec, result.history, result.reason, places, choice=result.choice)
    if result.challenge is not None and spec.champion is not None:
        typer.echo(challenge_line(result.challenge, spec.champion.model))
    if result.best is None:
        raise typer.Exit(1)


def _run(
    study: str, overrides: list[str], live: LiveProgress, *, verbose: bool, debug: bool, change_space: bool
) -> tuple[Ledger, StudyResult]:
    """Open the study and run it."""
    from hpo_core.ledger.decode import written_spec
    from hpo_core.study.file import override_spec
    from hpo_core.study.isolation import for_debugging
    from hpo_flows.api import early_workers, open_ledger, run

    if is_file(study):
        spec = given = load_spec(study, overrides)
    else:
        stored = open_stored(study)
        spec = override_spec(stored.spec, overrides)
        # Without what hpo set has changed, which holds in any case, also if that was said only a second ago.
        given = override_spec(written_spec(stored.study_run), overrides)
    objective = Objective(spec.objective, search_path(study))
    here, left_out = for_debugging(spec) if debug else (spec, [])
    if left_out:
        apply = "does not apply" if len(left_out) == 1 else "do not apply"
        live.tell(f"debugging: trials train in this process, so {' and '.join(left_out)} {apply}")
    if not here.runner.elsewhere:  # otherwise it must be importable there, not here
        objective.precheck()
        start_early()  # it comes up while MLflow is imported
    with early_workers(here, objective) as pool:
        ledger = open_ledger(given, on_message=live.tell, path=objective.path, change_space=change_space)
        if debug:
            ledger.spec, _ = for_debugging(ledger.spec)  # of this run alone: the stored study stays as it is
        live.begin(ledger.spec)
        if verbose and ledger.spec.runner.elsewhere:
            live.tell(f"what trials print on other machines is not streamed; see {PRINTED} in their runs")
        return ledger, run(ledger, objective, live, pool)
