"""Decides which configurations are trained again, so that the best one is not merely the luckiest.

Where the loss of a configuration changes with the seed and the split of the data, the best of ``n`` trials owes much of
its loss to luck: of equal configurations with the noise ``s``, the best of 50 seems 2.2 ``s`` better than it is. Two
kinds of repeats find that out and mend it:

* A **probe** trains the best configuration of the first few trials once more, with another seed and split. If its value
  is the same to the last digit, the objective is deterministic and nothing is ever repeated.
* Otherwise the last part of the budget **confirms**: the ``top`` configurations that a model of all losses expects to
  be best (it sees less luck than single losses show) are each trained once more, then the better half of them again and
  again, as in sequential halving (Karnin, Koren and Somekh 2013, "Almost optimal exploration in multi-armed bandits",
  algorithm 1). The lowest mean of all trainings of a configuration wins.

Everything here is a function of the history, so a study may be killed, resumed, extended or shared among flows at any
moment. What was confirmed before further trials of the search stays an observation; the new part of the study, its
*leg*, has confirmations of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from hpo_core.base import moments
from hpo_core.history.history import History
from hpo_core.history.trial import CONFIRM, PROBE, PURPOSE, REPEAT_OF, Proposal, Trial, TrialState
from hpo_core.selection.allocation import allocate

Expect = Callable[[History], Mapping[int, float]]
"""What a model expects of the trials of a history, by number; lower is better."""

FEWEST = 12
"""Studies with fewer trials repeat nothing unless told to: too little would be left for the search."""

PROBE_AFTER = 6
"""How many complete trials come before the probe, so that it trains something worth knowing."""

PROBES = 2
"""How often equal values are asked for again, at most, where other configurations have the same value by chance."""

SHARE, TOP = 0.15, 4

LEAST, MOST = 6, 32
"""How many trainings confirm by default: at least 6 (or a third of a short study), at most 32."""


@dataclass(frozen=True)
class Repeats:
    """How much of a study is spent on training configurations again.

    Args:
        share: The share of the trials that confirm.
        top: How many of the best configurations are confirmed.
        auto: Whether the share is only a guide, so that short studies spend more and long ones less, and a study of
            fewer than 12 trials nothing.
    """

    share: float = SHARE
    top: int = TOP
    auto: bool = True

    def probe(self, history: History, fidelity: float | None, total: int | None) -> Proposal | None:
        """The probe that is due.

        Args:
            history: The study so far.
            fidelity: That of a full training; None if the study has none.
            total: How many trials the study will have; None if that is open.
        """
        if total is not None and not self.confirmations(total):
            return None
        if len(history.merged.complete) < PROBE_AFTER or not self._may_ask(history):
            return None
        if not self._in_doubt(history, fidelity):
            return None
        asked = {trial.repeat_of for trial in history.repeats}
        left = [trial for trial in _full(history, fidelity) if trial.number not in asked]
        best = min(left, key=lambda trial: trial.standing, default=None)
        return None if best is None else repeat(best, PROBE)

    def _may_ask(self, history: History) -> bool:
        """Whether another probe is allowed; says so without looking at all trials."""
        probes = history.without_retaken().repeats
        return len(probes) < PROBES and not any(trial.state is TrialState.RUNNING for trial in probes)

    def _in_doubt(self, history: History, fidelity: float | None) -> bool:
        """Whether another probe can tell more about the noise."""
        repeats, noise = history.without_retaken().repeats, history.noise
        if not repeats or noise.degrees == 0:
            return True
        if noise.deviation:
            return False
        # Scores of a few rows have few values, so two trainings may agree by chance, as other configurations do.
        asked = {trial.repeat_of for trial in repeats}
        repeated = [each for number in asked if number is not None and (each := history.merged.find(number))]
        values = {each.loss for each in repeated if each.observed and each.fidelity == fidelity and each.whole}
        alike = [trial for trial in history.merged.complete if trial.loss in values]  # few of many, and soon found
        counts = Counter(trial.loss for trial in alike if trial.fidelity == fidelity and trial.whole)
        return any(count > 1 for count in counts.values())

    def confirmations(self, total: int) -> int:
        """How many of the trials of a study, or of a leg of it, confirm.

        >>> [Repeats().confirmations(total) for total in (8, 12, 20, 50, 100, 1000)]
        [0, 4, 6, 8, 15, 32]
        """
        wanted = round(self.share * total)
        if not self.auto:
            return min(max(wanted, 1), total // 2)
        return min(max(wanted, min(LEAST, total // 3)), MOST) if total >= FEWEST else 0

    def noisy(self, history: History) -> bool:
        """Whether confirming is worth its trainings: the objective is known to be noisy, or nothing else is known."""
        noise = history.noise
        return noise.deviation > 0 if noise.degrees else not self.auto

    def due(self, history: History, fidelity: float | None) -> bool:
        """Whether something is to be confirmed; the search has all trials until a configuration is trained to the end.

        Args:
            history: The study so far.
            fidelity: That of a full training; None if the study has none.
        """
        return self.noisy(history) and bool(_full(Leg(history.without_retaken()).search, fidelity))

    def left(self, history: History, fidelity: float | None, total: int | None) -> int:
        """How many trainings are still to be made to confirm, the running ones not among them.

        Args:
            history: The study so far.
            fidelity: That of a full training; None if the study has none.
            total: How many trials the study will have; None if the search has ended by another rule, so that
                confirming comes on top of what it has.
        """
        if not self.due(history, fidelity):
            return 0
        leg = Leg(history.without_retaken())
        if total is None:
            size = round(leg.searched / max(1 - self.share, 0.5))
        else:
            size = total - leg.before
        return max(self.confirmations(max(size, 0)) - len(leg.confirming), 0)

    def confirm(self, history: History, fidelity: float | None, left: int, expect: Expect) -> Proposal | None:
        """The training that confirms best now; None if there is nothing to confirm.

        Args:
            history: The study so far.
            fidelity: That of a full training; None if the study has none.
            left: How many such trainings are left, this one included.
            expect: Chooses the finalists; where it says nothing, their losses do.
        """
        leg = Leg(history.without_retaken())
        if left < 1 or not (finalists := self._finalists(leg, fidelity, left, expect)):
            return None
        asked = Counter(trial.repeat_of for trial in leg.confirming)
        for number in finalists:
            if not asked[number]:
                return repeat(leg.by_number[number], CONFIRM)
        now = {trial.number: trial for trial in history.merged.complete}
        failing = {t.repeat_of for t in leg.confirming if t.state is TrialState.FAILED and not t.lost}
        reliable = [n for n in finalists if n not in failing] or finalists
        ranked = sorted(reliable, key=lambda n: (now[n].violation, now[n].loss, n))[: math.ceil(len(finalists) / 2)]
        every = Counter(trial.repeat_of for trial in history.without_retaken())
        return repeat(now[min(ranked, key=lambda n: (every[n], ranked.index(n)))], CONFIRM)

    def again(self, history: History, fidelity: float | None) -> Proposal | None:
        """The training that helps most to tell which configuration is best, where there is no new one to try.

        Args:
            history: The study so far.
            fidelity: That of a full training; None if the study has none.
        """
        full = [trial for trial in history.merged.complete if trial.fidelity == fidelity]
        if not full:
            return None
        every = Counter(t.number if t.repeat_of is None else t.repeat_of for t in history.without_retaken())
        losses = [trial.loss for trial in full if trial.loss is not None]
        place = allocate(losses, [every[trial.number] for trial in full], history.noise.deviation)
        return repeat(full[place], CONFIRM)

    def _finalists(self, leg: Leg, fidelity: float | None, left: int, expect: Expect) -> list[int]:
        """The configurations to confirm, best first, as the search left them; these do not change while it is done."""
        search = leg.search
        expected = expect(search.merged)
        ranked = sorted(
            _full(search, fidelity), key=lambda t: (t.violation, expected.get(t.number, math.inf), t.loss, t.number)
        )
        return [trial.number for trial in ranked[: min(self.top, left + len(leg.confirming))]]


def _full(history: History, fidelity: float | None) -> list[Trial]:
    """The configurations that were trained to the end."""
    return [trial for trial in history.merged.complete if trial.fidelity == fidelity and trial.whole]


@dataclass(frozen=True)
class Leg:
    """The part of a study since it last went on after something was confirmed, or all of it.

    Args:
        history: The study, without lost trials that are run again.
    """

    history: History

    @cached_property
    def _last(self) -> int:
        """The number of the last trial that does not confirm."""
        return max((trial.number for trial in self.history if not trial.confirms), default=-1)

    @cached_property
    def _start(self) -> int:
        """The number at which the leg begins."""
        return max((t.number + 1 for t in self.history if t.confirms and t.number < self._last), default=0)

    @property
    def before(self) -> int:
        """How many trials were made before it."""
        return sum(trial.number < self._start for trial in self.history)

    @property
    def searched(self) -> int:
        """How many of its trials do not confirm."""
        return sum(trial.number >= self._start and not trial.confirms for trial in self.history)

    @cached_property
    def confirming(self) -> tuple[Trial, ...]:
        """Its trials that confirm."""
        return tuple(trial for trial in self.history if trial.confirms and trial.number > self._last)

    @cached_property
    def search(self) -> History:
        """The history as the search left it."""
        kept = [trial for trial in self.history if not (trial.confirms and trial.number > self._last)]
        return History(kept, self.history.next_number, self.history.prior)

    @cached_property
    def by_number(self) -> dict[int, Trial]:
        """The trials that the search left, by number."""
        return {trial.number: trial for trial in self.search.merged}


@dataclass(frozen=True)
class Winner:
    """What a study that repeats its best configurations tells about the best one.

    Args:
        trial: The best configuration: its first trial, with the mean loss of its trainings.
        error: The standard error of that mean, from the noise of all configurations; NaN if that is unknown.
        luckiest: The trial with the lowest single loss, if another configuration's or above what that is worth.
        luck: How much better than the mean of its configuration the luckiest trial was; NaN if it is all there is.
    """

    trial: Trial
    error: float
    luckiest: Trial
    luck: float


def winner_of(history: History) -> Winner | None:
    """The best configuration and the luckiest trial; None if no trial is complete."""
    best, luckiest = history.incumbent, history.luckiest
    if best is None or luckiest is None or luckiest.loss is None:
        return None
    number = luckiest.number if luckiest.repeat_of is None else luckiest.repeat_of
    own = next((each for each in history.merged.complete if each.number == number), luckiest)
    luck = own.loss - luckiest.loss if own.loss is not None and own.observed else math.nan
    return Winner(best, history.noise.error(best), luckiest, luck)


def trainings_of(history: History, trial: Trial) -> list[Trial]:
    """The complete trainings of a trial's configuration: those that confirmed it, the most typical first, then others.

    The typical one is the median, as the best one is the luckiest; see :mod:`hpo_core.selection.comparison`.
    """
    group = [t for t in history.complete if trial.number in (t.number, t.repeat_of) and t.loss is not None]
    middle = moments.median([t.loss for t in group if t.loss is not None]) if group else 0.0
    return sorted(group, key=lambda t: (not t.confirms, abs((t.loss or 0.0) - middle), t.number))


def repeat(trial: Trial, why: str) -> Proposal:
    """A proposal to train a trial's configuration again, from scratch and as far as the trial was trained."""
    return Proposal(trial.config, trial.fidelity, notes={"strategy": "repeat", REPEAT_OF: trial.number, PURPOSE: why})
