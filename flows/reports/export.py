"""Lays a study's trials out as a table: plain rows, for data frames, CSV, JSON and Parquet."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.selection.final_choice import Choice, Standing, best_front
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.text import metric_value

REPEATS = ("repeat_of", "mean", "standard_error", "trainings")
"""The columns about all trainings of a configuration."""

OUTSIDE = "outside"
"""The column that says why a trial lies outside the space as it is now; only where trials do."""

FRONT = "on_front"
"""The column of studies with several metrics that says which trials are on the Pareto front."""

WINNER = "winner"
"""The column of studies with a final choice that says which trial won it; see :func:`rows`."""

FEASIBLE = "feasible"
"""The column of studies with limits that says whether a configuration keeps them, by the mean of its trainings."""

PARAMS, METRICS, FINAL = "params.", "metrics.", "final."
"""Prefixes of the columns of parameters, metrics and means over folds, so that no name collides with another column."""


NUMBERS = ("value", "mean", "standard_error", "fidelity", "seconds")


def is_number(column: str) -> bool:
    """Whether all values of a column are floats or missing."""
    return column in NUMBERS or column.startswith((METRICS, FINAL))


def columns(spec: StudySpec, history: History) -> list[str]:
    """The columns of :func:`rows`, also of a study without trials."""
    logged = _logged(spec, history)
    first = ["number", "state", *([FRONT] if spec.metrics else ["value"]), *REPEATS]
    first += [FEASIBLE] if spec.limits else []
    first += [WINNER, *_final(spec, None)] if spec.final is not None else []
    middle = [*(f"{PARAMS}{name}" for name in _parameters(spec, history)), *(f"{METRICS}{name}" for name in logged)]
    last = ["start", "end", "seconds", "reason", *([OUTSIDE] if history.outside else []), "run_id"]
    return [*first, "fidelity", *middle, *last]


def _parameters(spec: StudySpec, history: History) -> list[str]:
    """The parameters of the space, and those that trials outside it have."""
    return list(dict.fromkeys([*spec.space, *(name for trial in history.outside for name in trial.config)]))


def rows(spec: StudySpec, history: History, choice: Choice | None = None) -> list[dict[str, Any]]:
    """One row for each trial, ordered by number. All rows have the same columns in the same order.

    The columns are ``number``, ``state``, ``value`` (the study's metric of a complete trial, in its own direction; with
    several metrics there is ``on_front`` in its place, whether the trial is on the Pareto front),
    ``repeat_of`` (the trial whose configuration it trains again), ``mean``, ``standard_error`` and ``trainings`` (of
    all trainings of its configuration; they are those of the trial that is repeated in the rows of its repeats, too),
    ``feasible`` (of a complete trial of a study with limits: whether its configuration keeps them, by these means),
    ``winner``, ``final.METRIC`` and ``final.METRIC_standard_error`` (of a study with a final choice: whether the trial
    won it, and the mean over its folds; then ``on_front``, too, is by the folds),
    ``fidelity``, ``params.NAME`` for each parameter of the space, ``metrics.NAME`` for each metric that any trial
    logged (the study's own first), ``start`` and ``end`` (``datetime`` in UTC), ``seconds``, ``reason`` and ``run_id``.
    A value that does not exist is None: that of an inactive parameter, the end of a running trial.
    """
    parameters, logged = _parameters(spec, history), _logged(spec, history)
    means = {trial.number: trial for trial in history.merged}
    front = {trial.number for trial in best_front(history, choice)}
    finalists = {} if choice is None else {each.trial.number: each for each in choice.standings}
    winner = None if choice is None or choice.winner is None else choice.winner.trial.number
    return [
        {
            "number": trial.number,
            "state": trial.state.value,
            **({FRONT: trial.number in front} if spec.metrics else {"value": metric_value(spec, trial)}),
            **_certainty(spec, history, trial, means),
            **({WINNER: trial.number == winner, **_final(spec, finalists.get(trial.number))} if spec.final else {}),
            "fidelity": trial.fidelity,
            **{f"{PARAMS}{name}": trial.config.get(name) for name in parameters},
            **{f"{METRICS}{name}": trial.metrics.get(name) for name in logged},
            "start": _moment(trial.start),
            "end": None if trial.end is None else _moment(trial.end),
            "seconds": None if trial.end is None else (trial.end - trial.start) / 1000,
            "reason": trial.reason,
            **({OUTSIDE: "; ".join(f"{k}: {v}" for k, v in trial.outside.items())} if history.outside else {}),
            "run_id": trial.run_id,
        }
        for trial in history.every
    ]


def _certainty(spec: StudySpec, history: History, trial: Trial, means: Mapping[int, Trial]) -> dict[str, Any]:
    """The columns about all trainings of a trial's configuration."""
    own = means.get(trial.number if trial.repeat_of is None else trial.repeat_of)
    if own is None or own.loss is None or trial.loss is None:
        none = {"repeat_of": trial.repeat_of, "mean": None, "standard_error": None, "trainings": None}
        return none | ({FEASIBLE: None} if spec.limits else {})
    error = history.noise.error(own)
    return {
        "repeat_of": trial.repeat_of,
        "mean": metric_value(spec, own),
        "standard_error": None if math.isnan(error) else error,
        "trainings": own.observations,
        **({FEASIBLE: own.feasible} if spec.limits else {}),
    }


def _final(spec: StudySpec, standing: Standing | None) -> dict[str, float | None]:
    """The columns of the means over a finalist's folds; None where there is none."""
    found: dict[str, float | None] = {}
    for i, each in enumerate(spec.objectives):
        own = None if standing is None else standing.by(i)
        values = (math.nan, math.nan) if own is None else (each.sign * own.mean, own.standard_error)
        for ending, value in zip(("", "_standard_error"), values, strict=True):
            found[f"{FINAL}{each.metric}{ending}"] = value if math.isfinite(value) else None
    return found


def _logged(spec: StudySpec, history: History) -> list[str]:
    """The metrics that trials have logged; the study's own come first, whether or not any has."""
    own = [each.metric for each in spec.objectives]
    return [*own, *sorted({name for trial in history.every for name in trial.metrics} - set(own))]


def _moment(milliseconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV with a line of headings; what is None is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_plain(row[name]) for name in columns] for row in rows)
    return text.getvalue()


def json_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a JSON array of objects, one a line; JSON has no NaN and infinity, so these are null."""
    lines = [json.dumps({name: _finite(_plain(row[name])) for name in columns}, allow_nan=False) for row in rows]
    return "[" + ",\n ".join(lines) + "]\n"


def write_parquet(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the rows to a Parquet file. A column of values of several types holds their JSON texts.

    Raises:
        OSError: The file cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    numbers, moment = pyarrow.float64(), pyarrow.timestamp("us", tz="UTC")
    types = {"number": pyarrow.int64(), "repeat_of": pyarrow.int64(), "trainings": pyarrow.int64()}
    types |= {"start": moment, "end": moment} | {name: numbers for name in columns if is_number(name)}
    arrays = {}
    for name in columns:
        values = [row[name] for row in rows]
        try:
            arrays[name] = pyarrow.array(values, types.get(name))
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
            texts = [None if value is None else json.dumps(_plain(value)) for value in values]
            arrays[name] = pyarrow.array(texts)
    parquet.write_table(pyarrow.table(arrays), path)


def _plain(value: Any) -> Any:
    """A value as text and numbers."""
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime.datetime) else value


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
