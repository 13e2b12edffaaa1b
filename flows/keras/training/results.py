"""Turns what a user's ``fit`` or ``run_trial`` returned into metrics.

That is what KerasTuner takes: Keras' history, the metrics as a dict, the objective as a number, or a list of these, one
for each execution.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.keras import errors
from hpo_flows.keras.errors import FatalError, FatalTypeError, FatalValueError
from hpo_flows.keras.space.objective import DefaultObjective, Objective

Known = Callable[[Any], Mapping[str, float] | None]


def as_metrics(
    answer: Any, objective: Objective | None, where: str, known: Known = lambda answer: None
) -> dict[str, float]:
    """The metrics in an answer; of a history, those of the best epoch, with ``best_epoch``.

    Args:
        answer: What was returned.
        objective: The metric that must be among them, and decides which epoch is the best; None for the last epoch.
        where: What returned it, for errors.
        known: Returns the metrics of an answer that is known already, else None.

    Raises:
        FatalTypeError: It is none of what can be returned.
        FatalValueError: The objective is missing.
    """
    if (metrics := known(answer)) is not None:
        return dict(metrics)
    if isinstance(answer, list | tuple) and answer:
        return means([as_metrics(each, objective, where, known) for each in answer])
    if isinstance(getattr(answer, "history", None), Mapping):
        return with_objective(best_epoch(answer.history, objective), objective, where)
    if isinstance(answer, Mapping):
        return with_objective({name: float(value) for name, value in answer.items()}, objective, where)
    if objective is None or not _is_number(answer):
        kinds = "the history, a dict of metrics, the objective as a number, or a list of these"
        raise FatalTypeError(f"{where} returned {answer!r:.80}; return {kinds}")
    return {objective.name: float(answer)}


def with_objective(metrics: Mapping[str, float], objective: Objective | None, where: str) -> dict[str, float]:
    """Metrics with the value of the objective among them, also where that is a sum of several.

    Raises:
        FatalTypeError: There is no objective, so that it had to be a number.
        FatalValueError: The objective is missing.
    """
    if objective is None or objective.name in metrics:
        return dict(metrics)
    if objective.has_value(metrics):
        return dict(metrics) | {objective.name: float(objective.get_value(metrics))}
    listed = ", ".join(sorted(metrics)) or "nothing"
    if isinstance(objective, DefaultObjective):
        raise FatalTypeError(
            f"{where} returned {listed}, and no objective is given; name one, or return it as a number"
        )
    raise FatalValueError(f"{where} returned no {objective.name!r}, which is the objective, but {listed}")


def means(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric that all results have.

    >>> means([{"loss": 1.0, "acc": 0.5}, {"loss": 3.0}])
    {'loss': 2.0}
    """
    names = [name for name in results[0] if all(name in each for each in results)]
    return {name: sum(each[name] for each in results) / len(results) for name in names}


def best_epoch(history: Mapping[str, Sequence[float]], objective: Objective | None) -> dict[str, float]:
    """The metrics of the best epoch of a history, with ``best_epoch``; of the last one if nothing decides.

    >>> best_epoch({"loss": [3.0, 1.0, 2.0]}, Objective("loss", "min"))
    {'loss': 1.0, 'best_epoch': 1.0}
    """
    rows = [dict(zip(history, values, strict=False)) for values in zip(*history.values(), strict=False)]
    if objective is None or not rows or not objective.has_value(rows[0]):
        return rows[-1] if rows else {}
    best = 0
    for i, row in enumerate(rows):
        if objective.better_than(objective.get_value(row), objective.get_value(rows[best])):
            best = i
    return rows[best] | {"best_epoch": float(best)}


def ends_search(error: FatalError) -> InputError:
    """The error by which a worker ends the whole search; :func:`fatal` undoes it."""
    return InputError("objective", f"{type(error).__name__}: {error}")


def fatal(error: InputError) -> Exception:
    """The FatalError that ended a search, or the error itself if it was none."""
    name, _, message = error.problem.partition(": ")
    kind = getattr(errors, name, None) if error.field == "objective" else None
    return kind(message) if isinstance(kind, type) and issubclass(kind, FatalError) else error


def _is_number(value: Any) -> bool:
    if isinstance(value, numbers.Number):
        return True
    try:
        float(value)
    except Exception:  # a tensor's float() may raise any kind
        return False
    return not isinstance(value, str | bytes)
