"""The laws of every strategy, which the tests hold the project's own to, and ``hpo check-strategy`` a user's.

A law asks a strategy a handful of times on each space, so that all of them are quick for strategies that think before
they answer. It raises :class:`Broken` with a counter-example.
"""

from __future__ import annotations

import math
import pickle
import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.space.configuration import identity
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.contract.histories import (
    FINITE,
    LENGTH,
    SPACES,
    answer,
    completed,
    everything,
    exact,
    history_of,
    key,
    loss,
    slopes,
    through_json,
)

LENGTHS = {"mixed": 50, "tiny": 6, "constrained": 12}
"""How many trials a whole run has, on the spaces that there is one on."""

_CLASS = re.compile(r"<class '(\w+)'>")


class Broken(AssertionError):
    """A strategy breaks a law; the message is the counter-example."""


class Proposing(Protocol):
    """Whatever has the one function of a strategy."""

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]: ...


@dataclass(frozen=True)
class Case:
    """A strategy on one of the spaces.

    Args:
        make: Makes the strategy anew.
        name: The space, one of :data:`SPACES`.
        seed: The study's seed, from which the history is drawn as well.
        elsewhere: What the strategy proposes in another process, by space; see :func:`proposals_of`.
        in_study: Asks the strategy as a study would, which checks more of one of the user's own.
    """

    make: Callable[[], Proposing]
    name: str
    seed: int
    elsewhere: Callable[[], dict[str, list[str]]] = dict
    in_study: Callable[[SearchSpace, History, int, int], object] | None = None

    @property
    def space(self) -> SearchSpace:
        return SPACES[self.name]

    @property
    def history(self) -> History:
        # Copies, so that a strategy that changes what it is given does so for one law at a time.
        return History(replace(trial, config=dict(trial.config)) for trial in history_of(self.name, self.seed))

    @cached_property
    def two(self) -> tuple[Proposal, ...]:
        """What the strategy proposes after the history, asked for two."""
        return tuple(self.ask(self.history, 2))

    def ask(self, history: History, n: int) -> list[Proposal]:
        return self.make().propose(self.space, history, n, seed=self.seed)

    def broken(self, problem: str) -> Broken:
        return Broken(f"on the space {self.name!r}: {_CLASS.sub(lambda found: found[1], problem)}")

    def equal(self, found: Sequence[str], wanted: Sequence[str], how: str) -> None:
        """Check that two lists of proposals are the same.

        Raises:
            Broken: They are not.
        """
        if list(found) != list(wanted):
            ours, theirs = next(
                (pair for pair in zip(found, wanted, strict=False) if pair[0] != pair[1]),
                (f"{len(found)} proposals", f"{len(wanted)} proposals"),
            )
            raise self.broken(f"{how}, it proposes {ours} in place of {theirs}")

    def check(self, history: History, proposals: Sequence[Proposal], n: int) -> None:
        """Check that proposals lie in the space, and that nothing new is there twice.

        Raises:
            Broken: It is not.
        """
        if len(proposals) > n:
            raise self.broken(f"asked for {n}, it returns {len(proposals)} proposals")
        taken, numbers = {key(trial) for trial in history}, {trial.number for trial in history}
        for proposal in proposals:
            config = dict(proposal.config)
            try:
                valid = self.space.validated(config)
            except ValueError as error:
                raise self.broken(f"it proposes {config}, which is outside: {error}") from None
            if exact([valid]) != exact([config]):
                raise self.broken(f"it proposes {config}, which must be {valid} in this order and with these types")
            if proposal.fidelity is not None and not proposal.fidelity > 0:
                raise self.broken(f"it proposes the fidelity {proposal.fidelity!r}")
            if proposal.parent is not None and proposal.parent not in numbers:
                raise self.broken(f"it continues trial {proposal.parent}, which is not there")
            if key(proposal) in taken:
                raise self.broken(f"it proposes {config} although that is tried, fails or runs already")
            taken.add(key(proposal))

    def check_in_study(self, history: History, n: int) -> None:
        """Check that a study would take the proposals.

        Raises:
            Broken: It would not.
        """
        if self.in_study is None:
            return
        try:
            self.in_study(self.space, history, n, self.seed)
        except InputError as error:
            raise self.broken(f"{error.problem}; {error.remedy}") from None

    def some(self, history: History, n: int, where: str) -> list[Proposal]:
        """Valid proposals, one at least.

        Raises:
            Broken: It is.
        """
        proposals = self.ask(history, n)
        if not proposals:
            raise self.broken(f"{where}, it proposes nothing")
        self.check(history, proposals, n)
        return proposals

    def grown(self, history: History, length: int) -> History:
        """The history once the strategy has run on, one trial at a time, to a length or to its end."""
        for _ in range(length - len(history)):
            proposals = self.ask(history, 1)
            if not proposals:
                break
            config = proposals[0].config
            running = history.with_pending(proposals[:1]).trials[-1]
            done = replace(running, state=TrialState.COMPLETE, loss=loss(config), hypergradient=slopes(config))
            history = History((*history, done))
        return history


