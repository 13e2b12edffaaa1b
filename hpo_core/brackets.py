"""Brackets and rungs as they follow from the history alone: nothing but the trials says which bracket is how far.

A trial without a parent, at the lowest level of a bracket, takes a place on its first rung; one at the next level with
a parent of the same configuration takes a place on the next rung of its parent's bracket. The trials are taken in order
of number, the brackets in the order of a strategy, so that every process sees the same brackets, whoever proposed the
trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from hpo_core.fidelity import Fidelity
from hpo_core.history import History
from hpo_core.trial import Proposal, Trial, TrialState

Rung = dict[str, Trial]
"""The trials of a rung by the identity of their configurations; a retry takes the place of what it retries."""

Sample = Callable[[History], Sequence[Proposal]]


@dataclass
class Bracket:
    """One bracket of successive halving.

    Args:
        index: Its place in the order of brackets.
        first: The level of its first rung.
        sizes: How many trials each rung is to have.
        rungs: The trials that each has.
    """

    index: int
    first: int
    sizes: tuple[int, ...]
    rungs: list[Rung] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rungs = [{} for _ in self.sizes]

    @property
    def room(self) -> bool:
        """Whether the first rung takes further trials."""
        return len(self.rungs[0]) < self.sizes[0]


class Brackets:
    """All brackets of a study, as far as its trials have opened them.

    Args:
        fidelity: The levels.
        order: How many halvings the bracket of an index has.
        history: The trials.
        exhausted: Whether no new configuration will come, so that a first rung is as full as it ever will be.
    """

    def __init__(
        self, fidelity: Fidelity, order: Callable[[int], int], history: History, *, exhausted: bool = False
    ) -> None:
        self.fidelity, self._order, self._exhausted = fidelity, order, exhausted
        self._brackets: list[Bracket] = []
        self._tried: set[tuple[str, int]] = set()  # configurations at levels
        places: dict[int, tuple[Bracket, int]] = {}
        first_with_room: dict[int, int] = {}
        roots: dict[tuple[str, int], Bracket] = {}
        for trial in history:
            level = fidelity.level_of(trial.aim)
            if level is None:
                continue
            key = trial.identity, level
            self._tried.add(key)
            place = self._above(trial, level, places)
            if place is None:
                bracket = roots.get(key) or self._with_room(level, first_with_room)
                if bracket is None:
                    continue
                place, roots[key] = (bracket, 0), bracket
            place[0].rungs[place[1]][trial.identity] = trial
            places[trial.number] = place

    def _above(self, trial: Trial, level: int, places: dict[int, tuple[Bracket, int]]) -> tuple[Bracket, int] | None:
        """The place of a promotion; None if the trial is none."""
        if trial.parent not in places:
            return None
        bracket, rung = places[trial.parent]
        if bracket.first + rung + 1 != level or trial.identity not in bracket.rungs[rung]:
            return None
        return bracket, rung + 1

    def _with_room(self, level: int, first: dict[int, int]) -> Bracket | None:
        """The first bracket that begins at a level and takes another trial, opened if need be."""
        index = first.get(level, 0)
        # Every bracket comes round within as many as there are levels, if it comes at all.
        while index < len(self._brackets) + len(self.fidelity.levels):
            bracket = self[index]
            if bracket.first == level and bracket.room:
                first[level] = index
                return bracket
            index += 1
        return None

    def __getitem__(self, index: int) -> Bracket:
        while index >= len(self._brackets):
            s = self._order(len(self._brackets))
            first = len(self.fidelity.levels) - 1 - s
            self._brackets.append(Bracket(len(self._brackets), first, self.fidelity.bracket(s)))
        return self._brackets[index]

    def __iter__(self) -> Iterator[Bracket]:
        return iter(tuple(self._brackets))

    def target(self, bracket: Bracket, rung: int) -> int:
        """How many trials a rung is to have; that of the one below may be fewer where a space is used up."""
        if rung == 0 or not bracket.room or not self._exhausted:
            return bracket.sizes[rung]
        return max(1, int(len(bracket.rungs[rung - 1]) / self.fidelity.eta))

    def chosen(self, bracket: Bracket, rung: int) -> list[Trial]:
        """The complete trials of a rung that go on to the next as things stand, best first.

        A configuration that has been tried at the next level elsewhere is passed over.
        """
        above, level = bracket.rungs[rung + 1], bracket.first + rung + 1
        fit = [
            trial
            for trial in best_first(bracket.rungs[rung].values())
            if trial.identity in above or (trial.identity, level) not in self._tried
        ]
        return fit[: self.target(bracket, rung + 1)]

    def closed(self, bracket: Bracket, rung: int) -> bool:
        """Whether all that a rung will ever have has ended, well or not."""
        trials = bracket.rungs[rung]
        if any(trial.state is TrialState.RUNNING for trial in trials.values()):
            return False
        if rung == 0:
            return not bracket.room or (self._exhausted and bool(trials))
        return self.closed(bracket, rung - 1) and len(trials) >= len(self.chosen(bracket, rung - 1))

    def promotion(self, bracket: Bracket) -> Proposal | None:
        """The next promotion within a bracket, from the highest rung that has one."""
        for rung in range(len(bracket.rungs) - 2, -1, -1):
            above = bracket.rungs[rung + 1]
            if not self.closed(bracket, rung):
                continue
            chosen = self.chosen(bracket, rung)
            waiting = [trial for trial in chosen if trial.identity not in above]
            if waiting and len(above) < len(chosen):
                return promoted(waiting[0], self.fidelity, bracket.first + rung + 1, bracket.index, rung + 1)
        return None

    def promotable(self) -> frozenset[int]:
        """The numbers of the trials that have been promoted or may still be."""
        return frozenset(
            trial.number
            for bracket in self
            for rung in range(len(bracket.rungs) - 1)
            for trial in self.chosen(bracket, rung)
        )


def propose(
    fidelity: Fidelity, order: Callable[[int], int], history: History, n: int, sample: Sample
) -> list[Proposal]:
    """Up to ``n`` proposals: of the first bracket that has one, be it a promotion or a new configuration.

    Args:
        fidelity, order, history: As in :class:`Brackets`.
        n: How many are wanted.
        sample: A new configuration; asked with what was just proposed in the history as pending.
    """
    proposals: list[Proposal] = []
    for _ in range(n):
        seen = history.with_pending(proposals) if proposals else history
        proposal = _one(fidelity, order, seen, sample)
        if proposal is None:
            break
        proposals.append(proposal)
    return proposals


def _one(fidelity: Fidelity, order: Callable[[int], int], history: History, sample: Sample) -> Proposal | None:
    brackets = Brackets(fidelity, order, history)
    for index in count():
        bracket = brackets[index]
        if (promotion := brackets.promotion(bracket)) is not None:
            return promotion
        if bracket.room:
            break
    if new := sample(history):
        return entering(new[0], fidelity, bracket.first, bracket.index)
    # The space is used up: rungs that will never be full are closed as they are.
    brackets = Brackets(fidelity, order, history, exhausted=True)
    return next((promotion for each in brackets if (promotion := brackets.promotion(each)) is not None), None)


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """The complete ones by loss; those that were stopped short of what was asked of them do not count."""
    ended = [trial for trial in trials if trial.loss is not None and trial.asked is None]
    return sorted(ended, key=lambda trial: (trial.loss, trial.number))


def promoted(trial: Trial, fidelity: Fidelity, level: int, bracket: int, rung: int) -> Proposal:
    """A trial's configuration once more, at a higher level."""
    notes = {"bracket": bracket, "rung": rung}
    return Proposal(trial.config, fidelity.levels[level], trial.number, notes)


def entering(proposal: Proposal, fidelity: Fidelity, level: int, bracket: int) -> Proposal:
    """A sampler's proposal, for the first rung of a bracket."""
    notes = {**proposal.notes, "bracket": bracket, "rung": 0}
    return replace(proposal, fidelity=fidelity.levels[level], parent=None, notes=notes)
