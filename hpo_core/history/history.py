"""Holds the past of a study as strategies see it: immutable, ordered by number, losses minimised and finite."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from hpo_core.base import moments
from hpo_core.base.arrays import Array
from hpo_core.history import front
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.prior import Source
from hpo_core.history.trial import Proposal, Trial, TrialState, fidelity_key
from hpo_core.space.search_space import SearchSpace


@dataclass(frozen=True)
class Noise:
    """The spread of losses of one configuration.

    Args:
        deviation: The standard deviation, pooled over configurations; NaN if none was trained twice.
        degrees: Its degrees of freedom: how many trainings beyond the first it rests on.
    """

    deviation: float = math.nan
    degrees: int = 0

    def error(self, trial: Trial) -> float:
        """The standard error of a trial's loss, a mean over its observations; NaN if the noise is unknown.

        Args:
            trial: One of :attr:`History.merged`.
        """
        return self.deviation / math.sqrt(trial.observations)


def noise_of(groups: Iterable[Sequence[float]]) -> Noise:
    """The noise, from the losses of several trainings of each of some configurations.

    >>> noise = noise_of([(1.0, 1.2), (3.0, 3.1, 3.2)])
    >>> round(noise.deviation, 4), noise.degrees
    (0.1155, 3)
    """
    spread = [(len(losses) - 1, moments.deviation(losses)) for losses in groups if len(losses) > 1]
    degrees = sum(free for free, _ in spread)
    if not degrees:
        return Noise()
    return Noise(math.hypot(*(s * math.sqrt(free / degrees) for free, s in spread)), degrees)


def _merge(trial: Trial, repeats: Sequence[Trial]) -> Trial:
    """A trial with the mean loss of all trainings of its configuration.

    It is not confirmed if one of them failed: what fails now and then is no configuration to rely on.
    """
    alike = [
        t for t in repeats if t.state is TrialState.COMPLETE and t.fidelity == trial.fidelity and t.loss is not None
    ]
    if trial.loss is None or not alike:
        return trial
    observed = (trial.loss, *(t.loss for t in alike if t.loss is not None))
    fails = any(t.state is TrialState.FAILED and not t.notes.get("lost") for t in repeats)
    confirmed = any(t.confirms for t in alike) and not fails
    excess = {name: moments.mean([each.excess[name] for each in (trial, *alike)]) for name in trial.excess}
    losses = tuple(map(moments.mean, zip(trial.losses, *(each.losses for each in alike), strict=True)))
    loss = moments.mean(observed)
    return replace(trial, loss=loss, losses=losses, observed=observed, confirmed=confirmed, excess=excess)


def continues(trial: Trial) -> bool:
    """Whether a trial resumes from its parent's checkpoint: it reported so, or it runs and has not reported yet."""
    said = str(trial.notes.get("continued", ""))
    return said.startswith("yes") or (not said and trial.state is TrialState.RUNNING)