def proposals_of(make: Callable[[], Proposing], seed: int, spaces: Sequence[str]) -> dict[str, list[str]]:
    """What a strategy proposes on each space, to be compared with what it proposes elsewhere."""
    return {name: answer(Case(make, name, seed).two) for name in spaces}


def valid(case: Case) -> None:
    """proposals are of the space, new, and no more than asked for"""
    case.check_in_study(History(), 3)
    case.check_in_study(case.history, 2)
    case.some(History(), 3, "in a new study")
    case.check(case.history, case.two, 2)


def same_elsewhere(case: Case) -> None:
    """another process, with another hash seed, gives the same proposals"""
    case.equal(answer(case.two), case.elsewhere()[case.name], "in this process")


def order(case: Case) -> None:
    """the order of the history and of its keys does not matter"""
    trials = list(case.history)
    random.Random(case.seed).shuffle(trials)  # noqa: S311  (no secret)
    # Keys of a dict have an order, too; and what is for people must not matter.
    shuffled = [
        replace(trial, config=dict(sorted(trial.config.items(), reverse=True)), run_id=f"{i}", start=i, reason="other")
        for i, trial in enumerate(trials)
    ]
    case.equal(answer(case.ask(History(shuffled), 2)), answer(case.two), "given the same trials in another order")


def pure(case: Case) -> None:
    """the same arguments give the same proposals; settings and arguments stay as they are"""
    made, space, history = case.make(), case.space, case.history

    def settings() -> str:
        # A value that is computed once and kept, as by functools.cached_property, is not a setting.
        return repr({name: getattr(made, name) for name in getattr(made, "__dataclass_fields__", None) or vars(made)})

    def arguments() -> str:
        return repr((space.to_json(), history.trials, history.next_number, history.digest))

    made_as, given = settings(), arguments()
    made.propose(space, History(), 1, seed=case.seed + 1)  # a strategy that remembers would go on from here
    again = made.propose(space, history, 2, seed=case.seed)
    if settings() != made_as:
        raise case.broken(f"propose changes what the strategy was made with: {made_as} to {settings()}")
    if arguments() != given:
        raise case.broken("propose changes the space or the history")
    case.equal(answer(again), answer(case.two), "asked again")


def global_generators(case: Case) -> None:
    """the generators of random and numpy.random are neither used nor touched"""
    made = case.make()

    def asked() -> list[str]:
        return answer(made.propose(case.space, case.history, 2, seed=case.seed))

    # Threads of other libraries may draw from them as well. So a call is tried three times: one that draws would do so
    # each time, and one that seeds them leaves a state that is not the one before, as that differs each time.
    for attempt in range(3):
        with _seeded(attempt):
            state, numpy_state = random.getstate(), repr(np.random.get_state())
            found = asked()
            if random.getstate() == state and repr(np.random.get_state()) == numpy_state:
                break
    else:
        raise case.broken("it draws from a global generator, or seeds one; draw from trial_rng(seed, number)")
    with _seeded():
        case.equal(asked(), found, "with the global generators seeded")


@contextmanager
def _seeded(plus: int = 0) -> Iterator[None]:
    state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(4711 + plus)
    np.random.seed(4711 + plus)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


CLOCKS = ("time", "time_ns", "monotonic", "perf_counter")


