"""Decides what a study does next, by its definition and its history: what to propose, and when to end.

All of it is pure, as strategies are: MLflow's history is the only state.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Container, Mapping
from dataclasses import replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import numpy as np

from hpo_core.history import spending
from hpo_core.history.history import History
from hpo_core.history.spending import Promise
from hpo_core.history.taken import Taken
from hpo_core.history.trial import PURPOSE, REPEAT_OF, Proposal, Trial, TrialState, fidelity_key
from hpo_core.selection.folds import as_whole
from hpo_core.space.configuration import Config, Scalar
from hpo_core.strategies.make import expected, promised
from hpo_core.study.definition import StudyDefinition
from hpo_core.study.failing import failed_alike
from hpo_core.study.instructions import ENQUEUED

NO_QUEUE: Mapping[str, Config] = MappingProxyType({})


class StudySpec(StudyDefinition):
    """A study file, validated, and what follows from it and the history.

    >>> spec = StudySpec.model_validate({
    ...     "name": "parabola", "objective": "parabola:loss", "metric": "loss", "direction": "minimize",
    ...     "space": {"x": {"type": "float", "low": -1, "high": 1}}, "stop": {"trials": 3},
    ... })
    >>> spec.experiment, spec.strategy.name, spec.loss(0.25)
    ('parabola', 'auto', 0.25)
    """

    def with_total_trials(self, stored: StudySpec, started: int, ended: bool) -> tuple[StudySpec, str]:
        """The specification with a total number of trials, where it says only how many more there are to be.

        A run of the study that was killed, or stopped before its total, is made up for first.

        Args:
            stored: What stands with the study; the total of its last run is in it.
            started: How many trials the study has, as :meth:`started` counts them.
            ended: Whether its last run came to its end.

        Returns:
            The specification, and why it has this total; empty where it says itself.
        """
        more, last = self.stop.trials, stored.stop.trials
        if not self.stop.more or more is None:
            return self, ""
        if not started:
            total, why = more, f"begins with {more} trials"
        elif last is not None and (started < last or not ended):
            total, why = last, f"goes on to {last} trials: its last run did not get there ({started} are started)"
        else:
            total, why = started + more, f"goes on to {started + more} trials: {more} more than it has"
        return self.with_total(total), why

    def with_total(self, trials: int | None) -> StudySpec:
        """The specification with another total number of trials."""
        return self.model_copy(update={"stop": self.stop.model_copy(update={"trials": trials, "more": False})})

    @property
    def as_new_study(self) -> StudySpec:
        """The specification as a new study stores it: +20 trials are its first 20."""
        return self.with_total(self.stop.trials)

    @property
    def agreed(self) -> dict[str, Scalar]:
        """The values that trials of earlier editions count as having had of parameters that they lack."""
        return {name: value for edition in self.editions for name, value in edition.added.items()}

    def placed(self, config: Config) -> tuple[dict[str, Scalar], dict[str, str]]:
        """A configuration of any edition in today's space.

        Returns:
            The configuration there, and why it lies outside, by parameter or constraint; empty if it lies inside.
        """
        fitted, outside = self.search_space.fitted(config, self.agreed)
        known = {*self.space, *(name for edition in self.editions for name in edition.space)}
        return fitted, outside | {name: "the space does not have it" for name in config if name not in known}

    @np.errstate(all="warn", under="ignore")  # numpy's own default: what an objective's module sets is its own affair
    def propose(self, history: History, n: int, queue: Mapping[str, Config] = NO_QUEUE) -> list[Proposal]:
        """Up to ``n`` proposals: what was enqueued, lost trials again, the rest of ``first``, then the strategy's.

        Pure, as strategies are. What was enqueued or is in ``first`` and was tried before is not proposed again.

        A strategy does not see a lost trial that is run again, for nothing was wrong with it: it sees the other one.

        In a study with a fidelity, a strategy that knows nothing of it trains to the end. What ``first`` names begins
        at the strategy's lowest level where it promotes, as everything does. So does what was enqueued.

        Args:
            history: The study so far.
            n: How many to propose at most.
            queue: The configurations that people want to be tried next, by id.
        """
        full, taken = self.full, Taken(history)
        proposals = self._enqueued(queue, taken)
        proposals += self._again(history)
        for config in self.first:
            proposals += self._given(config, {"strategy": "first"}, taken)
        proposals = proposals[:n]
        if len(proposals) < n and self.repeating is not None:
            probe = self.repeating.probe(history, full, self.stop.trials)
            proposals += [] if probe is None else [probe]
        if len(proposals) < n:
            seen = as_whole(history.with_pending(proposals).without_retaken().merged)
            strategy = self.strategy.make(self.stop.trials, self.scale)
            proposals += strategy.propose(self.search_space, seen, n - len(proposals), seed=self.seed)
        return [each if each.fidelity is not None else replace(each, fidelity=full) for each in proposals]

    def waiting(self, history: History, queue: Mapping[str, Config]) -> list[Config]:
        """The configurations that people have enqueued and that are still to be tried."""
        return [proposal.config for proposal in self._enqueued(queue, Taken(history))]

    def _enqueued(self, queue: Mapping[str, Config], taken: Taken) -> list[Proposal]:
        """The proposals of what was enqueued and lies in the space, unless it is taken, which it is from now on."""
        found: list[Proposal] = []
        for id, config in queue.items():
            with contextlib.suppress(ValueError):  # it was checked when it was enqueued; a tag is open to every hand
                found += self._given(config, {"strategy": ENQUEUED, ENQUEUED: id}, taken)
        return found

    def _given(self, config: Config, notes: Mapping[str, Scalar], taken: Taken) -> list[Proposal]:
        """The proposal of a configuration that people gave, unless it is taken, which it is from now on.

        Raises:
            ValueError: The configuration does not lie in the space.
        """
        entry = self.strategy.make(fidelity=self.scale).entry
        whole, outside = self.placed(config)
        if outside:
            raise ValueError(f"{dict(config)} is outside the space")
        proposal = Proposal(whole, self.full if entry is None else entry, notes=notes)
        if proposal.identity in taken:
            return []
        taken.add(proposal.identity)
        return [proposal]

    def _again(self, history: History) -> list[Proposal]:
        """The lost trials that are due once more, as proposals."""
        again: list[Proposal] = []
        for trial in self._due(history):
            attempt = self._next_attempt(trial)
            notes: dict[str, Scalar] = {"strategy": "retry", "retry_of": trial.number, "attempt": attempt}
            notes |= {key: trial.notes[key] for key in ("bracket", "rung", REPEAT_OF, PURPOSE) if key in trial.notes}
            again.append(Proposal(trial.config, trial.fidelity, trial.parent, notes))
        return again

    def _due(self, history: History) -> list[Trial]:
        """The lost trials that are to be run again and that nobody has taken up."""
        due = [trial for trial in history.lost if trial.number not in history.retaken]
        return [trial for trial in due if self._next_attempt(trial) is not None]

    def _next_attempt(self, trial: Trial) -> int | None:
        """The attempt that a lost trial is due for; None if there is to be no further one.

        Counted are deaths, of which the trial itself may have been the cause. Whoever stops a flow stops it for
        reasons of their own, so an interrupted trial is run again however often that happens.
        """
        attempt = str(trial.notes.get("attempt", "0"))  # of a tag, and so of anybody's making
        if not re.fullmatch(r"[0-9]{1,3}", attempt) or not self.rerun_lost:
            return None
        if trial.notes.get("lost") == "interrupted":
            return int(attempt)
        return int(attempt) + 1 if int(attempt) < self.rerun_lost else None

    def retaken(self, history: History) -> frozenset[int]:
        """The numbers of the lost trials that another one stands for, or is about to: these count for nothing."""
        return history.retaken | {trial.number for trial in self._due(history)}

    def started(self, history: History) -> int:
        """How many trials count as started; one that is lost and run again counts once."""
        return history.next_number - len(self.retaken(history))

    def ended(self, history: History) -> int:
        """How many trials count as ended, well or not."""
        return sum(trial.state is not TrialState.RUNNING for trial in history.every) - len(self.retaken(history))

    def spent(self, history: History) -> float:
        """The full trainings' worth that counts as spent; only for a study with a fidelity."""
        assert self.scale is not None
        return history.spent(self.scale, apart=self.retaken(history))

    def resumable(self, history: History) -> frozenset[int]:
        """The numbers of the trials whose checkpoints are needed.

        A trial goes on from them now, or is to once more because it was lost; they may yet be promoted; or they are the
        incumbent's (of several metrics: the front's), which is what one would go on with by hand.
        """
        strategy = self.strategy.make(fidelity=self.scale)
        parents = {trial.parent for trial in history}
        candidates = strategy.promotable(history.merged)
        if not strategy.reconfigures:
            candidates -= parents
        now = [trial.parent for trial in history.running] + [proposal.parent for proposal in self._again(history)]
        needed = {number for number in now if number is not None} | candidates
        return frozenset(needed | {trial.number for trial in history.front})

    def stop_reason(self, history: History, minutes: float) -> str | None:
        """Why no further trial is to start; None if one may.

        Args:
            history: The study so far.
            minutes: Minutes since this run of the study started.
        """
        stop = self.stop
        if stop.trials is not None and self.search_left(history) <= 0:
            if (left := stop.trials - self.started(history)) > 0:
                return f"the last {left} of {stop.trials} trials confirm the best configurations"
            total = max(stop.trials, self.ended(history))  # one that was lowered is below what the study has
            trials = f"all {total} trials are" if total > 1 else "the only trial is"
            return f"{trials} {'started' if history.under_way else 'done'}"
        whole, history = history, history.searched
        best = history.incumbent
        if any(map(self._on_target, history.front)):
            return " and ".join(f"{name} reached the target {value:g}" for name, value in self.targets.items())
        full = self.fidelity is None or (best is not None and fidelity_key(best.fidelity) >= self.fidelity.max)
        if stop.no_improvement is not None and full and history.since_improvement() >= stop.no_improvement:
            return f"{history.since_improvement()} trials without improvement"
        if stop.full_trainings is not None and self.scale is not None:
            spent = self.spent(history)
            if spent >= stop.full_trainings - 1e-9:  # a sum of thirds
                return f"{spent:.4g} full trainings' worth is spent"
        if stop.cost is not None and (cost := spending.spent(whole)) >= stop.cost:
            running = ", that of running trials included" if whole.under_way else ""
            return f"a cost of {cost:.4g} {self.cost} is spent{running}"
        if stop.worth is not None and (promise := self.promise(history)) is not None:
            if promise.worth * spending.unit(self.cost)[1] < stop.worth:
                return f"{self.promise_line(promise)}, less than {stop.worth:g} (stop.worth)"
        if stop.minutes is not None and minutes >= stop.minutes:
            return f"{stop.minutes:g} minutes are over"
        return None

    def promise(self, history: History) -> Promise | None:
        """What the best next trial is expected to gain for its cost; None while too little is known to say so.

        Remembered until the history changes: everybody who asks whether the study is over asks for it.
        """
        if self._promises.get("digest") != history.digest:
            seen = as_whole(history.without_retaken().merged)
            found = promised(self.search_space, seen, seed=self.seed)
            self._promises.update(digest=history.digest, promise=found)
        promise: Promise | None = self._promises["promise"]
        return promise

    @cached_property
    def _promises(self) -> dict[str, Any]:
        return {}

    def promise_line(self, promise: Promise) -> str:
        """What the best next trial is expected to gain for its cost, in words."""
        unit, size = spending.unit(self.cost)
        gain = f"{promise.gain:.3g} of {self.metric} for {promise.cost:.3g} {self.cost}"
        return f"the best next trial promises {gain}, or {promise.worth * size:.3g} per {unit}"

    def _on_target(self, trial: Trial) -> bool:
        """Whether a complete trial is good enough in every metric that has a target."""
        targets, pairs = self.targets, zip(self.objectives, trial.outcome, strict=True)
        missed = [each for each, loss in pairs if each.metric in targets and loss > each.loss(targets[each.metric])]
        return bool(targets) and not missed and trial.feasible

    def _confirmations_within(self, history: History, trials: int) -> int:
        """How many of the trials that are left are kept for confirming."""
        if self.repeating is None:
            return 0
        return min(self.repeating.left(history, self.full, trials), max(trials - self.started(history), 0))

    def search_left(self, history: History) -> float:
        """How many trials the search may still start before the rule ``trials`` ends it; infinite without that rule."""
        if self.stop.trials is None:
            return math.inf
        return self.stop.trials - self.started(history) - self._confirmations_within(history, self.stop.trials)

    def total_for_another(self, history: History) -> int:
        """The least total of trials with which the search may start another one."""
        started = self.started(history)
        total = max(started, self.stop.trials or 0)
        while total - started <= self._confirmations_within(history, total):
            total += 1
        return total

    def confirm(self, history: History, exhausted: bool) -> Proposal | None:
        """The training that confirms best, once the search is over; None if nothing is to be confirmed any more.

        Args:
            history: The study so far.
            exhausted: Whether the strategy has nothing more to propose, so that all trials that are left confirm.
        """
        if self.repeating is None:
            return None
        left = self.confirmations_left(history, exhausted)
        if exhausted and left and self.stop.trials is not None:
            return self.repeating.again(history, self.full)
        expect = partial(expected, self.search_space, seed=self.seed)
        return self.repeating.confirm(history, self.full, left, expect)

    def confirmations_left(self, history: History, exhausted: bool = False) -> int:
        """How many trainings are still to be made to confirm, once the search is over; see :meth:`confirm`."""
        repeats, trials = self.repeating, self.stop.trials
        if repeats is None or not repeats.due(history, self.full):
            return 0
        if trials is None:
            return repeats.left(history, self.full, None)
        left = max(trials - self.started(history), 0)
        within = self._confirmations_within(history, trials)
        return left if exhausted else within if within >= left else min(repeats.left(history, self.full, None), left)

    def repeated_error(self, history: History, earlier: Container[int] = ()) -> Trial | None:
        """The last of the trials that failed, if nothing but one and the same error has come of any.

        Args:
            history: The study so far.
            earlier: The numbers of trials that do not count, since the objective may have been mended after them.
        """
        if not self.stop.same_error or history.complete:
            return None
        return failed_alike([trial for trial in history.failed if trial.number not in earlier], self.parallel)
