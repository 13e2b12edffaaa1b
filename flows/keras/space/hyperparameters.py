"""Defines the ``hp`` of a ``build_model(hp)``: every call declares a parameter and returns its value.

The calls and their arguments are KerasTuner's, so a function written for it runs here unchanged. They declare
parameters of :mod:`hpo_core.space.search_space`. They return the value from the configuration that the object was made
with, or else the default.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from hpo_core.base.errors import InputError
from hpo_core.space import parameters
from hpo_core.space.configuration import Scalar, native, scalar_key

log = logging.getLogger("hpo")

Condition = tuple[str, tuple[Scalar, ...]]
"""A parent's name, and its values for which a parameter is active."""

SAMPLINGS = ("linear", "log", "reverse_log")


@dataclass(frozen=True)
class HyperParameter:
    """One declaration.

    Args:
        kind: ``Int``, ``Float``, ``Choice``, ``Boolean`` or ``Fixed``.
        name: Its name, including name scopes.
        settings: The arguments of the call (``min_value``, ``values``, ...), also available as attributes.
        default: The value if the configuration has none.
        conditions: The conditional scopes around it, outermost first; all must hold.
    """

    kind: str
    name: str
    settings: Mapping[str, Any]
    default: Scalar
    conditions: tuple[Condition, ...] = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["settings"][name]
        except KeyError:
            raise AttributeError(f"{self.__dict__.get('kind')} has no {name!r}") from None

    def get_config(self) -> dict[str, Any]:
        """The declaration as plain data."""
        conditions = [{"name": name, "values": list(values)} for name, values in self.conditions]
        return {"name": self.name, "default": self.default, "conditions": conditions, **self.settings}

    @cached_property
    def parameter(self) -> Any:
        """The parameter of :mod:`hpo_core.space.search_space` that it declares, without conditions.

        Raises:
            InputError: Its settings contradict each other.
        """
        given = self.settings
        try:
            if self.kind == "Fixed":
                return parameters.Fixed(value=given["value"])
            if self.kind == "Boolean":
                return parameters.Boolean()
            if self.kind == "Choice":
                listed = parameters.Ordinal if given["ordered"] else parameters.Choice
                return listed(choices=list(given["values"]))
            number = parameters.Int if self.kind == "Int" else parameters.Float
            return number(
                low=given["min_value"],
                high=given["max_value"],
                step=given["step"],
                log=given["sampling"] != "linear",
                reverse=given["sampling"] == "reverse_log",
            )
        except ValueError as error:
            details = error.errors() if isinstance(error, ValidationError) else [{"msg": str(error)}]
            problem = "; ".join(str(each["msg"]).removeprefix("Value error, ") for each in details)
            raise InputError(f"hp.{self.kind}({self.name!r})", problem) from None


