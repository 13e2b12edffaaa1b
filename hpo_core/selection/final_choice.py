"""Decides the final choice: which configurations are trained again by cross-validation, and which one wins.

A search ranks configurations by one split of the data, so the best value found is also the luckiest one. The final
choice trains the ``top`` configurations again, once per fold, and picks the winner by the mean over its folds. With
several objectives these are points of the Pareto front: those that are preferred most, or, where nothing is preferred,
its compromise and the least crowded. The means over their folds form a new front, from which the winner is picked.
Whether a configuration keeps the study's limits is decided by the means over its folds, too.

Everything here is a function of the history and the evaluations in MLflow, so every flow arrives at the same choice.

The rule ``one_standard_error`` follows Breiman, Friedman, Olshen and Stone (1984, section 3.4.3): the simplest among
the configurations whose mean loss is within one standard error of the lowest mean. The standard error is that of the
configuration with the lowest mean, ``s / sqrt(K)`` over its ``K`` folds. Folds share training data, so it tends to be
too small (Bengio and Grandvalet 2004); it sets the scale of the rule and is not a significance test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from hpo_core.base import moments
from hpo_core.history.front import best_first, compromise, front_of
from hpo_core.history.history import History
from hpo_core.history.limits import Limit, measured_again
from hpo_core.history.repeated import mean_metrics
from hpo_core.history.trial import Trial, TrialState
from hpo_core.selection.evaluation import (
    Evaluation,
    EvaluationKind,
    Fold,
    Latest,
    due,
    due_again,
    latest_of,
)
from hpo_core.space.search_space import SearchSpace

Rule = Literal["mean", "one_standard_error"]

Pick = Callable[[Sequence[Trial]], Trial | None]
"""Picks the point of a front that stands for a study: with one objective its only one; None of an empty front."""


def finalists(history: History, top: int, pick: Pick | None = None) -> list[Trial]:
    """The best trials of the search, at most one per configuration: highest fidelity first, then lowest loss.

    Trials that ended after some of their folds were worse than another one, and are left out. So are those that break
    the study's limits, if any keeps them. With several objectives only the front is trained again.

    Args:
        history: The study.
        top: How many there are at most.
        pick: With several objectives, picks the point of a front that is preferred; None if nothing is.
    """
    best: dict[str, Trial] = {}
    several = bool(history.reference)
    for trial in _front(history, top, pick) if several else best_first(t for t in history.merged.complete if t.whole):
        best.setdefault(trial.identity, trial)
    some = any(trial.feasible for trial in best.values())
    return [trial for trial in best.values() if trial.feasible or not some][:top]


def _front(history: History, top: int, pick: Pick | None) -> list[Trial]:
    """The front in order: what is preferred, again and again, or the compromise; then the least crowded first."""
    left, first = best_first(history.front), list[Trial]()
    while len(first) < (1 if pick is None else top) and (point := (pick or compromise)(left)) is not None:
        first.append(point)
        left.remove(point)
    return [*first, *left]


@dataclass(frozen=True)
class Standing:
    """A finalist and the results of its folds so far.

    Args:
        trial: The trial of the search that made it a finalist.
        folds: Complete folds by index.
        folds_wanted: The total number of folds.
        reason: Why the finalist is out; empty while it is in.
        limits: The study's limits on results.
    """

    trial: Trial
    folds: Mapping[int, Evaluation]
    folds_wanted: int
    reason: str = ""
    limits: Sequence[Limit] = ()

    @property
    def done(self) -> bool:
        """Whether none of its folds needs to be evaluated any more."""
        return bool(self.reason) or len(self.folds) == self.folds_wanted

    @property
    def losses(self) -> list[float]:
        """The losses of its complete folds, in order of the folds."""
        return [fold.loss for _, fold in sorted(self.folds.items()) if fold.loss is not None]

    @property
    def mean(self) -> float:
        """The mean loss over its complete folds; infinite if it is out or no fold is complete."""
        return math.inf if self.reason or not self.losses else moments.mean(self.losses)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, ``s / sqrt(K)``; NaN with fewer than two folds."""
        return moments.deviation(self.losses) / math.sqrt(len(self.losses)) if self.losses else math.nan

    def by(self, i: int) -> Standing:
        """This standing as if the objective at this position were the study's only one."""
        if not self.trial.losses:
            return self
        trial = replace(self.trial, loss=self.trial.losses[i], losses=())
        return replace(self, trial=trial, folds={at: fold.by(i) for at, fold in self.folds.items()})

    @property
    def judged(self) -> Trial:
        """Its trial, which keeps or breaks the limits by the means over its complete folds, where these logged them."""
        excess = measured_again(self.limits, self.trial.excess, [fold.metrics for fold in self.folds.values()])
        return replace(self.trial, excess=excess)

    @property
    def averaged(self) -> Trial:
        """Its trial with the means over its complete folds in place of the losses and metrics of the search.

        So are limits kept or broken by the means; see :attr:`judged`.
        """
        means = tuple(self.by(i).mean for i in range(len(self.trial.outcome)))
        metrics = {**self.trial.metrics, **mean_metrics([fold.metrics for fold in self.folds.values()])}
        losses = means if self.trial.losses else ()
        averaged = replace(self.judged, loss=means[0], losses=losses, metrics=metrics)
        return replace(averaged, observed=(), confirmed=False)

    @property
    def seconds(self) -> float:
        """The median duration of its folds in seconds; infinite if no fold is complete."""
        times = sorted(fold.seconds for fold in self.folds.values())
        return times[len(times) // 2] if times else math.inf


@dataclass(frozen=True)
class Choice:
    """The state of the final choice.

    Args:
        standings: The finalists, best of the search first.
        winner: The finalist picked by the rule; None until all folds are done, or if every finalist is out.
        test: The evaluation of the winner on the test set; None until it is complete or has failed.
    """

    standings: Sequence[Standing]
    winner: Standing | None = None
    test: Evaluation | None = None

    @property
    def decided(self) -> bool:
        """Whether every finalist's folds are done."""
        return bool(self.standings) and all(standing.done for standing in self.standings)

    @property
    def done(self) -> bool:
        """Whether nothing is left to evaluate."""
        return self.decided and (self.winner is None or self.test is not None)

    @cached_property
    def front(self) -> tuple[Trial, ...]:
        """The Pareto front by the means over the folds, once these are done; see :attr:`Standing.averaged`."""
        return front_of(each.averaged for each in self.standings if not each.reason) if self.decided else ()

    @cached_property
    def folds(self) -> tuple[int, int]:
        """The number of complete folds and the total number; all folds of a finalist that is out count as complete."""
        wanted = sum(standing.folds_wanted for standing in self.standings)
        return sum(s.folds_wanted if s.reason else len(s.folds) for s in self.standings), wanted


@dataclass(frozen=True)
class Selection:
    """The settings of the final choice, as given in a study file.

    Args:
        top: How many configurations are trained again.
        folds: The number of folds for each.
        rule: ``mean``: the lowest mean loss wins. ``one_standard_error``: the simplest configuration whose mean is
            within one standard error of the lowest wins.
        prefer: Defines simplicity: ``low`` or ``high`` by parameter, the most important first. A configuration without
            the parameter is simpler than any with it. If this is empty or does not decide, the faster training is
            simpler.
        pick: With several objectives, picks what is preferred from a front: finalists, and then the winner. None if
            nothing is preferred.
        limits: The study's limits on results.
    """

    top: int
    folds: int
    rule: Rule = "mean"
    prefer: Mapping[str, Literal["low", "high"]] = field(default_factory=dict)
    pick: Pick | None = None
    limits: Sequence[Limit] = ()

    def choice(self, history: History, evaluations: Iterable[Evaluation], space: SearchSpace) -> Choice:
        """The current state of the choice; a pure function of its arguments, whatever the order of their items."""
        latest = latest_of(evaluations)
        fidelity = history.max_fidelity
        standings = [self._standing(trial, fidelity, latest) for trial in finalists(history, self.top, self.pick)]
        choice = Choice(standings)
        if not choice.decided or (winner := self._winner(choice, space)) is None:
            return choice
        test = latest.get((winner.trial.number, None, fidelity))
        ended = test is not None and test.state is not TrialState.RUNNING and not due_again(test)
        return Choice(standings, winner, test if ended else None)

    def wanted(self, history: History, evaluations: Iterable[Evaluation], space: SearchSpace) -> list[Evaluation]:
        """The evaluations that may start now, most urgent first, as running evaluations without a run."""
        evaluations = list(evaluations)
        choice, latest = self.choice(history, evaluations, space), latest_of(evaluations)
        fidelity = history.max_fidelity
        tasks: list[tuple[int, EvaluationKind | None]]
        if choice.decided:
            tasks = [] if choice.done or choice.winner is None else [(choice.winner.trial.number, None)]
        else:
            tasks = [
                (standing.trial.number, Fold(i, self.folds))
                for standing in choice.standings
                if not standing.reason
                for i in range(self.folds)
            ]
        return due(tasks, fidelity, latest)

    def _standing(self, trial: Trial, fidelity: float | None, latest: Latest) -> Standing:
        complete: dict[int, Evaluation] = {}
        reason = ""
        for i in range(self.folds):
            fold = Fold(i, self.folds)
            found = latest.get((trial.number, fold, fidelity))
            if found is None or found.state is TrialState.RUNNING:
                continue
            if found.state is TrialState.COMPLETE:
                complete[i] = found
            elif not due_again(found):
                reason = reason or f"{fold} failed: {found.reason}"
        return Standing(trial, complete, self.folds, reason, self.limits)

    def _winner(self, choice: Choice, space: SearchSpace) -> Standing | None:
        if (picked := (self.pick or compromise)(choice.front)) is None:
            return None
        remaining = [standing for standing in choice.standings if not standing.reason]
        best = next(standing for standing in remaining if standing.trial.number == picked.number)
        if self.rule == "mean":
            return best
        # With a single fold the standard error is NaN and no mean would qualify; a study file asks for at least two.
        alike = [standing for standing in remaining if standing.averaged.violation == best.averaged.violation]
        near = [standing for standing in alike if standing.mean <= best.mean + best.standard_error]
        return min(near, key=lambda standing: self._complexity(standing, space))

    def _complexity(self, standing: Standing, space: SearchSpace) -> tuple[float, ...]:
        config = standing.trial.config
        preferred = (
            -math.inf
            if name not in config
            else space.parameters[name].encode(config[name]) * (1 if direction == "low" else -1)
            for name, direction in self.prefer.items()
        )
        return (*preferred, standing.seconds, standing.mean, standing.trial.number)


def best_trial(history: History, choice: Choice | None, pick: Pick = compromise) -> Trial | None:
    """The winner of the final choice; without one, what stands for the search: with one objective its incumbent."""
    return choice.winner.trial if choice is not None and choice.winner is not None else pick(history.front)


def best_front(history: History, choice: Choice | None) -> tuple[Trial, ...]:
    """The Pareto front by the folds of the final choice; without one, or until it is decided, that of the search."""
    return (() if choice is None else choice.front) or history.front
