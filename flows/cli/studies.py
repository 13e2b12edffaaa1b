"""The commands on whole studies: list, export and delete."""

from __future__ import annotations

import datetime
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo_core.base.errors import InputError, StudyUnknown
from hpo_core.ledger.ownership import now_ms
from hpo_core.tracking.connection import check_there, connect_to_read, tracking_uri
from hpo_core.tracking.credentials import redact
from hpo_flows.cli.common import JsonOption, StudyArgument, open_stored, print_json

if TYPE_CHECKING:
    from hpo_core.ledger.ledger import Ledger
    from hpo_core.lineage.listing import ListedStudy


class Format(StrEnum):
    """What ``hpo export`` writes."""

    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def list_studies(as_json: JsonOption = False) -> None:
    """List the studies of the store, the one that was active last first."""
    from hpo_core.lineage import listing

    try:
        check_there()
        studies = listing.list_studies(connect_to_read())
    except StudyUnknown:
        studies = []
    if as_json:
        print_json(studies=[_data(study) for study in studies])
    elif not studies:
        store = redact(tracking_uri())
        typer.echo(f"no study in the MLflow store {store} yet; hpo init writes a first one", err=True)
    else:
        _print_table(studies)


def _data(study: ListedStudy) -> dict[str, Any]:
    from hpo_flows.reports.front import best_facts

    spec, history = study.spec, study.history
    best = history.incumbent
    facts = dict.fromkeys(("best", "best_trial", "metric", "direction")) if spec is None else best_facts(spec, history)
    if study.winner is not None:
        facts |= {"best": study.final, "best_trial": study.winner}
    return {
        "study": study.name,
        "state": study.state.value,
        "paused": study.paused,
        "complete": len(history.complete),
        "running": len(history.under_way),
        "failed": len(history.failed),
        "outside": len(history.outside),
        "trials": None if spec is None else spec.stop.trials,
        **facts,
        "feasible": None if best is None else best.feasible,
        "winner": study.winner,
        "active": datetime.datetime.fromtimestamp(study.active / 1000, datetime.UTC).isoformat(timespec="seconds"),
        "experiment": None if spec is None else spec.experiment,
        "run_id": study.run.id,
    }


COLUMNS = ("study", "state", "done", "failed", "best", "active")

BEST_WIDTH, LEAST_WIDTH = 28, 12
"""How wide the column of the best value may be, which has the metric's name, and that of names has to be."""


