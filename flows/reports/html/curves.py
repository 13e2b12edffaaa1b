"""Reads the learning curves of a study's trials from MLflow: the last attempt's, as far as a plot can show them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hpo_core.base.errors import TrackingError, TrackingRefusal
from hpo_core.history.history import History
from hpo_core.history.trial import HYPERGRADIENT, HYPERGRADIENT_NORM, Trial, TrialState
from hpo_core.ledger.store import Metric, Store
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.text import ranked

log = logging.getLogger("hpo")

MOST_CURVES = 1_000
"""How many trials' curves are read, the best first."""

MOST_LONG = 200
"""The same where MLflow has to thin them one by one."""

A_REQUEST = 100

MOST_TRIED = 6
"""How many other metrics are looked at where the study's own has no curve."""


Curve = Sequence[tuple[float, float]]
"""Steps and values of a metric, in its own direction."""

MOST_POINTS = 200
"""How many points of a curve are kept."""


@dataclass(frozen=True)
class Curves:
    """What the trials logged of a metric at each step.

    Args:
        metric: The study's metric; another if the study's has one value a trial.
        by_trial: The curves by trial number.
    """

    metric: str
    by_trial: Mapping[int, Curve]


def thinned(curve: Curve, most: int) -> Curve:
    """An even selection of this many points, ends included."""
    if len(curve) <= most:
        return curve
    return [curve[round(i * (len(curve) - 1) / (most - 1))] for i in range(most)]


def curve_of(points: Sequence[Metric]) -> Curve:
    """The finite points of a run's last attempt, one for each step.

    An attempt begins where the steps begin again. An attempt that ended sooner than an earlier one has its result at
    the highest step of all, so that MLflow shows it as the latest: a result after such a gap is put back.

    Args:
        points: The whole history of a metric in a run, oldest first.

    >>> of = lambda *points: [Metric("loss", value, time, step) for time, (step, value) in enumerate(points)]
    >>> curve_of(of((0, 9.0), (1, 8.0), (2, 7.0), (0, 5.0), (1, 4.0), (2, 3.0)))
    [(0, 5.0), (1, 4.0), (2, 3.0)]
    >>> curve_of(of((0, 9.0), (5, 8.0), (0, 5.0), (1, 4.0), (5, 3.0)))
    [(0, 5.0), (1, 3.0)]
    """
    begins = max((i for i in range(1, len(points)) if points[i].step < points[i - 1].step), default=0)
    last = {point.step: point.value for point in points[begins:]}
    steps = sorted(last)
    if begins and len(steps) > 1 and steps[-1] == max(point.step for point in points[:begins]):
        stride = max((b - a for a, b in pairwise(steps[:-1])), default=1)
        if steps[-1] - steps[-2] > stride:
            last[steps[-2]] = last.pop(steps[-1])
    return [(step, last[step]) for step in sorted(last) if math.isfinite(last[step])]


class CurveReader:
    """Reads the curves of one study, and remembers those of trials that have ended.

    Args:
        store: MLflow.
        spec: The study.
    """

    def __init__(self, store: Store, spec: StudySpec) -> None:
        self._store, self._spec = store, spec
        self._metric = ""
        self._known: dict[str, Curve] = {}  # by run

    def read(self, history: History) -> Curves | None:
        """The curves of the trials, as far as MLflow gives them; None if it gives none. A failure is only logged."""
        order = [*ranked(history), *(trial for trial in history if trial.state is not TrialState.COMPLETE)]
        order = [trial for trial in order if trial.run_id][:MOST_CURVES]
        try:
            if not order or not self._choose(order[0]):
                return None
            for i in range(0, len(order), A_REQUEST):
                new = [trial for trial in order[i : i + A_REQUEST] if trial.run_id not in self._known]
                if new and self._add(new) and i + A_REQUEST >= MOST_LONG:
                    break
        except (TrackingError, TrackingRefusal) as error:  # a server of an earlier version may not know the request
            log.debug("the learning curves of %s cannot be read: %s", self._spec.name, error)
        found = {t.number: self._known[t.run_id] for t in order if len(self._known.get(t.run_id, ())) > 1}
        for trial in history.running:
            self._known.pop(trial.run_id, None)
        return Curves(self._metric, found) if found else None

    def _choose(self, trial: Trial) -> bool:
        """Choose the metric: the study's own if a trial reported it more than once, else the one with most steps."""
        if self._metric:
            return True
        names = sorted(set(trial.metrics) - {self._spec.metric}, key=lambda name: (not name.startswith("val"), name))
        ours = (HYPERGRADIENT, HYPERGRADIENT_NORM, "system/")
        others = [name for name in names if not name.startswith(ours)][:MOST_TRIED]
        longest = 1
        for name in (self._spec.metric, *others):
            points = self._store.metric_history([trial.run_id], name, MOST_POINTS).get(trial.run_id, ())
            if (length := len(curve_of(points))) > longest:
                self._metric, longest = name, length
            if self._metric == self._spec.metric:
                break
        return bool(self._metric)

    def _add(self, trials: Sequence[Trial]) -> bool:
        """Read the curves of some trials; returns whether any was too long to be read in full."""
        runs = [trial.run_id for trial in trials]
        read: Mapping[str, Sequence[Metric]] = self._store.metric_history(runs, self._metric, MOST_POINTS)
        self._known |= {run: thinned(curve_of(read.get(run, ())), MOST_POINTS) for run in runs}
        return any(len(points) >= MOST_POINTS for points in read.values())
