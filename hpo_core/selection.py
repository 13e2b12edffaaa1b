"""The final choice: which configurations are trained again by cross-validation, and which of them wins.

A search ranks configurations by one split of the data, so the best value found is also the luckiest one. The final
choice trains the ``top`` configurations again, once a fold, and names the winner by the mean of its folds. Everything
here is a function of the history and of the evaluations in MLflow, so any flow, at any time, comes to the same choice.

Rule ``one_standard_error`` is that of Breiman, Friedman, Olshen and Stone (1984, section 3.4.3): among the
configurations whose mean loss is within one standard error of the lowest mean, the simplest. The standard error is
that of the configuration with the lowest mean, ``s / sqrt(K)`` over its ``K`` folds. Folds share training data, so it
is too small rather than too large (Bengio and Grandvalet 2004); it is the rule's scale, and no test of significance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from hpo_core.history import History
from hpo_core.space import SearchSpace
from hpo_core.trial import Fold, Part, Trial, TrialState

Rule = Literal["mean", "one_standard_error"]

MOST_LOST = 3
"""How often the flow that evaluates one fold may die before the configuration is thought to be the cause."""


@dataclass(frozen=True)
class Evaluation:
    """One training of a configuration outside the search; like a trial, but no strategy sees it and no number is used.

    Args:
        number: The number of the trial whose configuration it is.
        part: The fold that it is scored on, or which re-training of the winner it is, or which champion is scored for
            comparison; None for the winner's test.
        fidelity: The fidelity it is trained at; None where the study has none.
        attempt: From 0; a further one follows only on an evaluation whose flow died.
        state: Running, complete or failed.
        loss: What is minimised, finite; None unless complete.
        lost: Why its flow did not end it: ``died`` or ``interrupted``; empty otherwise.
        reason: Why it failed; empty otherwise.
        run_id: Its MLflow run.
        metrics: What the objective logged, under its own names and in its own direction.
        start, end: Milliseconds since 1970.
    """

    number: int
    part: Part | None
    fidelity: float | None
    attempt: int
    state: TrialState
    loss: float | None = None
    lost: str = ""
    reason: str = ""
    run_id: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    start: int = 0
    end: int | None = None

    @property
    def task(self) -> tuple[int, Part | None, float | None]:
        """What is evaluated, whatever the attempt."""
        return self.number, self.part, self.fidelity

    @property
    def seconds(self) -> float:
        """How long it took; infinite if it has not ended."""
        return math.inf if self.end is None else (self.end - self.start) / 1000


def finalists(history: History, top: int) -> list[Trial]:
    """The best trials of the search, at most one a configuration: highest fidelity first, then lowest loss."""
    ordered = sorted(
        history.complete,
        key=lambda trial: (-(trial.fidelity if trial.fidelity is not None else math.inf), trial.loss, trial.number),
    )
    best: dict[str, Trial] = {}
    for trial in ordered:
        best.setdefault(trial.identity, trial)
    return list(best.values())[:top]


@dataclass(frozen=True)
class Standing:
    """A finalist and what its folds gave so far.

    Args:
        trial: The trial of the search that made it a finalist.
        folds: Complete folds by index.
        folds_wanted: How many there are in all.
        reason: Why it is out; empty while it is in.
    """

    trial: Trial
    folds: Mapping[int, Evaluation]
    folds_wanted: int
    reason: str = ""

    @property
    def done(self) -> bool:
        """Whether nothing more is to be evaluated of it."""
        return bool(self.reason) or len(self.folds) == self.folds_wanted

    @property
    def losses(self) -> list[float]:
        """The losses of its complete folds, in order of the folds."""
        return [fold.loss for _, fold in sorted(self.folds.items()) if fold.loss is not None]

    @property
    def mean(self) -> float:
        """The mean loss over its folds; infinite if it is out or none is complete."""
        return math.inf if self.reason or not self.losses else math.fsum(self.losses) / len(self.losses)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, ``s / sqrt(K)``; NaN for fewer than two folds."""
        losses, count = self.losses, len(self.losses)
        if count < 2:
            return math.nan
        mean = math.fsum(losses) / count
        return math.sqrt(math.fsum((loss - mean) ** 2 for loss in losses) / (count - 1) / count)

    @property
    def seconds(self) -> float:
        """The median time of its folds; infinite if none is complete."""
        times = sorted(fold.seconds for fold in self.folds.values())
        return times[len(times) // 2] if times else math.inf


@dataclass(frozen=True)
class Choice:
    """How the final choice stands.

    Args:
        standings: The finalists, best of the search first.
        winner: The one that the rule names; None until all folds are done, or if every finalist is out.
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
        """Whether nothing more is to be evaluated."""
        return self.decided and (self.winner is None or self.test is not None)

    @cached_property
    def folds(self) -> tuple[int, int]:
        """How many folds are complete, and how many there are to be (a finalist that is out counts as done)."""
        wanted = sum(standing.folds_wanted for standing in self.standings)
        return sum(s.folds_wanted if s.reason else len(s.folds) for s in self.standings), wanted


@dataclass(frozen=True)
class Selection:
    """The final choice as a study file asks for it.

    Args:
        top: How many configurations are trained again.
        folds: In how many folds each.
        rule: ``mean``: the lowest mean loss wins. ``one_standard_error``: the simplest of those whose mean is within
            one standard error of the lowest.
        prefer: What is simple: ``low`` or ``high`` by parameter, the most important first. A configuration without
            the parameter is simpler than any with it. Where it is empty or does not decide, what trains faster is
            simpler.
    """

    top: int
    folds: int
    rule: Rule = "mean"
    prefer: Mapping[str, Literal["low", "high"]] = field(default_factory=dict)

    def choice(self, history: History, evaluations: Iterable[Evaluation], space: SearchSpace) -> Choice:
        """How the choice stands: a function of its arguments, whatever their order."""
        latest = latest_of(evaluations)
        fidelity = history.max_fidelity
        standings = [self._standing(trial, fidelity, latest) for trial in finalists(history, self.top)]
        choice = Choice(standings)
        if not choice.decided or (winner := self._winner(standings, space)) is None:
            return choice
        test = latest.get((winner.trial.number, None, fidelity))
        ended = test is not None and test.state is not TrialState.RUNNING and not due_again(test)
        return Choice(standings, winner, test if ended else None)

    def wanted(self, history: History, evaluations: Iterable[Evaluation], space: SearchSpace) -> list[Evaluation]:
        """What may be started now, most urgent first; as running evaluations without a run."""
        evaluations = list(evaluations)
        choice, latest = self.choice(history, evaluations, space), latest_of(evaluations)
        fidelity = history.max_fidelity
        tasks: list[tuple[int, Part | None]]
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
        return Standing(trial, complete, self.folds, reason)

    def _winner(self, standings: Sequence[Standing], space: SearchSpace) -> Standing | None:
        remaining = [standing for standing in standings if not standing.reason]
        if not remaining:
            return None
        best = min(remaining, key=lambda standing: (standing.mean, standing.trial.number))
        if self.rule == "mean":
            return best
        near = [standing for standing in remaining if standing.mean <= best.mean + best.standard_error]
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


def best_trial(history: History, choice: Choice | None) -> Trial | None:
    """The winner of the final choice; without one, the incumbent of the search."""
    return choice.winner.trial if choice is not None and choice.winner is not None else history.incumbent


Latest = Mapping[tuple[int, Part | None, float | None], Evaluation]
"""By what is evaluated, the attempt that counts."""


def latest_of(evaluations: Iterable[Evaluation]) -> Latest:
    """What counts of each evaluation: the first attempt with a result (it may come late), else the last one."""

    def weight(evaluation: Evaluation) -> tuple[bool, int]:
        complete = evaluation.state is TrialState.COMPLETE
        return complete, -evaluation.attempt if complete else evaluation.attempt

    return {evaluation.task: evaluation for evaluation in sorted(evaluations, key=weight)}


def due(tasks: Iterable[tuple[int, Part | None]], fidelity: float | None, latest: Latest) -> list[Evaluation]:
    """The next attempts at what is to be evaluated, as running evaluations without a run; none where one has ended."""
    wanted = []
    for number, part in tasks:
        last = latest.get((number, part, fidelity))
        if last is None or due_again(last):
            attempt = 0 if last is None else last.attempt + 1
            wanted.append(Evaluation(number, part, fidelity, attempt, TrialState.RUNNING))
    return wanted


def due_again(evaluation: Evaluation) -> bool:
    """Whether another attempt is due: its flow died or was stopped, which says nothing about the configuration."""
    if evaluation.lost == "died":
        return evaluation.attempt + 1 < MOST_LOST
    return evaluation.lost == "interrupted"