class HyperParameters:
    """The values of one configuration, and the declarations made so far.

    Args:
        values: A configuration by name; declared names that are missing get their default.
        space: Earlier declarations. Of two with the same name and conditions, the first applies.

    Attributes:
        values: The values of the parameters that are active, by name.
        defaulted: The names that got their default because the given values lack them.
        asked: The names of the active parameters declared in this object, in order.
    """

    def __init__(self, values: Mapping[str, Scalar] | None = None, space: Sequence[HyperParameter] = ()) -> None:
        self.values: dict[str, Scalar] = dict(values or {})
        self.defaulted: set[str] = set()
        self.asked: list[str] = []
        self._declared: dict[tuple[str, tuple[Condition, ...]], HyperParameter] = {
            (each.name, each.conditions): each for each in space
        }
        self._scopes: list[str] = []
        self._conditions: list[Condition] = []

    @property
    def space(self) -> list[HyperParameter]:
        """The declarations, in the order in which they were made."""
        return list(self._declared.values())

    def get(self, name: str) -> Scalar:
        """The value of an active parameter.

        Raises:
            ValueError: It is declared, but not active.
            KeyError: It is not declared.
        """
        name = self._qualified(name)
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

    def copy(self) -> HyperParameters:
        """An independent copy of the values and declarations."""
        return HyperParameters(self.values, self.space)

    # -- scopes -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Prefix the names of all parameters declared inside with ``name/``."""
        self._scopes.append(str(name))
        try:
            yield
        finally:
            self._scopes.pop()

    @contextlib.contextmanager
    def conditional_scope(self, parent_name: str, parent_values: Any) -> Iterator[None]:
        """Parameters declared inside are active only if the parent has one of the values; otherwise they are None.

        Raises:
            InputError: The parent is not declared yet.
        """
        parent = self._qualified(parent_name)
        if all(parent != declared for declared, _ in self._declared):
            raise InputError(
                "hp.conditional_scope", f"there is no parameter {parent!r} yet", "declare it before what depends on it"
            )
        listed = parent_values if isinstance(parent_values, list | tuple | set) else [parent_values]
        self._conditions.append((parent, tuple(native(value) for value in listed)))
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
        sampling: str = "linear",
        default: int | None = None,
        parent_name: str | None = None,
        parent_values: Any = None,
    ) -> Any:
        """A whole number from ``min_value`` to ``max_value``, both included."""
        settings = {"min_value": min_value, "max_value": max_value, "step": step, "sampling": sampling or "linear"}
        return self._number("Int", name, settings, default, parent_name, parent_values)

    def Float(
        self,
        name: str,
        min_value: float,
        max_value: float,
        step: float | None = None,
        sampling: str = "linear",
        default: float | None = None,
        parent_name: str | None = None,
        parent_values: Any = None,
    ) -> Any:
        """A real number; with log sampling, ``step`` is a factor."""
        settings = {"min_value": min_value, "max_value": max_value, "step": step, "sampling": sampling or "linear"}
        return self._number("Float", name, settings, default, parent_name, parent_values)

    def _number(
        self, kind: str, name: str, settings: dict[str, Any], default: Any, parent_name: str | None, parent_values: Any
    ) -> Any:
        settings["sampling"] = str(settings["sampling"]).lower()
        if settings["sampling"] not in SAMPLINGS:
            problem = f"{settings['sampling']!r} is not a sampling"
            raise InputError(f"hp.{kind}({name!r})", problem, f"choose one of {', '.join(SAMPLINGS)}")
        default = settings["min_value"] if default is None else default
        return self._declare(kind, name, settings, default, parent_name, parent_values)

    def Choice(
        self,
        name: str,
        values: Sequence[Any],
        ordered: bool | None = None,
        default: Any = None,
        parent_name: str | None = None,
        parent_values: Any = None,
    ) -> Any:
        """One of the values. ``ordered`` says that their order is meaningful, which is the default for numbers.

        A value that is listed twice counts once.
        """
        unique: dict[str, Scalar] = {}
        try:
            for value in values:
                unique.setdefault(scalar_key(value), native(value))
        except ValueError as error:
            remedy = "give strings, numbers or booleans, and look up in build_model what they stand for"
            raise InputError(f"hp.Choice({name!r})", str(error), remedy) from None
        listed = list(unique.values())
        numbers = bool(listed) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in listed)
        if ordered and not numbers:
            raise InputError(f"hp.Choice({name!r})", "only numbers can be ordered", "leave ordered out")
        if default is None and None not in listed and listed:
            default = listed[0]
        settings = {"values": listed, "ordered": numbers if ordered is None else bool(ordered)}
        return self._declare("Choice", name, settings, default, parent_name, parent_values)

    def Boolean(
        self, name: str, default: bool = False, parent_name: str | None = None, parent_values: Any = None
    ) -> Any:
        """True or False."""
        return self._declare("Boolean", name, {}, default, parent_name, parent_values)

    def Fixed(self, name: str, value: Any, parent_name: str | None = None, parent_values: Any = None) -> Any:
        """A value that is not tuned, but recorded with the others in every trial."""
        return self._declare("Fixed", name, {"value": native(value)}, value, parent_name, parent_values)

    def _declare(
        self,
        kind: str,
        name: str,
        settings: Mapping[str, Any],
        default: Any,
        parent_name: str | None,
        parent_values: Any,
    ) -> Any:
        if parent_name:
            with self.conditional_scope(parent_name, parent_values):
                return self._declare(kind, name, settings, default, None, None)
        name = self._qualified(name)
        if any(name == parent for parent, _ in self._conditions):
            raise InputError(f"hp.{kind}({name!r})", "it has the name of its own parent", "give it another")
        given = HyperParameter(kind, name, settings, native(default), tuple(self._conditions))
        declared = self._declared.setdefault((name, given.conditions), given)
        if declared is given:
            _check_default(given)
        elif (declared.kind, declared.settings) != (given.kind, given.settings):
            log.warning("%s is declared again with other settings; the first ones stay in force: %s", name, declared)
        return self._value(declared)

    def _value(self, declared: HyperParameter) -> Scalar:
        if not all(self._holds(condition) for condition in declared.conditions):
            return None
        if declared.name not in self.asked:
            self.asked.append(declared.name)
        if declared.name not in self.values:
            self.values[declared.name] = declared.default
            self.defaulted.add(declared.name)
        return self.values[declared.name]

    def _holds(self, condition: Condition) -> bool:
        parent, values = condition
        return parent in self.values and scalar_key(self.values[parent]) in {scalar_key(value) for value in values}


def _check_default(declared: HyperParameter) -> None:
    try:
        declared.parameter.encode(declared.default)
    except ValueError as error:
        if isinstance(declared.parameter, parameters.Int | parameters.Float) and declared.parameter.step is not None:
            low, high = declared.settings["min_value"], declared.settings["max_value"]
            if low <= declared.default <= high:  # a default between two steps is allowed as a start
                return
        raise InputError(f"hp.{declared.kind}({declared.name!r})", f"default: {error}", "correct it") from None
