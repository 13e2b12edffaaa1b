"""Compares the winner with the first trial: what tuning was worth, and how much of it was the luck of being chosen.

The value by which a configuration was chosen flatters it; where that is all of its advantage, the study is *overtuned*
(Schneider, Bischl and Feurer 2025, "Overtuning in hyperparameter optimization", arXiv:2506.19540). Nothing is trained
for the comparison, so it says no more than what was trained anyway allows:

* Repeats: the winner has trainings that it was not chosen by (or hardly, among few). The first trial was not chosen at
  all, so its own value does not flatter it, but it is a single draw of the same noise.
* A final choice: if the first configuration is a finalist, both were trained on the same folds, and are compared fold
  by fold. Otherwise nothing is said, since the value of a split and the mean over folds are not the same.
* Test values that the objective logs in every trial are shown for both. The test of the final choice is the winner's
  alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hpo_core.base import moments
from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.selection.final_choice import Choice, Standing
from hpo_core.selection.repeats import trainings_of

SURE = 2.0
"""A gain of fewer standard errors may be luck."""


@dataclass(frozen=True)
class Scores:
    """What is known of one configuration.

    Args:
        trial: Its first trial, as the search saw it.
        confirmed: The mean loss of trainings that it was not chosen by; NaN if there are none.
        error: The standard error of ``confirmed``; NaN if that is unknown.
        test: Its loss on the test data, the mean over its trainings; NaN if none was logged.
    """

    trial: Trial
    confirmed: float = math.nan
    error: float = math.nan
    test: float = math.nan

    @property
    def searched(self) -> float:
        """Its loss in the search."""
        return math.nan if self.trial.loss is None else self.trial.loss


@dataclass(frozen=True)
class Overtuning:
    """The winner compared with the first trial.

    Args:
        winner, first: What is known of both; the same trial if no other was better.
        gain: By how much the winner's loss is lower than that of the first trial, without the luck of being chosen; NaN
            if that cannot be told.
        error: The standard error of the gain.
        limited: Whether the winner keeps the study's limits better than the first trial does, so that a gain in the
            metric is not what it was chosen for.
    """

    winner: Scores
    first: Scores
    gain: float = math.nan
    error: float = math.nan
    limited: bool = False

    @property
    def in_vain(self) -> bool | None:
        """Whether the first trial would have done as well, within the error; None if that is unknown."""
        if self.winner.trial.number == self.first.trial.number:
            return True
        if self.limited:
            return False
        return None if math.isnan(self.gain) or math.isnan(self.error) else self.gain <= SURE * self.error


def overtuning_of(history: History, choice: Choice | None, metric: str, sign: int) -> Overtuning | None:
    """The winner and the first trial that was trained as far; None if there is no winner or nothing to compare.

    Args:
        history: The study.
        choice: Its final choice, if it has one.
        metric: The study's metric.
        sign: +1 if the metric is minimised, -1 if it is maximised.
    """
    named = None if choice is None or choice.winner is None else choice.winner
    best = history.incumbent if named is None else named.trial
    if best is None or len(history.merged.complete) < 2 or (choice is not None and named is None):
        return None
    alike = [t for t in history.complete if t.whole and t.fidelity == best.fidelity and t.repeat_of is None]
    if not alike or all(trial.number != best.number for trial in alike):
        return None
    own = {trial.number: trial for trial in alike}
    winner, first = own[best.number], alike[0]
    if named is None or choice is None:
        merged = {trial.number: trial for trial in history.merged.complete}
        limited = merged[winner.number].violation < merged[first.number].violation
        return replace(_by_repeats(history, winner, first, metric, sign), limited=limited)
    test = math.nan if choice.test is None or choice.test.loss is None else choice.test.loss
    beside = next((s for s in choice.standings if s.trial.identity == first.identity and not s.reason), None)
    scores = Scores(winner, named.mean, named.standard_error, test)
    limited = named.averaged.violation < (first if beside is None else beside.averaged).violation
    if beside is None:
        return Overtuning(scores, Scores(first), limited=limited)
    gains = [theirs - ours for theirs, ours in zip(beside.losses, named.losses, strict=False)]
    return Overtuning(scores, _of_folds(first, beside), moments.mean(gains), _error(gains), limited)


def _of_folds(trial: Trial, standing: Standing) -> Scores:
    return Scores(trial, standing.mean, standing.standard_error)


def _by_repeats(history: History, winner: Trial, first: Trial, metric: str, sign: int) -> Overtuning:
    merged, noise = {trial.number: trial for trial in history.merged.complete}, history.noise.deviation
    found = []
    for trial in (winner, first):
        again = merged[trial.number].observed[1:]
        mean, error = (moments.mean(again), noise / math.sqrt(len(again))) if again else (math.nan, math.nan)
        found.append(Scores(trial, mean, error, _tested(trainings_of(history, trial), metric, sign)))
    ours, theirs = found
    if math.isnan(ours.confirmed) or not noise > 0:
        return Overtuning(ours, theirs)
    observed = merged[first.number].observed or (first.loss or 0.0,)
    gain = moments.mean(observed) - ours.confirmed
    return Overtuning(ours, theirs, gain, math.hypot(ours.error, noise / math.sqrt(len(observed))))


def _error(values: list[float]) -> float:
    return moments.deviation(values) / math.sqrt(len(values))


def _tested(trials: Iterable[Trial], metric: str, sign: int) -> float:
    """The mean loss on the test data over a configuration's trainings; NaN if the objective logs none."""
    values = [value for trial in trials if (value := _test_value(trial.metrics, metric)) is not None]
    return sign * moments.mean(values) if values else math.nan


def _test_value(metrics: Mapping[str, float], metric: str) -> float | None:
    """The metric on the test data, under one of its usual names.

    >>> _test_value({"val_loss": 0.5, "test_loss": 0.6}, "val_loss"), _test_value({"test_loss": 0.6}, "accuracy")
    (0.6, None)
    """
    bare = metric.removeprefix("val_").removeprefix("validation_").removeprefix("val/").removeprefix("validation/")
    names = [f"test{mark}{name}" for name in (bare, metric) for mark in "_/"]
    found = next((metrics[name] for name in names if name in metrics), None)
    return found if found is None or math.isfinite(found) else None
