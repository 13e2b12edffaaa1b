"""Runs strategies of the user's own: finds their classes, and checks each thing that they propose.

A strategy of the user's own is named by its import path, ``module:Class``, or by an entry point of the group
:data:`GROUP`. Any class will do that has ``propose`` as in :class:`hpo_core.strategies.base.Strategy`, whether it is a
subclass or not; what it does not say of itself holds as there.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import entry_points
from typing import Any, ClassVar, TypeVar

from hpo_core.base.errors import InputError
from hpo_core.base.importing import extend_path, import_named, is_reference
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy

T = TypeVar("T")

GROUP = "hpo_flows.strategies"
"""The group of entry points under which a package may name its strategies."""

ASKED_TWICE = 3
"""For the first trials of a study each question is asked twice: a strategy that draws lots shows at once."""

NAMES_SETTING = re.compile(r"[\w.]+: ")
"""How the message of a check begins that names the setting to change."""

TRAITS = tuple(name for name in Strategy.__annotations__ if name != "name")
"""What a strategy says of itself as class attributes."""

LOADED: dict[str, type[Own]] = {}
"""The strategies of the user's own that were imported in this process, by name."""


def own_class(name: str, field: str, folders: Sequence[str] = ()) -> type[Own]:
    """Import a strategy of the user's own.

    Args:
        name: ``module:Class``, or the name of an entry point.
        field: Where the study file names it, for messages.
        folders: Where modules are looked for before anywhere else; the working folder if none is given.

    Raises:
        InputError: There is none, or it is not a strategy.
    """
    if name not in LOADED:
        extend_path(folders or (os.getcwd(),))
        LOADED[name] = _described(_found(name, field), name, field)
    return LOADED[name]


def entries() -> list[str]:
    """The names of the entry points of all packages that are installed."""
    return sorted(entry.name for entry in entry_points(group=GROUP))


def _found(name: str, field: str) -> Any:
    if is_reference(name):
        return import_named(name, field)
    if ":" in name:
        raise InputError(field, f"{name!r} is not an import path", "write it as module:Class, such as mine:MyStrategy")
    entry, *others = sorted(entry_points(group=GROUP, name=name), key=lambda each: each.value)
    if others:
        problem = f"{name!r} is an entry point of several packages: {entry.value} and {others[0].value}"
        raise InputError(field, problem, "name the class itself, as module:Class")
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        problem = f"{name!r}, which is {entry.value} of an installed package, cannot be imported"
        raise InputError(field, f"{problem} ({type(error).__name__}: {error})", "correct it there") from error


def _described(found: Any, name: str, field: str) -> type[Own]:
    """The class of :class:`Own` for a class of the user's, with what that says of itself."""
    if not isinstance(found, type):
        kind = "function" if inspect.isroutine(found) else type(found).__name__
        raise InputError(field, f"{name!r} is a {kind}, not a class", "name a class that has propose")
    needed = ("space", "history", "n", "seed")
    try:
        inspect.signature(getattr(found, "propose", None)).bind(None, *needed[:3], seed=0)  # type: ignore[arg-type]
    except TypeError as error:
        problem = "has no propose" if not hasattr(found, "propose") else f"has another propose ({error})"
        remedy = "give it propose(self, space, history, n, *, seed)"
        raise InputError(field, f"{name!r} is not a strategy: it {problem}", remedy) from None
    traits = {trait: getattr(found, trait, getattr(Strategy, trait)) for trait in TRAITS}
    return type(found.__name__, (Own,), {"name": name, "wrapped": found, **traits})


