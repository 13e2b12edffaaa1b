"""Holds the past of a study as strategies see it: immutable, ordered by number, losses minimised and finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from hpo_core.base.arrays import Array
from hpo_core.history import front, ordered
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.ordered import number_of, place_of
from hpo_core.history.prior import Source
from hpo_core.history.repeated import Noise, by_base, merged, noise_of
from hpo_core.history.trial import Proposal, Trial, TrialState, fidelity_key
from hpo_core.space.search_space import SearchSpace


def encoded(space: SearchSpace, trials: Sequence[Trial]) -> Array:
    """The configurations of trials, shape ``(n, d)``, in the unit cube with NaN where inactive."""
    return np.array([space.encode(trial.config) for trial in trials]).reshape(len(trials), space.dimensions)


PARTS: Mapping[str, Callable[[Trial], bool]] = {
    "complete": lambda trial: trial.state is TrialState.COMPLETE,
    "running": lambda trial: trial.state is TrialState.RUNNING,
    "failed": lambda trial: trial.state is TrialState.FAILED,
    "repeats": lambda trial: trial.repeat_of is not None,
    "_retries": lambda trial: "retry_of" in trial.notes,
    "_confirming": lambda trial: trial.confirms,
    "partial": lambda trial: not trial.whole,
    "stopped_early": lambda trial: trial.stopped_early,
    "priced": lambda trial: trial.cost is not None,
}
"""The trials of a history of which it knows the numbers, however often it is updated."""


def _check(trial: Trial) -> None:
    if trial.state is TrialState.COMPLETE and not all(
        loss is not None and math.isfinite(loss) for loss in (trial.loss, *trial.losses)
    ):
        raise ValueError(f"trial {trial.number} is complete with the loss {trial.losses or trial.loss}")


@dataclass(frozen=True, init=False)
class History:
    """All trials of a study, including running ones.

    Args:
        trials: In any order. Numbers must be unique but may have gaps (a deleted run leaves one).
        next_number: The number of the next trial. Needed if the run of the highest number was deleted, since that
            number must not be used again.
        prior: What was known before the first trial. The views below cover trials only and do not include it.

    Attributes:
        outside: The trials whose configurations are not in the study's space, which was changed since. They have
            numbers, and are in :attr:`every`, but in no other view: neither strategies nor the incumbent know them.

    Raises:
        ValueError: Two trials share a number, or a complete trial has no finite loss.
    """

    trials: tuple[Trial, ...]
    next_number: int
    prior: tuple[Source, ...]
    outside: tuple[Trial, ...]

    def __init__(self, trials: Iterable[Trial] = (), next_number: int = 0, prior: Iterable[Source] = ()) -> None:
        every = tuple(sorted(trials, key=number_of))
        for before, after in pairwise(every):
            if before.number == after.number:
                raise ValueError(f"two trials have the number {after.number}")
        for trial in every:
            _check(trial)
        outside = tuple(trial for trial in every if trial.outside)
        inside = tuple(trial for trial in every if not trial.outside) if outside else every
        self._fill(inside, max(next_number, every[-1].number + 1 if every else 0), tuple(prior), outside)

    def _fill(
        self, trials: tuple[Trial, ...], next_number: int, prior: tuple[Source, ...], outside: tuple[Trial, ...] = ()
    ) -> None:
        object.__setattr__(self, "trials", trials)
        object.__setattr__(self, "outside", outside)
        object.__setattr__(self, "prior", prior)
        object.__setattr__(self, "next_number", next_number)

    def updated(self, trials: Iterable[Trial], next_number: int = 0, gone: Collection[int] = ()) -> History:
        """This history with some trials added, or in the place of those of their numbers, and without others.

        It equals the one that is made of all trials, in far less time if there are many: what was derived from this
        history is carried over.

        Args:
            trials: The trials to add or to replace.
            next_number: As for the class, if it is higher than before.
            gone: The numbers of trials to leave out.

        Raises:
            ValueError: A complete trial has no finite loss.
        """
        given = {trial.number: trial for trial in trials}
        for trial in given.values():
            _check(trial)
        numbers = {*given, *gone}
        old = self._of(numbers)
        if self.outside or any(trial.outside for trial in given.values()):
            left = (trial for trial in self.every if trial.number not in numbers)
            return History((*left, *given.values()), max(next_number, self.next_number), self.prior)
        new: History = object.__new__(History)
        changed = ordered.updated(self.trials, numbers, given.values())
        highest = changed[-1].number + 1 if changed else 0
        new._fill(changed, max(next_number, self.next_number, highest), self.prior)
        self._carry_parts(new, numbers, given, old)
        bases = {trial.number if trial.repeat_of is None else trial.repeat_of for trial in (*old, *given.values())}
        if self.__dict__.get("merged", self) is not self:
            self._carry_merged(new, bases)
        if self.__dict__.get("incumbent") is not None:
            self._carry_incumbent(new, bases, old, given.values())
        return new

    def _carry_parts(
        self, new: History, numbers: Collection[int], given: Mapping[int, Trial], old: Sequence[Trial]
    ) -> None:
        """Give a history the :data:`PARTS` and sums that are known of this one, with what differs between the two."""
        known, carried = self.__dict__, new.__dict__
        for name, belongs in PARTS.items():
            if name in known:
                carried[name] = ordered.updated(known[name], numbers, filter(belongs, given.values()))
        if "_fingerprints" in known:
            carried["_fingerprints"] = (
                known["_fingerprints"]
                + sum(trial.fingerprint for trial in given.values())
                - sum(trial.fingerprint for trial in old)
            )
        if "identities" in known and all(
            trial.number in given and trial.identity == given[trial.number].identity for trial in old
        ):
            carried["identities"] = known["identities"].union(trial.identity for trial in given.values())

    def _carry_merged(self, new: History, bases: Collection[int]) -> None:
        """Give a history its view :attr:`merged`, which differs from this one's in some configurations."""
        repeats = by_base(trial for trial in new.repeats if trial.repeat_of in bases)
        means = [merged(each, repeats.get(each.number, ())) for each in new._of(bases) if each.repeat_of is None]
        gone = set(bases) - {trial.number for trial in means}
        new.__dict__["merged"] = self.merged.updated(means, new.next_number, gone)

    def _carry_incumbent(
        self, new: History, bases: Collection[int], old: Iterable[Trial], given: Iterable[Trial]
    ) -> None:
        """Give a history its incumbent, if only trials that are new can have taken the place of this one's.

        With several objectives it is a compromise of all that is on the front.
        """
        best, highest, complete = self.incumbent, fidelity_key(self.max_fidelity), PARTS["complete"]
        higher = any(complete(trial) and fidelity_key(trial.fidelity) > highest for trial in given)
        if best is None or best.losses or best.number in bases or higher or any(complete(trial) for trial in old):
            return
        rivals = [trial for trial in new.merged._of(bases) if complete(trial) and trial.fidelity == best.fidelity]
        new.__dict__["max_fidelity"] = self.max_fidelity
        first = min([best, *rivals], key=lambda trial: (not trial.whole, trial.standing))
        new.__dict__["incumbent"], new.__dict__["front"] = first, (first,)

    def _of(self, numbers: Iterable[int]) -> list[Trial]:
        return [trial for number in numbers if (trial := self.find(number)) is not None]

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    def find(self, number: int) -> Trial | None:
        """The trial of a number; None if there is none."""
        place = place_of(number, self.every)
        return None if place is None else self.every[place]

    def _part(self, name: str) -> tuple[Trial, ...]:
        return tuple(filter(PARTS[name], self.trials))

    @cached_property
    def every(self) -> tuple[Trial, ...]:
        """All trials, those outside the space among them."""
        return tuple(sorted((*self.trials, *self.outside), key=number_of)) if self.outside else self.trials

    @cached_property
    def under_way(self) -> tuple[Trial, ...]:
        """All trials that run, those outside the space among them."""
        return tuple(filter(PARTS["running"], self.every)) if self.outside else self.running

    @cached_property
    def complete(self) -> tuple[Trial, ...]:
        return self._part("complete")

    @cached_property
    def running(self) -> tuple[Trial, ...]:
        return self._part("running")

    @cached_property
    def failed(self) -> tuple[Trial, ...]:
        return self._part("failed")

    @cached_property
    def repeats(self) -> tuple[Trial, ...]:
        """The trials that train the configuration of an earlier one again."""
        return self._part("repeats")

    @cached_property
    def _retries(self) -> tuple[Trial, ...]:
        return self._part("_retries")

    @cached_property
    def _confirming(self) -> tuple[Trial, ...]:
        return self._part("_confirming")

    @cached_property
    def partial(self) -> tuple[Trial, ...]:
        """The trials that have ended after some of their folds, or are on their way there."""
        return self._part("partial")

    @cached_property
    def stopped_early(self) -> tuple[Trial, ...]:
        return self._part("stopped_early")

    @cached_property
    def priced(self) -> tuple[Trial, ...]:
        """The trials whose cost is known."""
        return self._part("priced")

    @cached_property
    def lost(self) -> tuple[Trial, ...]:
        """The failed trials that died or were stopped with their flow; their configuration is not to blame."""
        return tuple(trial for trial in self.failed if trial.lost)

    @cached_property
    def retaken(self) -> frozenset[int]:
        """The numbers of lost trials that a later trial retries; the outcome of the retry counts instead."""
        retries = (*self._retries, *filter(PARTS["_retries"], self.outside))
        lost = (*self.lost, *(trial for trial in filter(PARTS["failed"], self.outside) if trial.lost))
        retried = {str(trial.notes["retry_of"]) for trial in retries}
        return frozenset(trial.number for trial in lost if str(trial.number) in retried)

    def without_retaken(self) -> History:
        """This history without the lost trials that later ones retry; numbers do not change."""
        if not self.retaken:
            return self
        return self.updated((), gone=self.retaken)

    @cached_property
    def merged(self) -> History:
        """This history with one trial for each configuration: without the repeats, whose losses count in the mean.

        A repeat counts if it was trained as far as the trial that it repeats. Numbers do not change.
        """
        if not self.repeats:
            return self
        repeats = by_base(self.repeats)
        return History(
            (merged(trial, repeats.get(trial.number, ())) for trial in self.every if trial.repeat_of is None),
            self.next_number,
            self.prior,
        )

    @cached_property
    def searched(self) -> History:
        """This history as if nothing had been confirmed yet; what ends a search once ends it for good."""
        if not self._confirming:
            return self
        return self.updated((), gone=[trial.number for trial in self._confirming])

    @cached_property
    def noise(self) -> Noise:
        """How much the loss of one configuration differs from training to training, pooled over all configurations."""
        numbers = sorted({each.repeat_of for each in self.repeats if each.repeat_of is not None})
        return noise_of(trial.observed for trial in self.merged._of(numbers))

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
        counted = [trial for trial in self.every if trial.number not in apart]
        extents = {trial.number: min(fidelity_key(trial.fidelity) / fidelity.max, 1.0) for trial in counted}
        saved = [extents.get(trial.resumed, 0.0) for trial in counted if trial.resumed is not None]
        return math.fsum(extents.values()) - math.fsum(saved)

    @cached_property
    def digest(self) -> str:
        """16 hex digits that change with anything a strategy may depend on; the order of the trials does not matter."""
        seen = self._fingerprints + sum(source.fingerprint for source in self.prior)
        return f"{(self.next_number + seen) % 2**64:016x}"

    @cached_property
    def _fingerprints(self) -> int:
        return sum(trial.fingerprint for trial in self.trials)

    def arrays(self, space: SearchSpace) -> tuple[Array, Array]:
        """The complete trials: ``X``, shape ``(n, d)``, in the unit cube with NaN where inactive; losses, ``(n,)``."""
        return encoded(space, self.complete), np.array([trial.loss for trial in self.complete], dtype=float)

    def with_pending(self, proposals: Sequence[Proposal]) -> History:
        """This history with the proposals added as running trials, as they will be once reserved."""
        return self.with_trials(
            Trial(number, each.config, TrialState.RUNNING, fidelity=each.fidelity, parent=each.parent, notes=each.notes)
            for number, each in enumerate(proposals, self.next_number)
        )

    def with_trials(self, trials: Iterable[Trial]) -> History:
        """This history with trials added.

        Raises:
            ValueError: A number is not new.
        """
        added = list(trials)
        numbers = [trial.number for trial in added]
        if len(set(numbers)) < len(numbers) or any(self.find(number) is not None for number in numbers):
            raise ValueError(f"two trials have one of the numbers {numbers}")
        return self.updated(added) if added else self