def _print_table(studies: list[ListedStudy]) -> None:
    """Print a table as wide as the terminal; names that do not fit are cut."""
    from collections import Counter

    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hpo_flows.reports.text import one_line

    names = Counter(study.name for study in studies)
    rows = [[one_line(cell) for cell in _cells(study, unique=names[study.name] == 1)] for study in studies]
    widest = [max(cell_len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
    widest[4] = min(widest[4], BEST_WIDTH)
    console, gaps = Console(), 2 * (len(COLUMNS) - 1)
    widest[0] = min(widest[0], max(console.width - gaps - sum(widest[1:]), LEAST_WIDTH))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, width in zip(COLUMNS, widest, strict=True):
        right = name in ("done", "failed")
        table.add_column(name, justify="right" if right else "left", width=width, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _cells(study: ListedStudy, *, unique: bool) -> list[str]:
    from hpo_flows.reports.text import metric_value, none_feasible, number

    spec, history, active = study.spec, study.history, ago(now_ms() - study.active)
    if spec is None:
        return [study.name, study.shown_state, "", "", "", active]
    name = study.name if unique else f"{study.name} (in {spec.experiment})"
    ended, total = spec.ended(history), spec.stop.trials  # as hpo status counts
    done = f"{ended}" if total is None else f"{ended}/{max(total, ended)}"
    incumbent, final = history.incumbent, study.final
    best = ""
    if incumbent is not None:
        best = f"{number(metric_value(spec, incumbent) if final is None else final)} {spec.metric}"
    if spec.metrics and incumbent is not None:
        best = f"front of {len(history.front)}"
    if incumbent is not None and not incumbent.feasible:
        best = none_feasible(spec, incumbent)
    return [name, study.shown_state, done, str(len(history.failed)), best, active]


def ago(milliseconds: int) -> str:
    """How long ago something was.

    >>> [ago(1000 * seconds) for seconds in (3, 200, 7300, 200_000)]
    ['now', '3 min ago', '2 h ago', '2 d ago']
    """
    minutes = max(milliseconds, 0) // 60_000
    if minutes < 1:
        return "now"
    if minutes < 60:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // (24 * 60)} d ago"


def export(
    study: StudyArgument,
    format_: Annotated[Format, typer.Option("--format", help="csv, json or parquet.")] = Format.CSV,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The file to write; standard output by default.")] = (
        None
    ),
    front: Annotated[
        bool, typer.Option("--front", help="With several metrics: only the trials on the Pareto front.")
    ] = False,
) -> None:
    """Write the trials of a study as a table, one row for each."""
    from hpo_flows.loop.final import choice_of
    from hpo_flows.reports import export as table

    if format_ is Format.PARQUET and out is None:
        raise InputError("--out", "it is missing, and Parquet cannot be printed", "name a file: --out trials.parquet")
    ledger = open_stored(study)
    spec, history = ledger.spec, ledger.load()
    if front and not spec.metrics:
        raise InputError("--front", f"the study has one metric, {spec.metric}", "leave it out; hpo best shows the best")
    columns, rows = table.columns(spec, history), table.rows(spec, history, choice_of(ledger, history))
    rows = [row for row in rows if not front or row[table.FRONT]]
    try:
        if format_ is Format.PARQUET:
            assert out is not None
            table.write_parquet(columns, rows, out)
        else:
            text = (table.csv_text if format_ is Format.CSV else table.json_text)(columns, rows)
            if out is None:
                sys.stdout.write(text)
            else:
                out.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        if out is None:
            raise
        raise InputError("--out", f"{out} cannot be written ({error.strerror or error})", "name another file") from None
    if out is not None:
        typer.echo(f"{len(rows)} trials of {spec.name} are in {out}")


def delete(
    study: StudyArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Move a study with its trials to MLflow's trash."""
    if not yes and not sys.stdin.isatty():
        raise InputError("--yes", "it is missing, and there is no terminal to ask on", f"hpo delete {study} --yes")
    ledger = open_stored(study)
    _check_idle(ledger)
    if not yes:
        typer.echo(_losses(ledger))
        if not typer.confirm("Delete it?"):
            typer.echo("nothing is deleted", err=True)
            raise typer.Exit(1)
    trials, run = len(ledger.load()), ledger.study_run
    ledger.discard()
    typer.echo(f"{ledger.spec.name}: deleted, with {_count(trials, 'trial')}")
    typer.echo("To restore it from MLflow's trash, until a gc:")
    typer.echo(f"  hpo ui; there the experiment {ledger.spec.experiment}, State: Deleted, mark its runs, Restore")
    typer.echo("or each run by its id, the study's own for example:")
    typer.echo(f"  mlflow runs restore --run-id {run.id}")


def _check_idle(ledger: Ledger) -> None:
    """Check that no flow works on a study, as far as its runs tell.

    Raises:
        InputError: One does, or may have just begun; :meth:`Ledger.discard` sees only what trains.
    """
    from hpo_core.lineage.listing import StudyState, study_state

    history, run = ledger.load(), ledger.study.check_there()
    live = bool(ledger.owners())
    if study_state(ledger.store, run, ledger.spec, history, live=live) is StudyState.RUNNING:
        problem = "a flow works on it now" if live else "a flow was at work within the last four minutes"
        raise InputError(
            f"study {ledger.spec.name!r}", problem, "end that first (hpo stop)" + ("" if live else ", or wait")
        )


def _losses(ledger: Ledger) -> str:
    """What is deleted with a study, and what is not."""
    spec, trials, evaluations = ledger.spec, len(ledger.load()), len(ledger.evaluation_runs())
    goes = [_count(trials, "trial"), *([_count(evaluations, "evaluation")] if evaluations else [])]
    lines = [
        f"Study {spec.name}" + ("" if spec.experiment == spec.name else f", in the experiment {spec.experiment}") + ":",
        f"  {', '.join(goes)} and its claims go to MLflow's trash;",
    ]
    if spec.champion is not None:
        lines.append(
            f"  the registered model {spec.champion.model} stays (a gc takes the files of this study's versions)."
        )
    else:
        lines.append("  registered models stay.")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
