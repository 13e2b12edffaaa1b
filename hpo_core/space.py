"""The search space: parameters, conditions and constraints, and how a configuration becomes a point of a cube.

Notation: a space has ``d`` dimensions, one for each parameter that is not fixed, in the order of declaration. A point
``u`` has shape ``(d,)`` and lies in the unit cube ``[0, 1]^d``, where every strategy works; a configuration holds the
raw values of the active parameters. In ``encode(config)`` the coordinates of inactive parameters are NaN;
``decode(u)`` ignores them.

Discrete parameters cut ``[0, 1]`` into one cell a value; a configuration is encoded as the middle of its cells, so
uniform points of the cube are uniform over the values. Floats are proposed with 12 decimal digits of their range
(log-scaled ones with 12 significant digits): finer than any training can tell, readable in a table, and coarse enough
that ``decode(encode(config)) == config`` holds to the last bit.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from hpo_core.configuration import Config, Scalar, native, scalar_key
from hpo_core.constraints import Constraint

Array = npt.NDArray[np.float64]

MAX_EXACT_INT = 2**43
"""Beyond it a coordinate of the cube no longer tells neighbouring integers apart (on a log scale first)."""

MAX_WIDTH = 1e300
"""Of wider ranges, a rounded value may overflow."""

MAX_STEPS = 10**9
"""Of more values than that, the 12 digits of a float are too few."""

MAX_NAME_LENGTH = 250
MAX_VALUE_LENGTH = 6000
"""MLflow's limits on the key and the value of a param."""

# What MLflow accepts as the key of a param. ':' is left out: its servers on Windows refuse it.
_NAME = re.compile(r"[\w\-. /]+")


def _scalar(value: Any) -> Scalar:
    return native(value)


def _scalars(value: Any) -> list[Scalar]:
    return [native(item) for item in (value if isinstance(value, list | tuple) else [value])]


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would take True for 1
        raise ValueError(f"{value} is not a number")
    return value


AnyScalar = Annotated[Any, BeforeValidator(_scalar)]
Number = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_number)]


class _Parameter(BaseModel, ABC):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    when: dict[str, Annotated[list[Any], BeforeValidator(_scalars)]] = Field(
        default={}, description="Active only where each of these parameters has one of the listed values."
    )

    @property
    @abstractmethod
    def size(self) -> float:
        """How many values there are; ``inf`` for a float without a step."""

    @abstractmethod
    def encode(self, value: Scalar) -> float:
        """The coordinate of a value, in [0, 1].

        Raises:
            ValueError: The value is not one of this parameter's.
        """

    @abstractmethod
    def decode(self, u: float) -> Scalar:
        """The value at a coordinate of [0, 1]."""

    def to_string(self, value: Scalar) -> str:
        """What MLflow shows: ``str(value)`` wherever that can be read back."""
        return str(value)

    @abstractmethod
    def from_string(self, text: str) -> Scalar:
        """The inverse of :meth:`to_string`, to the last bit.

        Raises:
            ValueError: The text is no value of this parameter.
        """

    def values(self, steps: int) -> list[Scalar]:
        """All values if there are at most ``steps``, else so many spread evenly over the scale, ends included."""
        count = int(min(self.size, steps))
        points = (np.arange(count) + 0.5) / count if self.size <= steps else np.linspace(0.0, 1.0, count)
        return list(dict.fromkeys(self.decode(float(u)) for u in points))


def _check_range(low: float, high: float, log: bool, reverse: bool, step: float | None) -> None:
    if low > high:
        raise ValueError(f"low {low} is above high {high}; swap them")
    if reverse and not log:
        raise ValueError("reverse: true turns a log scale round; set log: true as well, or drop reverse")
    if log and low <= 0:
        raise ValueError(f"low {low} with log: true; a log scale needs low > 0, so raise low or drop log")
    if step is not None and log and step <= 1:
        raise ValueError(f"step {step} with log: true; there a step is a factor and must be above 1")
    if step is not None and step <= 0:
        raise ValueError(f"step {step} is not above 0")


def _cell(u: float, count: int) -> int:
    return min(int(u * count), count - 1)