class Own(Strategy):
    """A strategy of the user's own, whose proposals are checked.

    Args:
        made: The user's object.
        field: Where the study file names it, for messages.

    Attributes:
        wrapped: The user's class.
    """

    wrapped: ClassVar[Callable[..., Any]]

    def __init__(self, made: Any, field: str) -> None:
        self.made, self._field = made, field

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        proposals = self.ask(space, history, n, seed)
        if history.next_number < ASKED_TWICE and repr(proposals) != repr(self.ask(space, history, n, seed)):
            raise self._wrong(
                "proposes something else when it is asked the same again",
                "draw all randomness from hpo_core.trial_rng(seed, number), and keep nothing between two calls",
            )
        return proposals

    def ask(self, space: SearchSpace, history: History, n: int, seed: int) -> list[Proposal]:
        """What the user's object proposes, checked.

        Raises:
            InputError: It raises an error, or proposes what a study cannot use.
        """
        answer = self._call("propose", lambda: self.made.propose(space, history, n, seed=seed))
        if not isinstance(answer, list | tuple) or not all(isinstance(each, Proposal) for each in answer):
            raise self._wrong(f"returns {_shown(answer)}", "return a list of hpo_core.Proposal")
        if len(answer) > n:
            raise self._wrong(f"returns {len(answer)} proposals when it is asked for {n}", f"return up to {n}")
        numbers = {trial.number for trial in history} | set(range(history.next_number, history.next_number + n))
        return [self._checked(each, space, numbers) for each in answer]

    def _checked(self, proposal: Proposal, space: SearchSpace, numbers: set[int]) -> Proposal:
        """The proposal with its values as the space has them.

        Raises:
            InputError: It is not one of this space, or not one of a study as this strategy says that it needs.
        """
        try:
            config = space.validated(proposal.config)
        except ValueError as error:
            problem = f"proposes {_shown(dict(proposal.config))}, which is outside the space: {error}"
            remedy = "make configurations with space.decode, and leave out those that are not space.feasible"
            raise self._wrong(problem, remedy) from None
        if proposal.fidelity is not None:
            if not self.chooses_fidelity:
                raise self._wrong(f"proposes the fidelity {proposal.fidelity!r}", "set its chooses_fidelity = True")
            fidelity = getattr(self.made, "fidelity", None)
            most = fidelity.max if isinstance(fidelity, Fidelity) else math.inf
            if not isinstance(proposal.fidelity, int | float) or not 0 < proposal.fidelity <= most:
                raise self._wrong(f"proposes the fidelity {proposal.fidelity!r}", f"give one above 0 and up to {most}")
        if proposal.parent is not None:
            if not self.promotes:
                raise self._wrong(f"continues trial {proposal.parent!r}", "set its promotes = True")
            if proposal.parent not in numbers:
                raise self._wrong(f"continues trial {proposal.parent!r}, which is not there", "name one of the history")
        for key, value in proposal.notes.items():
            if not isinstance(key, str) or not isinstance(value, str | int | float | bool | None):
                raise self._wrong(f"notes {key!r}: {_shown(value)}", "note texts, numbers or booleans by name")
        return Proposal(config, proposal.fidelity, proposal.parent, proposal.notes)

    def check(self, space: SearchSpace) -> None:
        self._refusal("check", space)

    @property
    def entry(self) -> float | None:
        entry: float | None = self._call("entry", lambda: getattr(self.made, "entry", None))
        if entry is not None:
            return entry
        return self.made.fidelity.levels[0] if self.chooses_fidelity else None

    def check_limits(self) -> None:
        self._refusal("check_limits")

    def check_several(self) -> None:
        self._refusal("check_several")

    def promotable(self, history: History) -> frozenset[int]:
        """The numbers of the trials that later ones may still continue."""
        if not hasattr(self.made, "promotable"):
            return frozenset(trial.number for trial in history.complete) if self.promotes else frozenset()
        numbers = self._call("promotable", lambda: self.made.promotable(history))
        if not isinstance(numbers, Collection):
            raise self._wrong(f"returns {_shown(numbers)} as promotable", "return a frozenset of numbers of trials")
        return frozenset(numbers)

    def learns_from_prior(self) -> bool:
        if not hasattr(self.made, "learns_from_prior"):
            return self.uses_prior
        return bool(self._call("learns_from_prior", self.made.learns_from_prior))

    def _refusal(self, what: str, *arguments: Any) -> None:
        """Ask one of the checks that a strategy may have.

        Raises:
            ValueError: It refuses the study; the message begins with the setting to change, if it names one.
        """
        if not hasattr(self.made, what):
            return
        try:
            getattr(self.made, what)(*arguments)
        except ValueError as error:  # what a check is to raise
            if isinstance(error, InputError) or NAMES_SETTING.match(str(error)):
                raise
            raise self._wrong(f"refuses this study: {error}", "change that, or choose another strategy") from error
        except (Exception, SystemExit) as error:
            raise self._failed(what, error) from error

    def _call(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except InputError:  # it says what the user is to do, as other strategies do
            raise
        except (Exception, SystemExit) as error:  # which would end the study without a word
            raise self._failed(what, error) from error

    def _failed(self, what: str, error: BaseException) -> InputError:
        import traceback

        place = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{what} raised {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
        return self._wrong(problem, "correct it and run the same command to go on")

    def _wrong(self, problem: str, remedy: str) -> InputError:
        return InputError(self._field, f"{self.name!r} {problem}", remedy)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 120 else text[:117] + "..."