def clock(case: Case) -> None:
    """the clock does not matter"""
    saved: dict[str, Any] = {name: getattr(time, name) for name in CLOCKS}
    try:
        for name, read in saved.items():
            setattr(time, name, lambda read=read: 2 * read())
        found = answer(case.ask(case.history, 2))
    finally:
        for name, read in saved.items():
            setattr(time, name, read)
    case.equal(found, answer(case.two), "at another time of day")


def pickles(case: Case) -> None:
    """the strategy can be pickled, and is the same after that"""
    try:
        copied = pickle.loads(pickle.dumps(case.make()))  # noqa: S301  (what was pickled a moment ago)
    except Exception as error:
        raise case.broken(f"it cannot be pickled ({type(error).__name__}: {error})") from None
    case.equal(answer(copied.propose(case.space, case.history, 2, seed=case.seed)), answer(case.two), "after pickling")


def resume(case: Case) -> None:
    """from any earlier point, read back from disk, it goes on as if it had never stopped"""
    length = LENGTHS[case.name]
    whole = case.grown(History(), length)
    if len(whole) != length:
        raise case.broken(f"it ends after {len(whole)} of {length} trials")
    for start in sorted({0, 1, 2, length // 4, length // 2, length - 2, length - 1}):
        again = case.ask(through_json(case.space, History(whole.trials[:start])), 1)
        case.equal(
            exact([each.config for each in again]), exact([whole.trials[start].config]), f"resumed after {start} trials"
        )
    resumed = case.grown(through_json(case.space, History(whole.trials[: length // 2])), length)
    case.equal(exact([t.config for t in resumed]), exact([t.config for t in whole]), f"resumed after {length // 2}")
    if resumed.digest != whole.digest:
        raise case.broken("fidelities or parents differ after a resume")


def one_by_one(case: Case) -> None:
    """two proposals are what it gives one by one, with the first running"""
    history, singles = case.history, list[Proposal]()
    for _ in range(2):
        one = case.ask(history, 1)
        singles += one
        history = history.with_pending(one)
    case.equal(answer(singles), answer(case.two), "asked one by one")


def failures(case: Case) -> None:
    """where all have failed, it proposes what has not"""
    configs = [trial.config for trial in case.history]
    failed = (Trial(i, config, TrialState.FAILED, reason="killed") for i, config in enumerate(configs))
    case.some(History(failed), 2, "after failed trials alone")


def ties(case: Case) -> None:
    """it goes on where all losses are the same"""
    configs = [trial.config for trial in case.history]
    case.some(History(completed(configs, lambda config: 1.5)), 2, "after equal losses")


def limits(case: Case) -> None:
    """it goes on whether trials keep the limits of a study or break them"""
    for feasible in (0, 1, 3):  # none, all, every third
        values = iter([0.5, 1e300, math.inf, 1e-9] * LENGTH)
        trials = [
            replace(trial, excess={"a": -0.1 if feasible and i % feasible == 0 else next(values), "b": -1.0})
            for i, trial in enumerate(completed([trial.config for trial in case.history]))
        ]
        proposals = case.some(History(trials), 2, "beside limits")
        again = case.ask(History(reversed(trials)), 2)
        case.equal(answer(again), answer(proposals), "given the same trials, some beyond limits, in another order")


def several_objectives(case: Case) -> None:
    """it goes on whatever trials are worth by several metrics, or refuses such a study"""
    try:
        getattr(case.make(), "check_several", lambda: None)()
    except ValueError:
        return
    worth = [(0.5, 1e300, 0.5), (0.5, -1e300, 0.5), (0.0, 1.0, 2.0), (1.0, 0.0, 5e-324)]
    for objectives in (2, 3):
        rows = iter(worth * LENGTH)
        trials = [
            replace(trial, loss=losses[0], losses=losses, excess={"a": 0.1 - i % 3})
            if trial.state is TrialState.COMPLETE and (losses := next(rows)[:objectives])
            else trial
            for i, trial in enumerate(case.history)
        ]
        history = History(trials)
        proposals = case.some(history, 2, f"with {objectives} metrics")
        again = case.ask(History(reversed(trials)), 2)
        case.equal(answer(again), answer(proposals), "given the same trials of several metrics in another order")
        second = case.ask(history.with_pending(case.ask(history, 1)), 1)
        case.equal(answer(second), answer(proposals[1:]), "asked one by one in a study of several metrics")


def extreme_losses(case: Case) -> None:
    """it bears losses of 1e308"""
    configs = [trial.config for trial in case.history]
    values = iter([1e308, -1e308, 0.0, 5e-324] * len(configs))
    history = History(completed(configs, lambda config: next(values)))
    case.check(history, case.ask(history, 1), 1)


def used_up(case: Case) -> None:
    """a finite space is used up, and then it is done"""
    configs = everything(case.space)
    most = 12 * len(configs) + 12  # each at several fidelities
    history = case.grown(History(), most)
    if left := [config for config in configs if identity(config) not in history.identities]:
        raise case.broken(f"it ends after {len(history)} trials without {left[0]}")
    if len(history) == most or len(set(map(key, history))) < len(history):
        raise case.broken(f"it goes on after all {len(configs)} configurations are tried, or repeats some")


def last_one(case: Case) -> None:
    """the last configuration of a finite space is found"""
    *others, last = sorted(everything(case.space), key=lambda config: identity({**config, "seed": case.seed}))
    proposals = case.ask(History(completed(others)), 3)
    case.equal(exact([proposal.config for proposal in proposals]), exact([last]), "with one configuration left")


def nothing_left(case: Case) -> None:
    """where nothing is left, it proposes nothing"""
    for state in TrialState:
        trials = completed(everything(case.space))
        if state is not TrialState.COMPLETE:
            trials = [replace(trial, state=state, loss=None) for trial in trials]
        case.equal(answer(case.ask(History(trials), 2)), [], f"with all configurations {state.value}")


def foreign_trials(case: Case) -> None:
    """trials that it did not propose are used, whatever their numbers"""
    # What the strategy is about to say, somebody else has tried in the meantime.
    ended = [
        replace(t, state=TrialState.COMPLETE, loss=loss(t.config), hypergradient=slopes(t.config))
        if t.state is TrialState.RUNNING
        else t
        for t in case.history.with_pending(case.two)
    ]
    # Numbers may have gaps: a run was deleted.
    moved = History(replace(trial, number=2 * trial.number + 1, parent=None) for trial in ended)
    proposals = case.ask(moved, 2)
    case.check(moved, proposals, 2)
    if not proposals and case.name not in FINITE:
        raise case.broken("after trials that it did not propose, it proposes nothing")


def continued(case: Case) -> None:
    """what it continues it has kept: promotable gives numbers of the history, and always the same ones"""
    made = case.make()
    if not hasattr(made, "promotable"):  # then all complete trials are kept
        return

    def kept(history: History, asked: Any = made) -> frozenset[int]:
        before = repr(history.trials)
        found = asked.promotable(history)
        if not isinstance(found, Collection) or isinstance(found, str | Mapping):
            raise case.broken(f"promotable returns {found!r}; return a frozenset of numbers of trials")
        if repr(history.trials) != before:
            raise case.broken("promotable changes the history")
        for number in set(found) - {trial.number for trial in history}:
            raise case.broken(f"promotable names trial {number!r}, which is not there")
        return frozenset(found)

    whole = case.grown(History(), LENGTHS[case.name])
    for history in (History(), case.history, whole):
        found = kept(history)
        for again in (kept(history), kept(History(reversed(history.trials)), case.make())):
            if again != found:
                raise case.broken(f"asked again, promotable gives {sorted(again)} in place of {sorted(found)}")
    for i, trial in enumerate(whole):
        if trial.parent is not None and trial.parent not in kept(History(whole.trials[:i])):
            raise case.broken(f"it continues trial {trial.parent}, which promotable has left out before")


Law = Callable[[Case], None]

LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        valid, pure, order, one_by_one, same_elsewhere, resume, global_generators, clock, pickles, failures, ties,
        limits, several_objectives, extreme_losses, foreign_trials, continued, used_up, last_one, nothing_left,
    )
}  # fmt: skip
"""All laws by name; the docstring of each says it in words."""

_ONLY: dict[str, Sequence[str]] = {
    **dict.fromkeys(("resume", "several_objectives", "continued"), tuple(LENGTHS)),
    **dict.fromkeys(("used_up", "last_one", "nothing_left"), FINITE),
}


def spaces_of(law: str) -> Sequence[str]:
    """The spaces that a law is about."""
    return _ONLY.get(law, tuple(SPACES))
