"""Defines the types of parameters: their values, their coordinates in [0, 1] and their text in MLflow."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    field_validator,
    model_serializer,
    model_validator,
)

from hpo_core.base.explaining import Explaining
from hpo_core.base.moments import LARGEST
from hpo_core.base.storable import MAX_VALUE_LENGTH
from hpo_core.space.configuration import Scalar, native, plain, scalar_key

MAX_EXACT_INT = 2**43
"""Above it, neighbouring integers no longer have distinct coordinates in the cube (log scales fail first)."""

MAX_STEPS = 10**9
"""Above it, the 12 digits of a proposed float cannot separate the values."""


def _scalar(value: Any) -> Scalar:
    return native(value)


def _scalars(value: Any) -> list[Scalar]:
    return [native(item) for item in (value if isinstance(value, list | tuple) else [value])]


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would accept True as 1
        raise ValueError(f"{value} is not a number")
    return value


AnyScalar = Annotated[Any, BeforeValidator(_scalar)]

Number = Annotated[float, BeforeValidator(_number)]

Whole = Annotated[int, BeforeValidator(_number)]


class _Parameter(BaseModel, ABC, metaclass=Explaining):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    when: dict[str, Annotated[list[Any], BeforeValidator(_scalars)]] = Field(
        default={}, description="Active only where each of these parameters has one of the listed values."
    )
    default: AnyScalar = Field(
        None, description="The value that trials from before the parameter was there count as having had."
    )

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        return plain(data)

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return data if self.has_default else {key: value for key, value in data.items() if key != "default"}

    @property
    def has_default(self) -> bool:
        """Whether a default is given; null may be one, too."""
        return "default" in self.model_fields_set

    @property
    @abstractmethod
    def size(self) -> float:
        """The number of values; ``inf`` for a float without a step."""

    @abstractmethod
    def encode(self, value: Scalar) -> float:
        """The coordinate of a value, in [0, 1].

        Raises:
            ValueError: The value does not belong to this parameter.
        """

    @abstractmethod
    def decode(self, u: float) -> Scalar:
        """The value at a coordinate of [0, 1]."""

    @abstractmethod
    def typed(self, value: Scalar) -> Scalar:
        """A value with the type that the parameter has.

        Raises:
            ValueError: The value does not belong to this parameter.
        """

    def to_string(self, value: Scalar) -> str:
        """The text that MLflow shows: ``str(value)`` wherever that can be read back."""
        return str(value)

    @abstractmethod
    def from_string(self, text: str) -> Scalar:
        """The inverse of :meth:`to_string`, to the last bit.

        Raises:
            ValueError: The text is not a value of this parameter.
        """

    def values(self, steps: int) -> list[Scalar]:
        """All values if there are at most ``steps``, else that many, spread evenly over the scale, ends included."""
        count = int(min(self.size, steps))
        points = (np.arange(count) + 0.5) / count if self.size <= steps else np.linspace(0.0, 1.0, count)
        # Neighbouring points may decode to the same value; fromkeys drops duplicates and keeps the order.
        return list(dict.fromkeys(self.decode(float(u)) for u in points))


def _check_range(low: float, high: float, log: bool, reverse: bool, step: float | None) -> None:
    if low > high:
        raise ValueError(f"low {low} is above high {high}; swap them")
    if reverse and not log:
        raise ValueError("reverse: true mirrors a log scale; set log: true as well, or drop reverse")
    if log and low <= 0:
        raise ValueError(f"low {low} with log: true; a log scale needs low > 0, so raise low or drop log")
    if step is not None and log and step <= 1:
        raise ValueError(f"step {step} with log: true; on a log scale a step is a factor and must be above 1")
    if step is not None and step <= 0:
        raise ValueError(f"step {step} is not above 0")


def _cell(u: float, count: int) -> int:
    return min(int(u * count), count - 1)


class Float(_Parameter):
    """A real number in ``[low, high]``, uniform on a linear or a log scale.

    With ``step`` the values are ``low, low + step, ...`` (with ``log``: ``low, low * step, ...``). ``reverse`` mirrors
    a log scale: ``low + high - value`` is uniform in its logarithm, so the scale is finest near ``high`` (a momentum
    near 1), and steps count from there.

    >>> Float(low=1e-4, high=1e-1, log=True).decode(0.5)
    0.00316227766017
    >>> Float(low=0.5, high=0.99, log=True, reverse=True).decode(0.5)
    0.786437636026
    """

    type: Literal["float"] = "float"
    low: Number = Field(description="The lowest value.")
    high: Number = Field(description="The highest value.")
    log: bool = Field(False, description="Uniform in the logarithm; low must be above 0.")
    reverse: bool = Field(False, description="With log: fine at high instead of at low.")
    step: Number | None = Field(None, description="From one value to the next; with log a factor.")

    @model_validator(mode="after")
    def _valid(self) -> Float:
        _check_range(self.low, self.high, self.log, self.reverse, self.step)
        if (self.high / self.low if self.log else self.high - self.low) > LARGEST or (
            self.reverse and self.high > LARGEST
        ):
            raise ValueError(f"the range from {self.low} to {self.high} is too wide for a float")
        if self.step is not None and self._steps(self.step) > MAX_STEPS:
            raise ValueError(f"step {self.step} makes more than {MAX_STEPS} values; leave it out")
        if self.reverse and self.step is not None and self.low * (self.step - 1.0) < 1e-10 * self.high:
            raise ValueError(f"step {self.step} from {self.high} down is too fine for a float; raise low or step")
        return self

    def _steps(self, step: float) -> float:
        return math.log(self.high / self.low) / math.log(step) if self.log else (self.high - self.low) / step

    @property
    def size(self) -> float:
        if self.low == self.high:
            return 1
        # Rounding may put the last value just beyond high: 1e-9 still counts it, and _tidy() moves it to high.
        return math.inf if self.step is None else math.floor(self._steps(self.step) + 1e-9) + 1

    def _mirrored(self, x: float) -> float:
        """Maps a value to the unmirrored log scale and back; its own inverse, up to a rounding error."""
        return min(max(self.high - (x - self.low), self.low), self.high) if self.reverse else x

    def _tidy(self, x: float) -> float:
        if self.reverse:  # digits of high, not of the range: mirroring loses digits of a narrow range
            x = round(x, 12 - math.ceil(math.log10(self.high)))
        elif self.log:
            x = float(f"{x:.12g}")
        elif self.high > self.low:
            x = round(x, 12 - math.ceil(math.log10(self.high - self.low)))
        return min(max(x, self.low), self.high) + 0.0  # never -0.0

    def encode(self, value: Scalar) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError(f"{value!r} is not a number from {self.low} to {self.high}")
        if self.low == self.high:
            return 0.5
        x = self._mirrored(value)
        if self.step is not None:
            offset = math.log(x / self.low) / math.log(self.step) if self.log else (x - self.low) / self.step
            k = min(round(offset), int(self.size) - 1)
            if not math.isclose(self._rung(k), value, rel_tol=1e-9, abs_tol=1e-11 * (self.high - self.low)):
                raise ValueError(f"{value!r} is not {self.low} plus a multiple of the step {self.step}")
            u = (k + 0.5) / self.size
        elif self.log:
            u = math.log(x / self.low) / math.log(self.high / self.low)
        else:
            u = (x - self.low) / (self.high - self.low)
        return 1.0 - u if self.reverse else u

    def _rung(self, k: int) -> float:
        assert self.step is not None
        return self._tidy(self._mirrored(self.low * self.step**k if self.log else self.low + k * self.step))

    def decode(self, u: float) -> float:
        if self.reverse:
            u = 1.0 - u
        if self.size == 1:
            return self.high if self.reverse else self.low
        if self.step is not None:
            return self._rung(_cell(u, int(self.size)))
        if self.log:
            return self._tidy(self._mirrored(self.low * math.exp(u * math.log(self.high / self.low))))
        return self._tidy(self.low + u * (self.high - self.low))

    def typed(self, value: Scalar) -> float:
        if self.step is None and type(value) is float and self.low <= value <= self.high:
            return value  # without its coordinate: this is called for each value of each trial
        self.encode(value)
        return float(cast(float, value))

    def from_string(self, text: str) -> float:
        value = float(text)
        self.encode(value)
        return value


class Int(_Parameter):
    """A whole number in ``[low, high]``, uniform on a linear or a log scale; otherwise like :class:`Float`.

    >>> [Int(low=8, high=64, step=8).decode(u) for u in (0.0, 0.5, 1.0)]
    [8, 40, 64]
    """

    type: Literal["int"] = "int"
    low: Whole = Field(description="The lowest value.")
    high: Whole = Field(description="The highest value.")
    log: bool = Field(False, description="Uniform in the logarithm; low must be above 0.")
    reverse: bool = Field(False, description="With log: fine at high instead of at low.")
    step: Whole | None = Field(None, description="From one value to the next; with log a factor.")

    @model_validator(mode="before")
    @classmethod
    def _every_number(cls, data: Any) -> Any:
        """On a linear scale a step of 1 is none: both are the same parameter."""
        if isinstance(data, Mapping) and type(data.get("step")) is int and data["step"] == 1 and not data.get("log"):
            return {**data, "step": None}
        return data

    @model_validator(mode="after")
    def _valid(self) -> Int:
        _check_range(self.low, self.high, self.log, self.reverse, self.step)
        for bound in (self.low, self.high):
            if abs(bound) > MAX_EXACT_INT:
                raise ValueError(f"{bound} is beyond 2**43, where neighbouring integers can no longer be told apart")
        return self

    @property
    def size(self) -> float:
        if self.log and self.step is not None:
            k = round(math.log(self.high / self.low) / math.log(self.step))
            return k + int(self.low * self.step**k <= self.high)  # the logarithm alone may round past high
        return (self.high - self.low) // (self.step or 1) + 1

    def _log_edges(self) -> tuple[float, float]:
        return math.log(self.low - 0.5), math.log(self.high + 0.5)

    def encode(self, value: Scalar) -> float:
        # Check the range before float(): a huge integer does not convert.
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not self.low <= value <= self.high
            or not float(value).is_integer()
        ):
            raise ValueError(f"{value!r} is not a whole number from {self.low} to {self.high}")
        u = self._coordinate(self._mirrored(int(value)))
        if u is None:
            raise ValueError(f"{value!r} cannot be reached from {self.low} in steps of {self.step}")
        return 1.0 - u if self.reverse else u

    def _mirrored(self, number: int) -> int:
        """Maps a value to the unmirrored log scale and back; its own inverse."""
        return self.low + self.high - number if self.reverse else number

    def _coordinate(self, number: int) -> float | None:
        """The coordinate of a value on the unmirrored scale; None if no step reaches it."""
        if self.step is None and self.log:
            a, b = self._log_edges()
            return (math.log(number) - a) / (b - a)
        if self.step is None:
            k = number - self.low
        else:
            offset = math.log(number / self.low) / math.log(self.step) if self.log else (number - self.low) / self.step
            k = round(offset)
            if k >= self.size or self._rung(k) != number:
                return None
        return (k + 0.5) / self.size

    def _rung(self, k: int) -> int:
        step = 1 if self.step is None else self.step
        return self.low * step**k if self.log and self.step is not None else self.low + k * step

    def decode(self, u: float) -> int:
        if self.reverse:
            u = 1.0 - u
        if self.log and self.step is None:
            a, b = self._log_edges()
            return self._mirrored(min(max(round(math.exp(a + u * (b - a))), self.low), self.high))
        return self._mirrored(self._rung(_cell(u, int(self.size))))

    def typed(self, value: Scalar) -> int:
        self.encode(value)
        return int(cast(float, value))

    def from_string(self, text: str) -> int:
        value = int(text)
        self.encode(value)
        return value

    def values(self, steps: int) -> list[Scalar]:
        # Not by evenly spaced coordinates: cells on a log scale differ in width.
        if self.size > steps:
            return super().values(steps)
        rungs = [self._mirrored(self._rung(k)) for k in range(int(self.size))]
        return [*reversed(rungs)] if self.reverse else [*rungs]


class Listed(_Parameter):
    """A parameter whose values are listed one by one."""

    @property
    @abstractmethod
    def options(self) -> list[Scalar]:
        """The values, in the order of declaration."""

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {scalar_key(option): i for i, option in enumerate(self.options)}

    @cached_property
    def _labels(self) -> list[str]:
        # "1" and 1 look alike as MLflow params; if any two options do, all are written as JSON.
        labels = [str(option) for option in self.options]
        return labels if len(set(labels)) == len(labels) else [json.dumps(option) for option in self.options]

    @property
    def size(self) -> float:
        return len(self.options)

    def index(self, value: Scalar) -> int:
        """The position of a value among the options.

        Raises:
            ValueError: The value is not an option.
        """
        try:
            return self._positions[scalar_key(value)]
        except KeyError:
            raise ValueError(f"{value!r} is not one of {self.options}") from None

    def encode(self, value: Scalar) -> float:
        return (self.index(value) + 0.5) / len(self.options)

    def decode(self, u: float) -> Scalar:
        return self.options[_cell(u, len(self.options))]

    def typed(self, value: Scalar) -> Scalar:
        return self.options[self.index(value)]

    def to_string(self, value: Scalar) -> str:
        return self._labels[self.index(value)]

    def from_string(self, text: str) -> Scalar:
        try:
            return self.options[self._labels.index(text)]
        except ValueError:
            raise ValueError(f"{text!r} is not one of {self._labels}") from None

    def values(self, steps: int) -> list[Scalar]:
        return list(self.options)


class Choice(Listed):
    """One of an unordered list of JSON scalars."""

    type: Literal["choice"] = "choice"
    choices: list[AnyScalar] = Field(description="The values.")

    @field_validator("choices")
    @classmethod
    def _valid(cls, choices: list[Scalar]) -> list[Scalar]:
        if not choices:
            raise ValueError("the list is empty; give at least one value")
        seen: set[str] = set()
        for choice in choices:
            if (key := scalar_key(choice)) in seen:
                raise ValueError(f"{choice!r} is listed twice; remove one")
            seen.add(key)
            if len(json.dumps(choice)) > MAX_VALUE_LENGTH:
                raise ValueError(f"a choice has {len(str(choice))} characters; MLflow stores {MAX_VALUE_LENGTH}")
        return choices

    @property
    def options(self) -> list[Scalar]:
        return self.choices


class Ordinal(Choice):
    """One of an ordered list of JSON scalars (``[small, medium, large]``)."""

    type: Literal["ordinal"] = "ordinal"  # type: ignore[assignment]


class Boolean(Listed):
    """``False`` or ``True``."""

    type: Literal["boolean"] = "boolean"

    @property
    def options(self) -> list[Scalar]:
        return [False, True]


class Fixed(Listed):
    """A value that every trial gets; it is logged to MLflow but is not a dimension of the cube."""

    type: Literal["fixed"] = "fixed"
    value: AnyScalar = Field(description="The value.")

    @property
    def options(self) -> list[Scalar]:
        return [self.value]


Parameter = Annotated[Float | Int | Choice | Ordinal | Boolean | Fixed, Field(discriminator="type")]

PARAMETERS: TypeAdapter[dict[str, Parameter]] = TypeAdapter(dict[str, Parameter])
