"""The past of a study as a strategy sees it: immutable, ordered by number, losses minimised and finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from hpo_core.fidelity import Fidelity
from hpo_core.prior import Source
from hpo_core.space import Array, SearchSpace
from hpo_core.trial import Proposal, Trial, TrialState


def continues(trial: Trial) -> bool:
    """Whether a trial with a parent goes on from its checkpoint: it said so, or it runs and has not said yet."""
    said = str(trial.notes.get("continued", ""))
    return said.startswith("yes") or (not said and trial.state is TrialState.RUNNING)


@dataclass(frozen=True, init=False)
class History:
    """The trials of a study, running ones included.

    Args:
        trials: In any order; numbers need not be dense (a deleted run leaves a gap) but no two may be equal.
        next_number: The number of the next trial, where the highest of ``trials`` is not the highest that was given
            out (its run was deleted).
        prior: What was known before the first trial. It is no part of the views below, which are of trials.

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
            if trial.state is TrialState.COMPLETE and (trial.loss is None or not math.isfinite(trial.loss)):
                raise ValueError(f"trial {trial.number} is complete with the loss {trial.loss}")
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
    def identities(self) -> frozenset[str]:
        """The identities of all configurations tried, whatever became of them."""
        return frozenset(trial.identity for trial in self.trials)

    @cached_property
    def max_fidelity(self) -> float | None:
        """The highest fidelity of any complete trial; None, which is to the end, where one names none."""
        highest = max(self.complete, key=lambda trial: trial.extent, default=None)
        return None if highest is None else highest.fidelity

    @cached_property
    def incumbent(self) -> Trial | None:
        """The complete trial of lowest loss among those of the highest fidelity; of equals the earliest."""
        highest = self.max_fidelity
        best = [trial for trial in self.complete if trial.fidelity == highest]
        return min(best, key=lambda trial: (trial.loss, trial.number), default=None)

    def since_improvement(self) -> int:
        """How many complete trials of a higher number could have been the incumbent.

        Those are the ones that were trained as far, and those that were stopped since they did not look like it.
        """
        best = self.incumbent
        if best is None:
            return 0
        later = [trial for trial in self.complete if trial.number > best.number]
        return sum(trial.fidelity == best.fidelity or trial.asked is not None for trial in later)

    def origin(self, trial: Trial) -> int:
        """The number of the trial that this one's training, or chain of steps, began as; its own without a parent."""
        by_number = {each.number: each for each in self.trials}
        number, parent = trial.number, trial.parent
        while parent is not None and parent < number:
            above = by_number.get(parent)
            if above is None:
                break
            number, parent = above.number, above.parent
        return number

    def spent(self, fidelity: Fidelity) -> float:
        """How many full trainings' worth the trials have cost, running ones as far as they are to go.

        A trial that went on from its parent's checkpoint costs the difference; one that runs is taken to do so.
        """
        extents = {trial.number: min(trial.extent / fidelity.max, 1.0) for trial in self.trials}
        saved = [
            extents.get(trial.parent, 0.0) for trial in self.trials if trial.parent is not None and continues(trial)
        ]
        return math.fsum(extents.values()) - math.fsum(saved)

    @cached_property
    def digest(self) -> str:
        """16 hex digits that change with anything a strategy may depend on, whatever the order of the trials."""
        seen = sum(trial.fingerprint for trial in self.trials) + sum(source.fingerprint for source in self.prior)
        return f"{(self.next_number + seen) % 2**64:016x}"

    def arrays(self, space: SearchSpace) -> tuple[Array, Array]:
        """The complete trials: ``X``, shape ``(n, d)``, in the unit cube with NaN where inactive; losses, ``(n,)``."""
        if not self.complete:
            return np.empty((0, space.dimensions)), np.empty(0)
        losses = np.array([trial.loss for trial in self.complete], dtype=float)
        return np.array([space.encode(trial.config) for trial in self.complete]), losses

    def with_pending(self, proposals: Sequence[Proposal]) -> History:
        """This history with the proposals standing in it as running trials, as they will once reserved."""
        numbers = range(self.next_number, self.next_number + len(proposals))
        return History(
            (
                *self.trials,
                *(
                    Trial(n, p.config, TrialState.RUNNING, fidelity=p.fidelity, parent=p.parent, notes=p.notes)
                    for n, p in zip(numbers, proposals, strict=True)
                ),
            ),
            next_number=self.next_number,
            prior=self.prior,
        )
