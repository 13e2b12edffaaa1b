"""Registers the strategies and creates them by name. A new one is a file in ``algorithms`` and a line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.base.settings import make_settings, near_or_known
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.history import History
from hpo_core.history.spending import Promise
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.algorithms.asha import Asha
from hpo_core.strategies.algorithms.bayesian import Bayesian
from hpo_core.strategies.algorithms.gradient import Gradient
from hpo_core.strategies.algorithms.grid import Grid
from hpo_core.strategies.algorithms.hyperband import Hyperband, SuccessiveHalving
from hpo_core.strategies.algorithms.optuna import Optuna
from hpo_core.strategies.algorithms.pbt import Pbt
from hpo_core.strategies.algorithms.quasi_random import QuasiRandom
from hpo_core.strategies.algorithms.random import Random
from hpo_core.strategies.algorithms.tpe import Tpe
from hpo_core.strategies.auto import Auto
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.own import LOADED, Own, entries, own_class

STRATEGIES: dict[str, type[Strategy]] = {
    "asha": Asha,
    "auto": Auto,
    "bayesian": Bayesian,
    "gradient": Gradient,
    "grid": Grid,
    "optuna": Optuna,
    "hyperband": Hyperband,
    "pbt": Pbt,
    "random": Random,
    "quasi_random": QuasiRandom,
    "successive_halving": SuccessiveHalving,
    "tpe": Tpe,
}


def make_strategy(
    name: str,
    settings: Mapping[str, Any] | None = None,
    fidelity: Fidelity | None = None,
    *,
    budget: int | None = None,
    field: str = "strategy",
) -> Strategy:
    """Create a strategy from its name and settings.

    Args:
        name: One of :data:`STRATEGIES`, or one of the user's own; see :mod:`hpo_core.strategies.own`.
        settings: Its settings. A setting that is itself a strategy (``sampler``, ``outer``) is a name, or a mapping
            with ``name`` and settings.
        fidelity: The study's fidelity, for a strategy that chooses fidelities.
        budget: The study's number of trials, for a strategy that uses it and whose settings do not give another.
        field: Where the study file defines the strategy, for messages.

    Raises:
        InputError: The strategy or a setting does not exist, or a setting has an invalid value.

    >>> make_strategy("grid", {"steps": 3})
    Grid(steps=3, steps_by_name={})
    >>> make_strategy("hyperband", {"sampler": "quasi_random"}, Fidelity("epochs", 1, 9)).sampler
    QuasiRandom()
    """
    cls, given = strategy_class(name, f"{field}.name"), dict(settings or {})
    hidden = {"fidelity"} if cls.chooses_fidelity else set()
    for key in hidden & given.keys():
        raise InputError(f"{field}.{key}", f"{name!r} takes the study's fidelity", "give it as fidelity: in the study")
    for key, default in cls.nested.items():
        value = given.get(key, default)
        given[key] = None if value is None and default is None else _nested(value, f"{field}.{key}")
    if cls.chooses_fidelity and fidelity is not None:
        given["fidelity"] = fidelity
    if cls.uses_budget and budget is not None:
        given.setdefault("budget", budget)
    if issubclass(cls, Own):
        return cls(make_settings(cls.wrapped, given, name=name, field=field, hidden=hidden), field)
    return make_settings(cls, given, name=name, field=field, hidden=hidden)


def strategy_class(name: str, field: str = "strategy.name", folders: Sequence[str] = ()) -> type[Strategy]:
    """The class of a strategy, which says what it can do; one of the user's own is imported.

    Args:
        name: One of :data:`STRATEGIES`, or what :func:`hpo_core.strategies.own.own_class` finds.
        field: Where the study file names it, for messages.
        folders: Where modules of the user's are looked for first.

    Raises:
        InputError: There is no strategy of this name.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    if ":" not in name and name not in (named := entries()):
        remedy = near_or_known(name, sorted([*STRATEGIES, *named]))
        raise InputError(field, f"{name!r} is not a strategy", f"{remedy}; one of your own is module:Class")
    return own_class(name, field, folders)


def known_class(name: str) -> type[Strategy]:
    """The class of a strategy without any import, for whoever only reads a study.

    One of the user's own that this process has not imported counts as one that says nothing special of itself.
    """
    known: Mapping[str, type[Strategy]] = {**LOADED, **STRATEGIES}
    return known.get(name, Strategy)


def names_in(name: str, settings: Mapping[str, Any], field: str = "strategy") -> dict[str, str]:
    """The names of a strategy and of those that it is made of, by where the study file has them."""
    nested = {key: settings[key] for key in known_class(name).nested if settings.get(key) is not None}
    found = {f"{field}.name": name}
    for key, value in nested.items():
        inner = dict(value) if isinstance(value, Mapping) else {"name": value}
        if isinstance(named := inner.pop("name", None), str):
            found |= names_in(named, inner, f"{field}.{key}")
    return found


def expected(space: SearchSpace, history: History, *, seed: int) -> dict[int, float]:
    """What a model expects of the complete trials, by number; see :meth:`Bayesian.expected`."""
    return Bayesian().expected(space, history, seed=seed)


def promised(space: SearchSpace, history: History, *, seed: int) -> Promise | None:
    """What a model expects of the best next trial, whatever the strategy; see :meth:`Bayesian.promise`."""
    return Bayesian().promise(space, history, seed=seed)


def _nested(value: Any, field: str) -> Strategy:
    """A strategy that another one samples with."""
    settings = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise InputError(field, f"{value!r} does not name a strategy", "write it as tpe, or as {name: tpe, start: 5}")
    cls = strategy_class(name, f"{field}.name")
    if cls.chooses_fidelity or cls.promotes:
        problem = "chooses fidelities" if cls.chooses_fidelity else "continues trials"
        raise InputError(field, f"{name!r} {problem} itself", "give a strategy that does not, such as tpe")
    return make_strategy(name, settings, field=field)
