"""Defines the five kinds of hyperparameters as classes, with KerasTuner's interface.

``hp.Int(...)`` and its like make one of them; scripts also write them by hand, and ask them for their values, for
probabilities, and for their configuration. What a study tunes is the parameter of :mod:`hpo_core.space` that each of
them stands for (:attr:`HyperParameter.parameter`).
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.space import parameters
from hpo_core.space.configuration import Scalar, native, scalar_key

SAMPLINGS = ("linear", "log", "reverse_log")

SAMPLES = 10
"""How many values stand for all those of a number without a step."""


WORDS = {"low": "min_value", "high": "max_value", "log: true": 'sampling="log"'}
"""What KerasTuner calls what :mod:`hpo_core.space` has other words for."""


class WrongType(InputError, TypeError):
    """A value of a type that cannot be used, where KerasTuner raises a TypeError."""


@dataclass(frozen=True)
class Parent:
    """A condition: a hyperparameter is active only where another one has one of these values."""

    name: str
    values: tuple[Scalar, ...]

    @classmethod
    def of(cls, name: str, values: Any) -> Parent:
        """
        Raises:
            InputError: There is no value, or one is not a scalar.
        """
        listed = values if isinstance(values, list | tuple | set) else [values]
        where = f"parent_values of {name!r}"
        if not listed:
            raise InputError(where, "it is empty, so nothing would ever be active", "list the parent's values")
        try:
            return cls(name, tuple(native(value) for value in listed))
        except ValueError as error:
            raise WrongType(where, str(error)) from None

    def is_active(self, values: Mapping[str, Any]) -> bool:
        """Whether it holds for these values."""
        return self.name in values and scalar_key(values[self.name]) in {scalar_key(value) for value in self.values}

    def get_config(self) -> dict[str, Any]:
        """The condition as plain data."""
        return {"name": self.name, "values": list(self.values)}


class HyperParameter:
    """One hyperparameter.

    Two of the same name but with different conditions are different hyperparameters.

    Args:
        name: Its name, including name scopes.
        default: The value if a configuration has none.
        conditions: All must hold, or it is not active.
    """

    def __init__(self, name: str, default: Any = None, conditions: Any = None) -> None:
        self.name, self._default = str(name), default
        given = conditions if isinstance(conditions, list | tuple) else [conditions] if conditions else []
        self.conditions: list[Parent] = list(given)

    @property
    def kind(self) -> str:
        """The name of its class."""
        return type(self).__name__

    @property
    def default(self) -> Any:
        """The value if a configuration has none."""
        return self._default

    @property
    def settings(self) -> dict[str, Any]:
        """What tells it from others of its kind, apart from name, default and conditions."""
        return {}

    @property
    def values(self) -> Sequence[Any]:
        """All its values, or some that stand for them."""
        raise NotImplementedError

    @cached_property
    def parameter(self) -> Any:
        """The parameter of :mod:`hpo_core.space` that it stands for, without conditions.

        Raises:
            InputError: Its settings contradict each other.
        """
        try:
            return self._parameter()
        except InputError as error:
            key = error.field.partition(".")[2]
            problem, remedy = _translated(error.problem), _translated(error.remedy)
            raise self._wrong(f"{_translated(key)}: {problem}" if key else problem, remedy) from None

    def _parameter(self) -> Any:
        raise NotImplementedError

    def _wrong(self, problem: str, remedy: str = "", error: type[InputError] = InputError) -> InputError:
        return error(f"hp.{self.kind}({self.name!r})", problem, remedy)

    def _scalar(self, argument: str, value: Any) -> Scalar:
        try:
            return native(value)
        except ValueError as error:
            raise self._wrong(f"{argument}: {error}", "correct it") from None

    def _check_default(self) -> None:
        try:
            self.parameter.encode(self.default)
        except ValueError as error:
            raise self._wrong(f"default: {error}", "correct it") from None

    def random_sample(self, seed: Any = None) -> Any:
        """A random value; the same one for the same seed."""
        return self.prob_to_value(random.Random(seed).random())  # noqa: S311

    def prob_to_value(self, prob: float) -> Any:
        """The value at a cumulative probability from 0 to 1."""
        raise NotImplementedError

    def value_to_prob(self, value: Any) -> float:
        """The cumulative probability of a value, in the middle of those that stand for it."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """It as plain data."""
        conditions = [{"class_name": "Parent", "config": each.get_config()} for each in self.conditions]
        return {"name": self.name, "default": self.default, "conditions": conditions, **self.settings}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> HyperParameter:
        """The inverse of :meth:`get_config`."""
        conditions = [Parent.of(**each["config"]) for each in config["conditions"]]
        return cls(**{**config, "conditions": conditions})

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars_of(other) == vars_of(self)

    def __hash__(self) -> int:
        return hash((self.kind, self.name))

    def __repr__(self) -> str:
        shown = {"name": self.name, "default": self.default, **self.settings}
        return f"{self.kind}({', '.join(f'{name}: {value!r}' for name, value in shown.items())})"


def _translated(text: str) -> str:
    return re.sub(r"\b(low|high|log: true)\b", lambda match: WORDS[match[1]], text)


def vars_of(each: Any) -> tuple[Any, ...]:
    """All that a hyperparameter is made of."""
    return each.name, each.default, each.settings, each.conditions


class _Number(HyperParameter):
    """A hyperparameter from ``min_value`` to ``max_value``, both included."""

    min_value: Any
    max_value: Any
    step: Any
    sampling: str

    def _begin(self, sampling: Any) -> None:
        self.sampling = str(sampling or "linear").lower()
        if self.sampling not in SAMPLINGS:
            raise self._wrong(f"{self.sampling!r} is not a sampling", f"choose one of {', '.join(SAMPLINGS)}")
        self._check_default()

    def _check_default(self) -> None:
        between_steps = self.parameter.step is not None and self.min_value <= self.default <= self.max_value
        if not between_steps:  # such a default may be where a script begins, though no trial gets it
            super()._check_default()

    @property
    def default(self) -> Any:
        return self.min_value if self._default is None else self._default

    @property
    def settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("min_value", "max_value", "step", "sampling")}

    @property
    def _scale(self) -> dict[str, Any]:
        """The arguments that numbers of :mod:`hpo_core.space` share."""
        log, reverse = self.sampling != "linear", self.sampling == "reverse_log"
        return {"low": self.min_value, "high": self.max_value, "step": self.step, "log": log, "reverse": reverse}

    @property
    def values(self) -> Sequence[Any]:
        if self.step is not None:
            return list(self.parameter.values(int(self.parameter.size)))
        return tuple(dict.fromkeys(self.prob_to_value((i + 0.5) / SAMPLES) for i in range(SAMPLES)))

    def prob_to_value(self, prob: float) -> Any:
        return self._at(prob, self.max_value) if self.step is None else self.parameter.decode(float(prob))

    def value_to_prob(self, value: Any) -> float:
        if self.step is None:
            return self._prob(value, self.max_value)
        size: float = self.parameter.size
        base: float = self.min_value
        if self.sampling == "linear":
            index = math.floor((value - base) / self.step + 1e-9)
        else:
            away = self.max_value - value if self.sampling == "reverse_log" else value - base
            index = math.log((base + away) / base) / math.log(self.step)
        prob: float = (index + 0.5) / size
        return 1.0 - prob if self.sampling == "reverse_log" else prob

    def _at(self, prob: float, high: float) -> float:
        """The number at a probability, on the scale up to ``high``."""
        low: float = self.min_value
        if self.sampling == "linear":
            return low + prob * (high - low)
        if self.sampling == "log":
            return low * math.pow(high / low, prob)
        return high + low - low * math.pow(high / low, 1.0 - prob)

    def _prob(self, value: float, high: float) -> float:
        """The inverse of :meth:`_at`."""
        low: float = self.min_value
        if high == low:
            return 0.5
        if self.sampling == "linear":
            return (value - low) / (high - low)
        mirrored = value if self.sampling == "log" else high + low - value
        prob = math.log(mirrored / low) / math.log(high / low)
        return prob if self.sampling == "log" else 1.0 - prob


class Int(_Number):
    """A whole number from ``min_value`` to ``max_value``, both included; with a log sampling, ``step`` is a factor."""

    def __init__(
        self,
        name: str,
        min_value: int,
        max_value: int,
        step: int | None = None,
        sampling: str | None = "linear",
        default: int | None = None,
        conditions: Any = None,
    ) -> None:
        super().__init__(name, conditions=conditions)
        self._default = None if default is None else _whole_if_any(self._scalar("default", default))
        self.min_value, self.max_value = self._whole("min_value", min_value), self._whole("max_value", max_value)
        linear = str(sampling or "linear").lower() == "linear"
        self.step = self._whole("step", step) if step is not None else 1 if linear else None
        self._begin(sampling)

    def _whole(self, argument: str, value: Any) -> int:
        number = _whole_if_any(self._scalar(argument, value))
        if not isinstance(number, int):
            raise self._wrong(f"{argument}: {value!r} is not a whole number", "correct it")
        return int(number)

    def _parameter(self) -> Any:
        return parameters.Int(**self._scale)

    def prob_to_value(self, prob: float) -> Any:
        return super().prob_to_value(prob) if self.step is not None else int(self._at(prob, self.max_value + 1))

    def value_to_prob(self, value: Any) -> float:
        return super().value_to_prob(value) if self.step is not None else self._prob(value + 0.5, self.max_value + 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "default": self._default}


class Float(_Number):
    """A real number from ``min_value`` to ``max_value``; with a log sampling, ``step`` is a factor."""

    def __init__(
        self,
        name: str,
        min_value: float,
        max_value: float,
        step: float | None = None,
        sampling: str | None = "linear",
        default: float | None = None,
        conditions: Any = None,
    ) -> None:
        super().__init__(name, conditions=conditions)
        self._default, self.step = self._scalar("default", default), self._scalar("step", step)
        self.min_value, self.max_value = self._number("min_value", min_value), self._number("max_value", max_value)
        self._begin(sampling)

    def _number(self, argument: str, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            kind = WrongType if isinstance(error, TypeError) else InputError
            raise self._wrong(f"{argument}: {value!r} is not a number", "correct it", kind) from None

    def _parameter(self) -> Any:
        return parameters.Float(**self._scale)


class Choice(HyperParameter):
    """One of the values. A value that is listed twice is drawn twice as often by hand, and counts once in a study.

    Args:
        name: Its name.
        values: Strings, numbers or booleans.
        ordered: Whether their order has a meaning; by default it has for numbers.
        default: One of them; by default the first, or None if that is one of them.
        conditions: All must hold, or it is not active.
    """

    def __init__(
        self, name: str, values: Iterable[Any], ordered: bool | None = None, default: Any = None, conditions: Any = None
    ) -> None:
        super().__init__(name, conditions=conditions)
        if not isinstance(values, Iterable):
            raise self._wrong(f"values: {values!r} is not a list", "give a list of values", WrongType)
        try:
            self._values = [native(value) for value in values]
            self._default = native(default)
        except ValueError as error:
            remedy = "give strings, numbers or booleans, and look up in build_model what they stand for"
            raise self._wrong(str(error), remedy, WrongType) from None
        numbers = all(isinstance(value, int | float) for value in self._values)
        if ordered and not numbers:
            raise self._wrong("only numbers can be ordered", "leave ordered out")
        self.ordered = numbers if ordered is None else bool(ordered)
        self._check_default()

    @property
    def default(self) -> Any:
        return self._values[0] if self._default is None and None not in self._values else self._default

    @property
    def settings(self) -> dict[str, Any]:
        return {"values": list(self._values), "ordered": self.ordered}

    @property
    def values(self) -> Sequence[Any]:
        return self._values

    def _check_default(self) -> None:
        if not self._values:
            raise self._wrong("the list is empty; give at least one value")
        super()._check_default()

    def _parameter(self) -> Any:
        once: dict[str, Scalar] = {}
        for value in self._values:
            once.setdefault(scalar_key(value), value)
        unique = list(once.values())
        order_matters = self.ordered and not all(isinstance(value, bool) for value in unique)
        return (parameters.Ordinal if order_matters else parameters.Choice)(choices=unique)

    def prob_to_value(self, prob: float) -> Any:
        count = len(self._values)
        return self._values[min(int(prob * count), count - 1)]

    def value_to_prob(self, value: Any) -> float:
        return (self._values.index(value) + 0.5) / len(self._values)


class Boolean(HyperParameter):
    """True or False."""

    def __init__(self, name: str, default: bool = False, conditions: Any = None) -> None:
        super().__init__(name, conditions=conditions)
        given = self._scalar("default", default)
        self._default = bool(given) if given in (0, 1) else given
        self._check_default()

    @property
    def values(self) -> Sequence[Any]:
        return (True, False)

    def _parameter(self) -> Any:
        return parameters.Boolean()

    def prob_to_value(self, prob: float) -> Any:
        return bool(prob >= 0.5)

    def value_to_prob(self, value: Any) -> float:
        return 0.75 if value else 0.25


class Fixed(HyperParameter):
    """A value that is not tuned, but recorded with the others in every trial."""

    def __init__(self, name: str, value: Any, conditions: Any = None) -> None:
        super().__init__(name, conditions=conditions)
        self.value = self._scalar("value", value)

    @property
    def default(self) -> Any:
        return self.value

    @property
    def settings(self) -> dict[str, Any]:
        return {"value": self.value}

    @property
    def values(self) -> Sequence[Any]:
        return (self.value,)

    def _parameter(self) -> Any:
        return parameters.Fixed(value=self.value)

    def prob_to_value(self, prob: float) -> Any:
        return self.value

    def value_to_prob(self, value: Any) -> float:
        return 0.5

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["default"]
        return config


KINDS: dict[str, type[HyperParameter]] = {each.__name__: each for each in (Int, Float, Choice, Boolean, Fixed)}


def serialize(hyperparameter: HyperParameter) -> dict[str, Any]:
    """A hyperparameter as plain data, with the name of its class."""
    return {"class_name": hyperparameter.kind, "config": hyperparameter.get_config()}


def deserialize(data: Mapping[str, Any]) -> HyperParameter:
    """The inverse of :func:`serialize`.

    Raises:
        InputError: The class does not exist.
    """
    if (name := data["class_name"]) not in KINDS:
        raise InputError("class_name", f"{name!r} is not a hyperparameter", f"choose one of {', '.join(KINDS)}")
    return KINDS[name].from_config(data["config"])


def _whole_if_any(value: Scalar) -> Scalar:
    return int(value) if isinstance(value, float) and value.is_integer() else value
