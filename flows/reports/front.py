"""Says what the Pareto front of a study with several metrics is: in words, as data, and as a table for MLflow."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hpo_core.selection.final_choice import Choice, best_front, best_trial
from hpo_flows.reports.text import metric_value, metric_values, number

if TYPE_CHECKING:
    from hpo_core.history.history import History
    from hpo_core.history.trial import Trial
    from hpo_core.study.spec import StudySpec

COMPROMISE = "the compromise, nearest to the best value in each metric"
"""How the views call the trial that stands for a front where one configuration is wanted, and nothing is preferred."""


def standing_line(spec: StudySpec, front: Sequence[Trial]) -> str:
    """Why this point represents the front; see ``stands_for`` of the study."""
    wanted = spec.preference
    if wanted is None:
        return COMPROMISE
    unmet = wanted.unmet(front)
    return f"{COMPROMISE} ({unmet})" if unmet else f"preferred by {wanted}"


def ranges(spec: StudySpec, front: Sequence[Trial]) -> list[str]:
    """The range of a front in each metric, the better end first, such as ``latency_ms 3 to 40``."""
    ranges = []
    for i, each in enumerate(spec.objectives):
        losses = [trial.outcome[i] for trial in front]
        best, worst = (number(each.sign * loss) for loss in (min(losses), max(losses)))
        ranges.append(f"{each.metric} {best}" + ("" if best == worst else f" to {worst}"))
    return ranges


def prefer_hint(spec: StudySpec, front: Sequence[Trial]) -> str:
    """An example of how one point of a front is chosen: by a condition that its compromise keeps."""
    last, middle = spec.objectives[-1], sorted(trial.outcome[-1] for trial in front)[len(front) // 2]
    sign = "<=" if last.sign > 0 else ">="
    return f'--prefer "{last.metric} {sign} {last.sign * middle:.3g}"'


def front_data(spec: StudySpec, front: Sequence[Trial]) -> list[dict[str, Any]]:
    """The points of a front as plain data, in order of the first metric."""
    return [
        {
            "trial": trial.number,
            "values": metric_values(spec, trial),
            "config": dict(trial.config),
            "run_id": trial.run_id,
        }
        for trial in front
    ]


def goal_facts(spec: StudySpec) -> dict[str, Any]:
    """What a study optimises, as plain data; with several metrics, ``metric`` and ``direction`` are None."""
    if not spec.metrics:
        return {"metric": spec.metric, "direction": spec.direction}
    return {"metric": None, "direction": None, "metrics": dict(spec.metrics)}


def front_facts(spec: StudySpec, history: History, choice: Choice | None = None) -> dict[str, Any]:
    """With several metrics the front instead of one best value, as plain data; empty with one."""
    if not spec.metrics:
        return {}
    points = [{"trial": trial.number, "values": metric_values(spec, trial)} for trial in best_front(history, choice)]
    return {"front": points, "hypervolume": history.hypervolume}


def best_facts(spec: StudySpec, history: History, choice: Choice | None = None) -> dict[str, Any]:
    """The best trial or the front, as plain data; after a final choice as its folds say, like a result in Python."""
    best, winner = best_trial(history, choice, spec.stands_for), None if choice is None else choice.winner
    value = metric_value(spec, best if winner is None else winner.averaged)
    found = {"best": value, "best_trial": None if best is None else best.number}
    return found | goal_facts(spec) | front_facts(spec, history, choice)


def winner_facts(spec: StudySpec, choice: Choice | None) -> dict[str, Any]:
    """The winner of the final choice and, with one metric, the mean over its folds, as plain data."""
    winner = None if choice is None else choice.winner
    if winner is None:
        return {"winner": None, "final": None}
    error = winner.standard_error if math.isfinite(winner.standard_error) else None  # JSON has no NaN
    final = None if spec.metrics else {"mean": spec.sign * winner.mean, "error": error}
    return {"winner": winner.trial.number, "final": final}


def front_rows(spec: StudySpec, front: Sequence[Trial]) -> tuple[list[str], list[list[Any]]]:
    """The columns and rows of a table of a front: trial, metrics, parameters, run."""
    metrics, names = [each.metric for each in spec.objectives], list(spec.space)
    rows: list[list[Any]] = []
    for trial in front:
        values = metric_values(spec, trial)
        config = [trial.config.get(name) for name in names]
        rows.append([trial.number, *(values[metric] for metric in metrics), *config, trial.run_id])
    taken = {"trial", "run_id", *metrics}
    return ["trial", *metrics, *(f"parameter {name}" if name in taken else name for name in names), "run_id"], rows


def front_json(spec: StudySpec, front: Sequence[Trial]) -> str:
    """The table of a front as MLflow's UI shows tables: columns, and rows as lists.

    There a dot in the name of a column is a path, which leads nowhere, and the column is empty.
    """
    columns, rows = front_rows(spec, front)
    return json.dumps({"columns": [name.replace(".", "_") for name in columns], "data": rows})


def front_csv(spec: StudySpec, front: Sequence[Trial]) -> str:
    """The table of a front as CSV."""
    columns, rows = front_rows(spec, front)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()
