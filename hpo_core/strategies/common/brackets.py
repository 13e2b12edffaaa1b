"""Reconstructs brackets and rungs from the history alone, and decides which trial to promote next.

A trial without a parent, at the lowest level of a bracket, takes a place on its first rung. A trial at the next level,
whose parent has the same configuration, takes a place on the next rung of its parent's bracket. Trials are assigned in
order of number, to brackets in the strategy's order, so every process sees the same brackets, whoever proposed the
trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from hpo_core.history.fidelity import Fidelity
from hpo_core.history.front import by_standing
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.strategies.common.batch import one_by_one

Rung = dict[str, Trial]
"""The trials of a rung by the identity of their configuration; a retry replaces the trial it retries."""

Sample = Callable[[History, int], Sequence[Proposal]]


@dataclass
class Bracket:
    """One bracket of successive halving.

    Args:
        index: Its position in the order of brackets.
        first: The level of its first rung.
        sizes: The planned number of trials on each rung.
        rungs: The trials on each rung so far.
    """

    index: int
    first: int
    sizes: tuple[int, ...]
    rungs: list[Rung] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rungs = [{} for _ in self.sizes]

    @property
    def room(self) -> bool:
        """Whether the first rung can take more trials."""
        return len(self.rungs[0]) < self.sizes[0]


class Brackets:
    """All brackets of a study that its trials have opened so far.

    Args:
        fidelity: The levels.
        order: Maps the index of a bracket to its number of halvings.
        history: The trials.
        exhausted: Whether there are no new configurations left, so that first rungs will not fill up any more.
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
            level = fidelity.level_of(trial.requested_fidelity)
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
        """The place of a promotion; None if the trial is not a promotion."""
        if trial.parent not in places:
            return None
        bracket, rung = places[trial.parent]
        if bracket.first + rung + 1 != level or trial.identity not in bracket.rungs[rung]:
            return None
        return bracket, rung + 1

    def _with_room(self, level: int, first: dict[int, int]) -> Bracket | None:
        """The first bracket that starts at a level and has room for a trial; opened if necessary."""
        index = first.get(level, 0)
        # The order repeats after at most one bracket per level; a level not seen by then never comes.
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
        """The planned number of trials on a rung; fewer if the space is exhausted and the rung below is not full."""
        if rung == 0 or not bracket.room or not self._exhausted:
            return bracket.sizes[rung]
        return max(1, int(len(bracket.rungs[rung - 1]) / self.fidelity.eta))

    def chosen(self, bracket: Bracket, rung: int) -> list[Trial]:
        """The complete trials of a rung that currently qualify for the next one, best first.

        A configuration already tried at the next level outside this bracket is skipped.
        """
        above, level = bracket.rungs[rung + 1], bracket.first + rung + 1
        fit = [
            trial
            for trial in best_first(bracket.rungs[rung].values())
            if trial.identity in above or (trial.identity, level) not in self._tried
        ]
        return fit[: self.target(bracket, rung + 1)]

    def closed(self, bracket: Bracket, rung: int) -> bool:
        """Whether a rung will get no more trials and all of its trials have ended, complete or failed."""
        trials = bracket.rungs[rung]
        if any(trial.state is TrialState.RUNNING for trial in trials.values()):
            return False
        if rung == 0:
            return not bracket.room or (self._exhausted and bool(trials))
        return self.closed(bracket, rung - 1) and len(trials) >= len(self.chosen(bracket, rung - 1))

    def promotion(self, bracket: Bracket) -> Proposal | None:
        """The next promotion within a bracket, from the highest rung that offers one."""
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
        """The numbers of the trials that have been promoted or may still be promoted."""
        return frozenset(
            trial.number
            for bracket in self
            for rung in range(len(bracket.rungs) - 1)
            for trial in self.chosen(bracket, rung)
        )


def propose(
    fidelity: Fidelity, order: Callable[[int], int], history: History, n: int, sample: Sample
) -> list[Proposal]:
    """Up to ``n`` proposals, each a promotion or a new configuration from the first bracket that offers one.

    Args:
        fidelity, order, history: As in :class:`Brackets`.
        n: The number of proposals wanted.
        sample: Samples a new configuration, given the history with the proposals just made as pending, and the index of
            the level that it enters at.
    """
    return one_by_one(history, n, lambda seen: _one(fidelity, order, seen, sample))


def _one(fidelity: Fidelity, order: Callable[[int], int], history: History, sample: Sample) -> Proposal | None:
    brackets = Brackets(fidelity, order, history)
    for index in count():
        bracket = brackets[index]
        if (promotion := brackets.promotion(bracket)) is not None:
            return promotion
        if bracket.room:
            break
    if new := sample(history, bracket.first):
        return entering(new[0], fidelity, bracket.first, bracket.index)
    # The space is exhausted: rungs that can never fill up are closed as they are.
    brackets = Brackets(fidelity, order, history, exhausted=True)
    return next((promotion for each in brackets if (promotion := brackets.promotion(each)) is not None), None)


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """The complete trials by their standing: by loss, or by front and crowding; those that break a limit last.

    Trials that were stopped early never reached the rung, and those that ended after some of their folds were worse
    than another; both are left out.
    """
    ended = [trial for trial in trials if trial.loss is not None and trial.whole and not trial.stopped_early]
    return by_standing(ended)


def promoted(trial: Trial, fidelity: Fidelity, level: int, bracket: int, rung: int) -> Proposal:
    """A proposal that promotes a trial: the same configuration at a higher level."""
    notes = {"bracket": bracket, "rung": rung}
    return Proposal(trial.config, fidelity.levels[level], trial.number, notes)


def entering(proposal: Proposal, fidelity: Fidelity, level: int, bracket: int) -> Proposal:
    """A sampler's proposal, placed on the first rung of a bracket."""
    notes = {**proposal.notes, "bracket": bracket, "rung": 0}
    return replace(proposal, fidelity=fidelity.levels[level], parent=None, notes=notes)