@dataclass(frozen=True, init=False)
class History:
    """All trials of a study, including running ones.

    Args:
        trials: In any order. Numbers must be unique but may have gaps (a deleted run leaves one).
        next_number: The number of the next trial. Needed if the run of the highest number was deleted, since that
            number must not be used again.
        prior: What was known before the first trial. The views below cover trials only and do not include it.

    Raises:
        ValueError: Two trials share a number, or a complete trial has no finite loss.
    """

    trials: tuple[Trial, ...]
    next_number: int
    prior: tuple[Source, ...]

    def __init__(self, trials: Iterable[Trial] = (), next_number: int = 0, prior: Iterable[Source] = ()) -> None:
        ordered = tuple(sorted(trials, key=lambda trial: trial.number))
        for before, after in pairwise(ordered):
            if before.number == after.number:
                raise ValueError(f"two trials have the number {after.number}")
        for trial in ordered:
            if trial.state is TrialState.COMPLETE and not all(
                loss is not None and math.isfinite(loss) for loss in (trial.loss, *trial.losses)
            ):
                raise ValueError(f"trial {trial.number} is complete with the loss {trial.losses or trial.loss}")
        object.__setattr__(self, "trials", ordered)
        object.__setattr__(self, "prior", tuple(prior))
        object.__setattr__(self, "next_number", max(next_number, ordered[-1].number + 1 if ordered else 0))

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    def _in_state(self, state: TrialState) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.state is state)

    @cached_property
    def complete(self) -> tuple[Trial, ...]:
        return self._in_state(TrialState.COMPLETE)

    @cached_property
    def running(self) -> tuple[Trial, ...]:
        return self._in_state(TrialState.RUNNING)

    @cached_property
    def failed(self) -> tuple[Trial, ...]:
        return self._in_state(TrialState.FAILED)

    @cached_property
    def lost(self) -> tuple[Trial, ...]:
        """The failed trials that died or were stopped with their flow; their configuration is not to blame."""
        return tuple(trial for trial in self.failed if trial.notes.get("lost"))

    @cached_property
    def retaken(self) -> frozenset[int]:
        """The numbers of lost trials that a later trial retries; the outcome of the retry counts instead."""
        retries = {str(trial.notes["retry_of"]) for trial in self.trials if "retry_of" in trial.notes}
        return frozenset(trial.number for trial in self.lost if str(trial.number) in retries)

    def without_retaken(self) -> History:
        """This history without the lost trials that later ones retry; numbers do not change."""
        if not self.retaken:
            return self
        left = [trial for trial in self.trials if trial.number not in self.retaken]
        return History(left, self.next_number, self.prior)

    @cached_property
    def merged(self) -> History:
        """This history with one trial for each configuration: without the repeats, whose losses count in the mean.

        A repeat counts if it was trained as far as the trial that it repeats; the others are only left out. Numbers do
        not change.
        """
        repeats: dict[int, list[Trial]] = {}
        for trial in self.trials:
            if trial.repeat_of is not None:
                repeats.setdefault(trial.repeat_of, []).append(trial)
        if not repeats:
            return self
        return History(
            (_merge(trial, repeats.get(trial.number, ())) for trial in self.trials if trial.repeat_of is None),
            self.next_number,
            self.prior,
        )

    @cached_property
    def searched(self) -> History:
        """This history as if nothing had been confirmed yet; what ends a search once ends it for good."""
        if not any(trial.confirms for trial in self.trials):
            return self
        return History((t for t in self.trials if not t.confirms), self.next_number, self.prior)

    @cached_property
    def noise(self) -> Noise:
        """How much the loss of one configuration differs from training to training, pooled over all configurations."""
        return noise_of(trial.observed for trial in self.merged.complete if trial.observed)

    @cached_property
    def identities(self) -> frozenset[str]:
        """The identities of all configurations tried, whatever their outcome."""
        return frozenset(trial.identity for trial in self.trials)

    @cached_property
    def max_fidelity(self) -> float | None:
        """The highest fidelity of any complete trial; None (trained to the end) if one has no fidelity."""
        highest = max(self.complete, key=lambda trial: fidelity_key(trial.fidelity), default=None)
        return None if highest is None else highest.fidelity

    @cached_property
    def incumbent(self) -> Trial | None:
        """The trial of :attr:`merged` with the best standing at the highest fidelity: the lowest loss within limits.

        Once configurations were confirmed, only these can win, if they keep the limits: any other loss is one draw,
        chosen for its luck. A trial that ended after some of its folds cannot win at all.

        With several objectives it is a compromise: the point of :attr:`front` that is nearest to the best in each, as
        shares of the front's extent.
        """
        return front.compromise(self.front)

    @cached_property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other one of :attr:`merged` dominates at the highest fidelity, within limits.

        They are in order of the first objective. As long as none keeps the limits, those that break them least stand
        for them. With one objective, this is the incumbent alone.
        """
        return front.front_of(self._fullest)

    @cached_property
    def _fullest(self) -> tuple[Trial, ...]:
        """The trials of :attr:`merged` that were trained furthest."""
        highest = self.max_fidelity
        full = tuple(trial for trial in self.merged.complete if trial.fidelity == highest)
        return tuple(trial for trial in full if trial.whole) or full

    @cached_property
    def reference(self) -> tuple[float, ...]:
        """The corner from which :attr:`hypervolume` counts; see :data:`hpo_core.history.front.REFERENCE_TRIALS`."""
        return front.reference_of(self.complete)

    @cached_property
    def hypervolume(self) -> float:
        """The volume that the front dominates up to the reference; 0 with one objective, or if no trial is there."""
        return front.hypervolume_of(self.front, self.reference)

    def hypervolumes(self) -> list[tuple[Trial, float]]:
        """The hypervolume after each trial of the highest fidelity, in order of number; empty with one objective."""
        if not self.reference:
            return []
        return list(zip(self._fullest, front.hypervolumes(self._fullest, self.reference), strict=True))

    @cached_property
    def luckiest(self) -> Trial | None:
        """The complete trial with the lowest single loss at the highest fidelity; the earliest one in a tie.

        With several objectives, nothing is trained again, so that it is the incumbent.
        """
        if self.reference:
            return self.incumbent
        best = [trial for trial in self.complete if trial.fidelity == self.max_fidelity]
        best = [trial for trial in best if trial.whole] or best
        return min(best, key=lambda trial: trial.standing, default=None)

    def since_improvement(self) -> int:
        """How many complete trials after the incumbent, or the newest trial of the front, had a chance to replace it.

        These are the trials at the incumbent's fidelity, and those that were stopped early because they looked worse.
        """
        best = max(self.front, key=lambda trial: trial.number, default=None)
        if best is None:
            return 0
        later = [trial for trial in self.merged.complete if trial.number > best.number]
        return sum(trial.fidelity == best.fidelity or trial.stopped_early for trial in later)

    def origin(self, trial: Trial) -> int:
        """The number of the trial where this one's training, or chain of steps, began; its own without a parent."""
        by_number = {each.number: each for each in self.trials}
        number, parent = trial.number, trial.parent
        # Numbers fall along the way, so even a tampered history with a cycle of parents ends.
        while parent is not None and parent < number:
            above = by_number.get(parent)
            if above is None:
                break
            number, parent = above.number, above.parent
        return number

    def spent(self, fidelity: Fidelity, apart: Collection[int] = ()) -> float:
        """The cost of the trials, in full trainings; a running trial counts up to its requested fidelity.

        A trial that resumed from its parent's checkpoint costs only the difference; a running one is assumed to resume.

        Args:
            fidelity: Defines a full training.
            apart: The numbers of trials to leave out.
        """
        counted = [trial for trial in self.trials if trial.number not in apart]
        extents = {trial.number: min(fidelity_key(trial.fidelity) / fidelity.max, 1.0) for trial in counted}
        saved = [extents.get(trial.parent, 0.0) for trial in counted if trial.parent is not None and continues(trial)]
        return math.fsum(extents.values()) - math.fsum(saved)

    @cached_property
    def digest(self) -> str:
        """16 hex digits that change with anything a strategy may depend on; the order of the trials does not matter."""
        seen = sum(trial.fingerprint for trial in self.trials) + sum(source.fingerprint for source in self.prior)
        return f"{(self.next_number + seen) % 2**64:016x}"

    def arrays(self, space: SearchSpace) -> tuple[Array, Array]:
        """The complete trials: ``X``, shape ``(n, d)``, in the unit cube with NaN where inactive; losses, ``(n,)``."""
        if not self.complete:
            return np.empty((0, space.dimensions)), np.empty(0)
        losses = np.array([trial.loss for trial in self.complete], dtype=float)
        return np.array([space.encode(trial.config) for trial in self.complete]), losses

    def with_pending(self, proposals: Sequence[Proposal]) -> History:
        """This history with the proposals added as running trials, as they will be once reserved."""
        return self.with_trials(
            Trial(number, each.config, TrialState.RUNNING, fidelity=each.fidelity, parent=each.parent, notes=each.notes)
            for number, each in enumerate(proposals, self.next_number)
        )

    def with_trials(self, trials: Iterable[Trial]) -> History:
        """This history with trials added, whose numbers must be new."""
        return History((*self.trials, *trials), self.next_number, self.prior)
