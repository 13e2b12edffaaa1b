"""Lays a study's trials out as a table: plain rows, for CSV, JSON, Parquet and data frames."""

from __future__ import annotations

import datetime
from typing import Any

from hpo_core.history.history import History
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.text import metric_value

PARAMS, METRICS = "params.", "metrics."
"""Prefixes of the columns of parameters and metrics, so that no name collides with another column."""


def rows(spec: StudySpec, history: History) -> list[dict[str, Any]]:
    """One row for each trial, ordered by number. All rows have the same columns in the same order.

    The columns are ``number``, ``state``, ``value`` (the study's metric of a complete trial, in its own direction),
    ``fidelity``, ``params.NAME`` for each parameter of the space, ``metrics.NAME`` for each metric that any trial
    logged (the study's first), ``start`` and ``end`` (``datetime`` in UTC), ``seconds``, ``reason`` and ``run_id``.
    A value that does not exist is None: that of an inactive parameter, the end of a running trial.
    """
    logged = sorted({name for trial in history for name in trial.metrics}, key=lambda name: (name != spec.metric, name))
    return [
        {
            "number": trial.number,
            "state": trial.state.value,
            "value": metric_value(spec, trial),
            "fidelity": trial.fidelity,
            **{f"{PARAMS}{name}": trial.config.get(name) for name in spec.space},
            **{f"{METRICS}{name}": trial.metrics.get(name) for name in logged},
            "start": _moment(trial.start),
            "end": None if trial.end is None else _moment(trial.end),
            "seconds": None if trial.end is None else (trial.end - trial.start) / 1000,
            "reason": trial.reason,
            "run_id": trial.run_id,
        }
        for trial in history
    ]


def _moment(milliseconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