class Float(_Parameter):
    """A real number in ``[low, high]``, uniform on a linear or a log scale.

    With ``step`` the values are ``low, low + step, ...`` (with ``log``: ``low, low * step, ...``). ``reverse`` mirrors
    a log scale: it is ``low + high - value`` that is uniform in its logarithm, so the fine end of the scale is at
    ``high`` (a momentum near 1), and steps are counted from there.

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
        if (self.high / self.low if self.log else self.high - self.low) > MAX_WIDTH or (
            self.reverse and self.high > MAX_WIDTH
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
        # The last value may miss high by a rounding error; it is set to high then.
        return math.inf if self.step is None else math.floor(self._steps(self.step) + 1e-9) + 1

    def _mirrored(self, x: float) -> float:
        """The value on a log scale of the usual sense; its own inverse, up to a rounding error."""
        return min(max(self.high - (x - self.low), self.low), self.high) if self.reverse else x

    def _tidy(self, x: float) -> float:
        if self.reverse:  # digits of the range would be lost, where it is narrow, between a value and its mirror image
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

    def from_string(self, text: str) -> float:
        value = float(text)
        self.encode(value)
        return value


class Int(_Parameter):
    """A whole number in ``[low, high]``, uniform on a linear or a log scale; the rest as for :class:`Float`.

    >>> [Int(low=8, high=64, step=8).decode(u) for u in (0.0, 0.5, 1.0)]
    [8, 40, 64]
    """

    type: Literal["int"] = "int"
    low: Whole = Field(description="The lowest value.")
    high: Whole = Field(description="The highest value.")
    log: bool = Field(False, description="Uniform in the logarithm; low must be above 0.")
    reverse: bool = Field(False, description="With log: fine at high instead of at low.")
    step: Whole | None = Field(None, description="From one value to the next; with log a factor.")

    @model_validator(mode="after")
    def _valid(self) -> Int:
        _check_range(self.low, self.high, self.log, self.reverse, self.step)
        for bound in (self.low, self.high):
            if abs(bound) > MAX_EXACT_INT:
                raise ValueError(f"{bound} is beyond 2**43, where integers are no longer told apart")
        return self

    @property
    def size(self) -> float:
        if self.log and self.step is not None:
            k = round(math.log(self.high / self.low) / math.log(self.step))
            return k + int(self.low * self.step**k <= self.high)  # a logarithm alone may round the last rung over high
        return (self.high - self.low) // (self.step or 1) + 1

    def _log_edges(self) -> tuple[float, float]:
        return math.log(self.low - 0.5), math.log(self.high + 0.5)

    def encode(self, value: Scalar) -> float:
        # The range before the fraction: an integer may be too large to be made a float.
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not self.low <= value <= self.high
            or not float(value).is_integer()
        ):
            raise ValueError(f"{value!r} is not a whole number from {self.low} to {self.high}")
        u = self._coordinate(self._mirrored(int(value)))
        if u is None:
            raise ValueError(f"{value!r} is not reached from {self.low} by steps of {self.step}")
        return 1.0 - u if self.reverse else u

    def _mirrored(self, number: int) -> int:
        """The value on a log scale of the usual sense; its own inverse."""
        return self.low + self.high - number if self.reverse else number

    def _coordinate(self, number: int) -> float | None:
        """The coordinate of a value on a scale of the usual sense; None where steps do not reach it."""
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

    def from_string(self, text: str) -> int:
        value = int(text)
        self.encode(value)
        return value

    def values(self, steps: int) -> list[Scalar]:
        # Not by coordinates: cells on a log scale differ in width.
        if self.size > steps:
            return super().values(steps)
        rungs = [self._mirrored(self._rung(k)) for k in range(int(self.size))]
        return [*reversed(rungs)] if self.reverse else [*rungs]


class _Listed(_Parameter):
    """A parameter whose values are written down one by one."""

    @property
    @abstractmethod
    def options(self) -> list[Scalar]:
        """The values, in the order of declaration."""

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {scalar_key(option): i for i, option in enumerate(self.options)}

    @cached_property
    def _labels(self) -> list[str]:
        # "1" and 1 look alike as MLflow params; where any two options do, all are written as JSON.
        labels = [str(option) for option in self.options]
        return labels if len(set(labels)) == len(labels) else [json.dumps(option) for option in self.options]

    @property
    def size(self) -> float:
        return len(self.options)

    def index(self, value: Scalar) -> int:
        """The position of a value among the options.

        Raises:
            ValueError: It is none of them.
        """
        try:
            return self._positions[scalar_key(value)]
        except KeyError:
            raise ValueError(f"{value!r} is none of {self.options}") from None

    def encode(self, value: Scalar) -> float:
        return (self.index(value) + 0.5) / len(self.options)

    def decode(self, u: float) -> Scalar:
        return self.options[_cell(u, len(self.options))]

    def to_string(self, value: Scalar) -> str:
        return self._labels[self.index(value)]

    def from_string(self, text: str) -> Scalar:
        try:
            return self.options[self._labels.index(text)]
        except ValueError:
            raise ValueError(f"{text!r} is none of {self._labels}") from None

    def values(self, steps: int) -> list[Scalar]:
        return list(self.options)


class Choice(_Listed):
    """One of a list of JSON scalars without an order."""

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
                raise ValueError(f"{choice!r} stands twice; remove one")
            seen.add(key)
            if len(json.dumps(choice)) > MAX_VALUE_LENGTH:
                raise ValueError(f"a choice has {len(str(choice))} characters; MLflow keeps {MAX_VALUE_LENGTH}")
        return choices

    @property
    def options(self) -> list[Scalar]:
        return self.choices


class Ordinal(Choice):
    """One of a list of JSON scalars whose order means something (``[small, medium, large]``)."""

    type: Literal["ordinal"] = "ordinal"  # type: ignore[assignment]


class Boolean(_Listed):
    """``False`` or ``True``."""

    type: Literal["boolean"] = "boolean"

    @property
    def options(self) -> list[Scalar]:
        return [False, True]


class Fixed(_Listed):
    """A value that every trial gets; it stands in MLflow but is no dimension of the cube."""

    type: Literal["fixed"] = "fixed"
    value: AnyScalar = Field(description="The value.")

    @property
    def options(self) -> list[Scalar]:
        return [self.value]


Parameter = Annotated[Float | Int | Choice | Ordinal | Boolean | Fixed, Field(discriminator="type")]
_PARAMETERS: TypeAdapter[dict[str, Parameter]] = TypeAdapter(dict[str, Parameter])

PROBES = 10_000
"""How many points are tried before the constraints are said to leave nothing."""


@dataclass(frozen=True)
class SearchSpace:
    """The parameters of a study in order of declaration, and the constraints between them.

    Args:
        parameters: By name. A parameter's condition (``when``) may name only parameters declared before it.
        constraints: Expressions that every configuration makes true; see :class:`Constraint`.

    Raises:
        ValueError: A name, a condition or a constraint cannot be used. The message starts with where it stands.

    >>> space = SearchSpace({
    ...     "optimizer": Choice(choices=["adam", "sgd"]),
    ...     "momentum": Float(low=0.0, high=0.99, when={"optimizer": ["sgd"]}),
    ... })
    >>> space.decode(np.array([0.2, 0.5])), space.decode(np.array([0.7, 0.5]))
    ({'optimizer': 'adam'}, {'optimizer': 'sgd', 'momentum': 0.495})
    """

    parameters: Mapping[str, Float | Int | Choice | Ordinal | Boolean | Fixed]
    constraints: Sequence[str] = ()
    _parsed: tuple[Constraint, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "constraints", tuple(self.constraints))
        for name in self.parameters:
            if not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH or name.strip() != name:
                raise ValueError(
                    f"space.{name}: MLflow cannot keep a parameter of this name; use letters, digits, _ - . / and "
                    f"spaces, at most {MAX_NAME_LENGTH} characters"
                )
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise ValueError(f"space.{name}: MLflow cannot keep this name; it reads as a path")
        self._check_conditions()
        parsed = []
        for i, text in enumerate(self.constraints):
            try:
                constraint = Constraint(text)
                if unknown := sorted(constraint.names - self.parameters.keys()):
                    raise ValueError(f"{text!r} names {unknown[0]!r}, which is no parameter of the space")
            except ValueError as error:
                raise ValueError(f"constraints.{i}: {error}") from None
            parsed.append(constraint)
        object.__setattr__(self, "_parsed", tuple(parsed))
        self._check_satisfiable()

    def _check_conditions(self) -> None:
        # Circles first: inside one, every parameter also looks declared too late.
        done: set[str] = set()
        for name in self.parameters:
            if circle := self._circle(name, [], done):
                raise ValueError(f"space.{name}.when: the conditions form a circle: {' -> '.join(circle)}")
        declared: list[str] = []
        for name, parameter in self.parameters.items():
            for parent, values in parameter.when.items():
                where = f"space.{name}.when.{parent}"
                if parent not in self.parameters:
                    raise ValueError(
                        f"{where}: there is no parameter {parent!r}; the space has {list(self.parameters)}"
                    )
                if parent not in declared:
                    raise ValueError(f"{where}: {parent!r} is declared after {name!r}; move it before")
                if not values:
                    raise ValueError(f"{where}: no value is listed, so {name!r} would never be active")
                for value in values:
                    try:
                        self.parameters[parent].encode(value)
                    except ValueError as error:
                        raise ValueError(f"{where}: {error}, so {name!r} would never be active for it") from None
            declared.append(name)

    def _circle(self, name: str, path: list[str], done: set[str]) -> list[str]:
        """The circle that following conditions from ``name`` runs into; empty if none."""
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done or name not in self.parameters:
            return []
        for parent in self.parameters[name].when:
            if circle := self._circle(parent, [*path, name], done):
                return circle
        done.add(name)
        return []

    def _check_satisfiable(self) -> None:
        if not self._parsed:
            return
        if self.size <= PROBES:
            candidates: Iterator[dict[str, Scalar]] = self.enumerate()
        else:
            rng = np.random.default_rng(0)
            candidates = (self.decode(u) for u in rng.random((PROBES, self.dimensions)))
        problem: ValueError | None = None
        for config in candidates:
            try:
                if all(constraint.holds(config) for constraint in self._parsed):
                    return
            except ValueError as error:
                problem = error
        if problem is not None:
            raise ValueError(f"constraints: {problem}")
        tried = "any configuration" if self.size <= PROBES else f"one of {PROBES} random configurations"
        raise ValueError(f"constraints: {list(self.constraints)} do not leave {tried}; loosen them or widen the space")

    @cached_property
    def free(self) -> tuple[str, ...]:
        """The parameters that are not fixed, one a dimension."""
        return tuple(name for name, parameter in self.parameters.items() if not isinstance(parameter, Fixed))

    @property
    def dimensions(self) -> int:
        return len(self.free)

    @cached_property
    def size(self) -> float:
        """An upper bound on the number of configurations: conditions and constraints are not counted out."""
        return math.prod(float(self.parameters[name].size) for name in self.free)  # as integers it may not fit a float

    def active(self, name: str, config: Config) -> bool:
        """Whether a parameter is active beside the values of those declared before it."""
        return all(
            parent in config and scalar_key(config[parent]) in {scalar_key(value) for value in values}
            for parent, values in self.parameters[name].when.items()
        )

    def feasible(self, config: Config) -> bool:
        """Whether every constraint holds; one that compares what does not compare (``"a" < 3``) does not."""
        try:
            return all(constraint.holds(config) for constraint in self._parsed)
        except ValueError:
            return False

    def decode(self, u: Array) -> dict[str, Scalar]:
        """The configuration at a point of the unit cube; constraints are not looked at.

        Args:
            u: Shape ``(d,)``; coordinates of inactive parameters are ignored.
        """
        config: dict[str, Scalar] = {}
        coordinates = iter(u.tolist())
        for name, parameter in self.parameters.items():
            coordinate = 0.5 if isinstance(parameter, Fixed) else next(coordinates)
            if not parameter.when or self.active(name, config):
                config[name] = parameter.decode(coordinate)
        return config

    def encode(self, config: Config) -> Array:
        """The point of the unit cube, shape ``(d,)``, NaN where inactive.

        Raises:
            ValueError: The configuration is not one of this space (constraints apart).
        """
        config = self.validated(config, check_constraints=False)
        return np.array(
            [self.parameters[name].encode(config[name]) if name in config else math.nan for name in self.free]
        )

    def validated(self, config: Config, *, check_constraints: bool = True) -> dict[str, Scalar]:
        """The configuration in the order and with the types of the space.

        Values that lie between the grid points of a float are kept as they are.

        Raises:
            ValueError: A value is missing, superfluous or outside its parameter, or a constraint does not hold.
        """
        if unknown := [name for name in config if name not in self.parameters]:
            raise ValueError(f"{unknown[0]!r} is no parameter of the space, which has {list(self.parameters)}")
        result: dict[str, Scalar] = {}
        for name, parameter in self.parameters.items():
            if not self.active(name, result):
                if name in config:
                    raise ValueError(f"{name!r} is given but not active: it needs {parameter.when}")
                continue
            if name in config:
                value = native(config[name])
            elif isinstance(parameter, Fixed):
                value = parameter.value
            else:
                raise ValueError(f"{name!r} is missing")
            try:
                parameter.encode(value)
            except (ValueError, OverflowError) as error:  # an integer may be too large for a float
                raise ValueError(f"{name!r}: {error}") from None
            if isinstance(parameter, Float):
                value = float(cast(float, value))
            elif isinstance(parameter, Int):
                value = int(cast(float, value))
            elif isinstance(parameter, _Listed):
                value = parameter.options[parameter.index(value)]
            result[name] = value
        if check_constraints:
            for constraint in self._parsed:
                if not constraint.holds(result):
                    raise ValueError(f"the constraint {constraint.text!r} does not hold")
        return result

    def enumerate(self, steps: int | Mapping[str, int] = MAX_EXACT_INT) -> Iterator[dict[str, Scalar]]:
        """Every configuration of the grid once, the last declared parameter varying fastest.

        Constraints are not looked at. Parameters that are inactive take no part, so no configuration comes twice.

        Args:
            steps: At most so many values of each numeric parameter, for all or by name (where a name is absent: all
                values). Floats without a step need it.
        """
        names = list(self.parameters)
        levels = {
            name: parameter.values(steps if isinstance(steps, int) else steps.get(name, MAX_EXACT_INT))
            for name, parameter in self.parameters.items()
        }

        def extend(config: dict[str, Scalar], i: int) -> Iterator[dict[str, Scalar]]:
            if i == len(names):
                yield dict(config)
            elif self.active(names[i], config):
                for value in levels[names[i]]:
                    config[names[i]] = value
                    yield from extend(config, i + 1)
                del config[names[i]]
            else:
                yield from extend(config, i + 1)

        return extend({}, 0)

    def to_params(self, config: Config) -> dict[str, str]:
        """The configuration as MLflow params: the same names, values as strings."""
        return {name: self.parameters[name].to_string(value) for name, value in config.items()}

    def from_params(self, params: Mapping[str, str]) -> dict[str, Scalar]:
        """The configuration that stands in MLflow params; params that are none of the space's are passed over.

        Raises:
            ValueError: A param is missing or unreadable, or the configuration is not one of this space.
        """
        values: dict[str, Scalar] = {}
        for name in self.parameters.keys() & params.keys():
            try:
                values[name] = self.parameters[name].from_string(params[name])
            except ValueError as error:
                raise ValueError(f"{name!r}: {error}") from None
        return self.validated(values, check_constraints=False)

    def to_json(self) -> str:
        """The space as JSON; :meth:`from_json` makes an equal one."""
        parameters = {name: parameter.model_dump(mode="json") for name, parameter in self.parameters.items()}
        return json.dumps({"parameters": parameters, "constraints": list(self.constraints)})

    @classmethod
    def from_json(cls, text: str) -> SearchSpace:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: The text is no such JSON.
        """
        data = json.loads(text)
        return cls(_PARAMETERS.validate_python(data["parameters"]), tuple(data["constraints"]))
