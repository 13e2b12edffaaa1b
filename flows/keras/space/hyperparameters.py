"""Defines the ``hp`` of a ``build_model(hp)``: every call declares a hyperparameter and returns its value.

The calls and their arguments are KerasTuner's, so a function written for it runs here unchanged. They return the value
from the configuration that the object was made with, or else the default.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.space.configuration import Scalar
from hpo_flows.keras.space.hyperparameter import (
    Boolean,
    Choice,
    Fixed,
    Float,
    HyperParameter,
    Int,
    Parent,
    deserialize,
    serialize,
)

log = logging.getLogger("hpo")


class HyperParameters:
    """The values of one configuration, and the declarations made so far.

    Args:
        values: A configuration by name; declared names that are missing get their default.
        space: Earlier declarations. Of two with the same name and conditions, the first applies.

    Attributes:
        values: The values of the hyperparameters that are active, by name.
        defaulted: The names that got their default because the given values lack them.
        asked: The names of the active hyperparameters declared in this object, in order.
    """

    def __init__(self, values: Mapping[str, Scalar] | None = None, space: Sequence[HyperParameter] = ()) -> None:
        self.values: dict[str, Scalar] = dict(values or {})
        self.defaulted: set[str] = set()
        self.asked: list[str] = []
        self._declared: dict[tuple[str, tuple[Parent, ...]], HyperParameter] = {_key(each): each for each in space}
        self._scopes: list[str] = []
        self._conditions: list[Parent] = []

    @property
    def space(self) -> list[HyperParameter]:
        """The declarations, in the order in which they were made."""
        return list(self._declared.values())

    def get(self, name: str) -> Scalar:
        """The value of an active hyperparameter. Like a declaration it counts as asked for.

        Raises:
            ValueError: It is declared, but not active.
            KeyError: It is not declared.
        """
        name = self._qualified(name)
        for each in self.space:
            if each.name == name and self.is_active(each):
                return self._value(each)
        if name in self.values:
            return self.values[name]
        if any(name == declared for declared, _ in self._declared):
            raise ValueError(f"{name} is not active in this configuration")
        raise KeyError(f"no parameter {name!r} is declared")

    def __getitem__(self, name: str) -> Scalar:
        return self.get(name)

    def __contains__(self, name: str) -> bool:
        return self._qualified(name) in self.values

    def __repr__(self) -> str:
        return f"HyperParameters({self.values})"

    def is_active(self, hyperparameter: str | HyperParameter) -> bool:
        """Whether the conditions of a hyperparameter hold; of a name, those of any hyperparameter with that name."""
        if isinstance(hyperparameter, HyperParameter):
            return all(condition.is_active(self.values) for condition in hyperparameter.conditions)
        return any(self.is_active(each) for each in self.space if each.name == str(hyperparameter))

    def ensure_active_values(self) -> None:
        """Drop the values of hyperparameters that are not active, and draw those of active ones that are missing."""
        for each in self.space:
            if not self.is_active(each):
                self.values.pop(each.name, None)
            elif each.name not in self.values:
                self.values[each.name] = each.random_sample()

    def merge(self, hps: HyperParameters | Iterable[HyperParameter], overwrite: bool = True) -> None:
        """Adopt declarations.

        Args:
            hps: Declarations, or an object that has some.
            overwrite: Whether they replace those with the same name and conditions, and the values of these.
        """
        for each in hps.space if isinstance(hps, HyperParameters) else hps:
            if _key(each) in self._declared and not overwrite:
                continue
            self._declared[_key(each)] = each
            if self.is_active(each) and (overwrite or each.name not in self.values):
                self.values[each.name] = each.default

    def copy(self) -> HyperParameters:
        """An independent copy of the values and declarations."""
        return HyperParameters(self.values, self.space)

    def get_config(self) -> dict[str, Any]:
        """The declarations and values as plain data."""
        return {"space": [serialize(each) for each in self.space], "values": dict(self.values)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> HyperParameters:
        """The inverse of :meth:`get_config`."""
        return cls(config["values"], [deserialize(each) for each in config["space"]])

    # -- scopes -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Prefix the names of all hyperparameters declared inside with ``name/``."""
        self._scopes.append(str(name))
        try:
            yield
        finally:
            self._scopes.pop()

    @contextlib.contextmanager
    def conditional_scope(self, parent_name: str, parent_values: Any) -> Iterator[None]:
        """What is declared inside is active only if the parent has one of the values; otherwise it is None.

        Raises:
            InputError: The parent is not declared yet.
        """
        parent = self._qualified(parent_name)
        known = next((each for each in self.space if each.name == parent), None)
        if known is None:
            raise InputError(
                "hp.conditional_scope", f"unknown parameter {parent!r}", "declare it before what depends on it"
            )
        condition = Parent.of(parent, parent_values)
        if isinstance(known, Boolean):  # 0 and 1 mean False and True there
            condition = Parent(parent, tuple(bool(v) if v in (0, 1) else v for v in condition.values))
        self._conditions.append(condition)
        try:
            yield
        finally:
            self._conditions.pop()

    def _qualified(self, name: str) -> str:
        return "/".join([*self._scopes, str(name)])

    # -- declarations -----------------------------------------------------------------------------------------------

    def Int(
        self,
        name: str,
        min_value: int,
        max_value: int,
        step: int | None = None,
        sampling: str | None = "linear",
        default: int | None = None,
        parent_name: str | None = None,
        parent_values: Any = None,
    ) -> Any:
        """A whole number from ``min_value`` to ``max_value``, both included; with a log, ``step`` is a factor."""
        return self._declare(Int, name, parent_name, parent_values, min_value, max_value, step, sampling, default)

    def Float(
        self,
        name: str,
        min_value: float,
        max_value: float,
        step: float | None = None,
        sampling: str | None = "linear",
        default: float | None = None,
        parent_name: str | None = None,
        parent_values: Any = None,
    ) -> Any:
        """A real number from ``min_value`` to ``max_value``; with log sampling, ``step`` is a factor."""
        return self._declare(Float, name, parent_name, parent_values, min_value, max_value, step, sampling, default)

    def Choice(
        self,
        name: str,
        values: Iterable[Any],
        ordered: bool | None = None,
        default: Any = None,
        parent_name: str | None = None,
        parent_values: Any = None,
    ) -> Any:
        """One of the values. ``ordered`` says that their order is meaningful, which is the default for numbers.

        A value that is listed twice counts once.
        """
        return self._declare(Choice, name, parent_name, parent_values, values, ordered, default)

    def Boolean(
        self, name: str, default: bool = False, parent_name: str | None = None, parent_values: Any = None
    ) -> Any:
        """True or False."""
        return self._declare(Boolean, name, parent_name, parent_values, default)

    def Fixed(self, name: str, value: Any, parent_name: str | None = None, parent_values: Any = None) -> Any:
        """A value that is not tuned, but recorded with the others in every trial."""
        return self._declare(Fixed, name, parent_name, parent_values, value)

    def _declare(self, kind: Any, name: str, parent_name: str | None, parent_values: Any, *settings: Any) -> Any:
        if parent_name:
            with self.conditional_scope(parent_name, parent_values):
                return self._declare(kind, name, None, None, *settings)
        name = self._qualified(name)
        if any(name == condition.name for condition in self._conditions):
            raise InputError(f"hp.{kind.__name__}({name!r})", "it has the name of its own parent", "give it another")
        given = kind(name, *settings, conditions=self._conditions)
        declared = self._declared.setdefault(_key(given), given)
        if (declared.kind, declared.settings) != (given.kind, given.settings):
            log.warning("%s is declared again with other settings; the first ones stay in force: %s", name, declared)
        return self._value(declared)

    def _value(self, declared: HyperParameter) -> Scalar:
        if not self.is_active(declared):
            return None
        if declared.name not in self.asked:
            self.asked.append(declared.name)
        if declared.name not in self.values:
            self.values[declared.name] = declared.default
            self.defaulted.add(declared.name)
        return self.values[declared.name]


def _key(each: HyperParameter) -> tuple[str, tuple[Parent, ...]]:
    """What tells a hyperparameter from others: its name and its conditions."""
    return each.name, tuple(each.conditions)
