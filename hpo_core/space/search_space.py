"""Defines the search space: its parameters, conditions and constraints, and how configurations map to a cube.

Notation: a space has ``d`` dimensions, one for each parameter that is not fixed, in the order of declaration. A point
``u`` has shape ``(d,)`` and lies in the unit cube ``[0, 1]^d``, where every strategy works; a configuration holds the
raw values of the active parameters. ``encode(config)`` sets the coordinates of inactive parameters to NaN;
``decode(u)`` ignores them.

A discrete parameter splits ``[0, 1]`` into one cell per value, and a value is encoded as the middle of its cell.
Uniform points of the cube are therefore uniform over the values. Floats are proposed with 12 decimal digits of their
range (log-scaled ones with 12 significant digits): finer than any training can resolve, readable in a table, and
coarse enough that ``decode(encode(config)) == config`` holds to the last bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from hpo_core.base.arrays import Array
from hpo_core.base.errors import InputError
from hpo_core.base.storable import bad_parameter, param_key
from hpo_core.space.belief import Belief, BeliefDensity
from hpo_core.space.configuration import Config, Scalar, native, scalar_key
from hpo_core.space.constraints import Constraint, is_word
from hpo_core.space.parameters import (
    MAX_EXACT_INT,
    PARAMETERS,
    Boolean,
    Choice,
    Fixed,
    Float,
    Int,
    Listed,
    Ordinal,
)

MAX_WALK = 200_000
"""How many configurations and dead ends (where a constraint rules out the rest) an enumeration may visit."""

MISSING = "it is missing"
"""Why a configuration lies outside that lacks a parameter."""

PROBES = 10_000
"""How many points are tried before the constraints are reported as unsatisfiable."""


KINDS = (Float, Int, Choice, Ordinal, Boolean, Fixed)
"""The classes of parameters."""


def _all_hold(constraints: Sequence[Constraint], config: Config) -> bool:
    try:
        return all(constraint.holds(config) for constraint in constraints)
    except ValueError:
        return False


@dataclass(frozen=True)
class SearchSpace:
    """The parameters of a study in order of declaration, and the constraints between them.

    Args:
        parameters: By name. A parameter's condition (``when``) may name only parameters declared before it.
        constraints: Expressions that every configuration must make true; see :class:`Constraint`. A parameter name that
            is not a plain identifier (``lambda``, ``a.b``, ``my-param``) must be quoted; a quoted text that is also a
            value of some parameter remains a string.
        beliefs: What a user believes about good values, by parameter.

    Raises:
        ValueError: A name, a condition or a constraint cannot be used. The message starts with its location.

    >>> space = SearchSpace({
    ...     "optimizer": Choice(choices=["adam", "sgd"]),
    ...     "momentum": Float(low=0.0, high=0.99, when={"optimizer": ["sgd"]}),
    ... })
    >>> space.decode(np.array([0.2, 0.5])), space.decode(np.array([0.7, 0.5]))
    ({'optimizer': 'adam'}, {'optimizer': 'sgd', 'momentum': 0.495})
    """

    parameters: Mapping[str, Float | Int | Choice | Ordinal | Boolean | Fixed]
    constraints: Sequence[str] = ()
    beliefs: Mapping[str, Belief] = field(default_factory=dict)
    _parsed: tuple[Constraint, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_kinds()
        object.__setattr__(self, "constraints", tuple(self.constraints))
        for name in self.parameters:
            if problem := bad_parameter(name):
                raise ValueError(f"space.{name}: a parameter cannot have this name; {problem}")
        if len(set(self.keys.values())) < len(self.keys):
            alike = [name for name, key in self.keys.items() if list(self.keys.values()).count(key) > 1]
            raise ValueError(f"space: MLflow cannot tell {' and '.join(map(repr, alike))} apart; rename one of them")
        self._check_conditions()
        parsed = []
        for i, text in enumerate(self.constraints):
            try:
                constraint = Constraint(text, self._quoted)
                if unknown := sorted(constraint.names - self.parameters.keys()):
                    raise ValueError(f"{text!r} names {unknown[0]!r}, which is not a parameter of the space")
            except ValueError as error:
                raise ValueError(f"constraints.{i}: {error}") from None
            parsed.append(constraint)
        object.__setattr__(self, "_parsed", tuple(parsed))
        self._check_satisfiable()
        try:
            _ = self.belief
        except ValueError as error:
            raise ValueError(f"prior.{error}") from None

    def _check_kinds(self) -> None:
        """Check what nothing else can be said of: spaces written in Python may have anything in any place."""
        space: Any = self.parameters
        if not isinstance(space, Mapping):
            raise InputError("space", f"{space!r} is not a mapping of names to parameters", "correct it")
        for name, parameter in space.items():
            if not isinstance(name, str):
                raise InputError(f"space.{name}", f"the name {name!r} is not text", "quote it")
            if not isinstance(parameter, KINDS):
                kinds = ", ".join(kind.__name__ for kind in KINDS)
                raise InputError(f"space.{name}", f"{parameter!r} is not a parameter", f"give one of {kinds}")
        if isinstance(self.constraints, str) or not isinstance(self.constraints, Iterable):
            raise InputError("constraints", f"{self.constraints!r} is not a list", f"write [{self.constraints!r}]")

    @cached_property
    def belief(self) -> BeliefDensity:
        """The beliefs as a density; false if there are none."""
        return BeliefDensity({name: self.parameters[name] for name in self.free}, self.beliefs)

    @property
    def _quoted(self) -> frozenset[str]:
        """The parameters whose names constraints must quote, except names that are also a value of some parameter."""
        options = (parameter.options for parameter in self.parameters.values() if isinstance(parameter, Listed))
        values = {value for each in options for value in each}
        return frozenset(name for name in self.parameters if not is_word(name)) - values

    def _check_conditions(self) -> None:
        # Check for cycles first: every parameter in a cycle also looks declared too late.
        done: set[str] = set()
        for name in self.parameters:
            if circle := self._circle(name, [], done):
                raise ValueError(f"space.{name}.when: the conditions form a cycle: {' -> '.join(circle)}")
        declared: list[str] = []
        for name, parameter in self.parameters.items():
            for parent, values in parameter.when.items():
                where = f"space.{name}.when.{parent}"
                if parent not in self.parameters:
                    raise ValueError(f"{where}: unknown parameter {parent!r}; the space has {list(self.parameters)}")
                if parent not in declared:
                    raise ValueError(f"{where}: {parent!r} is declared after {name!r}; move it before {name!r}")
                if not values:
                    raise ValueError(f"{where}: no value is listed, so {name!r} would never be active")
                for value in values:
                    try:
                        self.parameters[parent].encode(value)
                    except ValueError as error:
                        raise ValueError(f"{where}: {error}, so {name!r} would never be active for it") from None
            if parameter.has_default:
                try:
                    self._typed(name, native(parameter.default))
                except ValueError as error:
                    raise ValueError(
                        f"space.{name}.default: {error}; correct it, or leave it out once the study knows it"
                    ) from None
            declared.append(name)

    def _circle(self, name: str, path: list[str], done: set[str]) -> list[str]:
        """The cycle reached by following conditions from ``name``; empty if there is none."""
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
        """The parameters that are not fixed, one per dimension."""
        return tuple(name for name, parameter in self.parameters.items() if not isinstance(parameter, Fixed))

    @property
    def dimensions(self) -> int:
        return len(self.free)

    @cached_property
    def keys(self) -> dict[str, str]:
        """The parameters' keys in MLflow, by name."""
        return {name: param_key(name) for name in self.parameters}

    @cached_property
    def size(self) -> float:
        """An upper bound on the number of configurations; it ignores conditions and constraints."""
        return math.prod(float(self.parameters[name].size) for name in self.free)  # a huge int may not fit a float

    def active(self, name: str, config: Config) -> bool:
        """Whether a parameter is active, given the values of those declared before it."""
        return all(
            parent in config and scalar_key(config[parent]) in {scalar_key(value) for value in values}
            for parent, values in self.parameters[name].when.items()
        )

    def feasible(self, config: Config) -> bool:
        """Whether every constraint holds; one that compares incompatible types (``"a" < 3``) does not."""
        return _all_hold(self._parsed, config)

    def decode(self, u: Array) -> dict[str, Scalar]:
        """The configuration at a point of the unit cube; constraints are not checked.

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
            ValueError: The configuration does not belong to this space (constraints are not checked).
        """
        config = self.validated(config, check_constraints=False)
        return np.array(
            [self.parameters[name].encode(config[name]) if name in config else math.nan for name in self.free]
        )

    def validated(self, config: Config, *, check_constraints: bool = True) -> dict[str, Scalar]:
        """The configuration in the order and with the types of the space.

        Floats are not rounded to the digits of a proposal.

        Raises:
            ValueError: A value is missing, unexpected or out of range, or a constraint does not hold.
        """
        if not config.keys() <= self.parameters.keys():
            unknown = next(name for name in config if name not in self.parameters)
            raise ValueError(f"{unknown!r} is not a parameter of the space, which has {list(self.parameters)}")
        result: dict[str, Scalar] = {}
        for name, parameter in self.parameters.items():
            if parameter.when and not self.active(name, result):
                if name in config:
                    raise ValueError(f"{name!r} is given but not active: it needs {parameter.when}")
                continue
            if name in config:
                value = config[name]
                if type(value) is not float:  # as most are, which have a type of their own only in the range
                    value = native(value)
            elif isinstance(parameter, Fixed):
                value = parameter.value
            else:
                raise ValueError(f"{name!r} is missing")
            try:
                result[name] = parameter.typed(value)
            except (ValueError, OverflowError) as error:  # an integer may be too large for a float
                raise ValueError(f"{name!r}: {error}") from None
        if check_constraints:
            for constraint in self._parsed:
                if not constraint.holds(result):
                    raise ValueError(f"the constraint {constraint.text!r} does not hold")
        return result

    def _typed(self, name: str, value: Scalar) -> Scalar:
        """A value with the type that the parameter has.

        Raises:
            ValueError: The parameter cannot have the value.
        """
        try:
            return self.parameters[name].typed(value)
        except OverflowError as error:  # an integer may be too large for a float
            raise ValueError(str(error)) from None

    def fitted(self, config: Config, defaults: Config) -> tuple[dict[str, Scalar], dict[str, str]]:
        """A configuration of another space in this one, as far as it goes, and why it is none of this one.

        What it has of parameters that this space has not, or that are not active, is left out.

        Args:
            config: The configuration.
            defaults: Values of parameters that it lacks.

        Returns:
            The configuration, and why it lies outside: by parameter, or by constraint. Empty if it lies inside.
        """
        fitted: dict[str, Scalar] = {}
        outside: dict[str, str] = {}
        for name, parameter in self.parameters.items():
            if not self.active(name, fitted):
                continue
            if name in config or name in defaults:
                value = config[name] if name in config else defaults[name]
            elif isinstance(parameter, Fixed):
                value = parameter.value
            else:
                outside[name] = MISSING
                continue
            try:
                fitted[name] = self._typed(name, value)
            except ValueError as error:
                fitted[name], outside[name] = value, str(error)
        if not outside:
            outside = {c.text: "it does not hold" for c in self._parsed if not _all_hold([c], fitted)}
        return fitted, outside

    def enumerate(
        self, steps: int | Mapping[str, int] = MAX_EXACT_INT, *, feasible: bool = False
    ) -> Iterator[dict[str, Scalar]]:
        """Every configuration of the grid once, the last declared parameter varying fastest.

        Inactive parameters are left out, so no configuration appears twice.

        Args:
            steps: The maximum number of values of each numeric parameter, for all or by name (a name that is absent
                gets all its values). Floats without a step need it.
            feasible: Leave out configurations that break a constraint, and skip a whole branch once one is broken.
        """
        return (config for config in self._walk(steps, feasible) if config is not None)

    def _walk(self, steps: int | Mapping[str, int], feasible: bool) -> Iterator[dict[str, Scalar] | None]:
        """As :meth:`enumerate`, with None for each branch that a constraint rules out."""
        names = list(self.parameters)
        levels = {
            name: parameter.values(steps.get(name, MAX_EXACT_INT) if isinstance(steps, Mapping) else steps)
            for name, parameter in self.parameters.items()
        }
        decided: list[list[Constraint]] = [[] for _ in range(len(names) + 1)]  # by parameters needed
        for constraint in self._parsed if feasible else ():
            decided[max((names.index(name) + 1 for name in constraint.names), default=0)].append(constraint)

        def extend(config: dict[str, Scalar], i: int) -> Iterator[dict[str, Scalar] | None]:
            if not _all_hold(decided[i], config):
                yield None
            elif i == len(names):
                yield dict(config)
            elif self.active(names[i], config):
                for value in levels[names[i]]:
                    config[names[i]] = value
                    yield from extend(config, i + 1)
                del config[names[i]]
            else:
                yield from extend(config, i + 1)

        return extend({}, 0)

    @cached_property
    def few(self) -> bool:
        """Whether all feasible configurations can be listed in a few seconds.

        Unlike :attr:`size`, it respects conditions and constraints, and costs a walk of up to :data:`MAX_WALK` steps.
        """
        if any(parameter.size > MAX_WALK for parameter in self.parameters.values()):
            return False
        return sum(1 for _ in islice(self._walk(MAX_WALK, feasible=True), MAX_WALK + 1)) <= MAX_WALK

    def to_params(self, config: Config) -> dict[str, str]:
        """The configuration as MLflow params: under :attr:`keys`, values as strings.

        What the space does not have is written, too: the configuration may be of an earlier one.
        """
        return {param_key(name): self._to_string(name, value) for name, value in config.items()}

    def _to_string(self, name: str, value: Scalar) -> str:
        try:
            return self.parameters[name].to_string(value)
        except (KeyError, ValueError):
            return str(value)

    def from_params(self, params: Mapping[str, str]) -> dict[str, Scalar]:
        """The configuration stored in MLflow params; params that are not in the space are ignored.

        Raises:
            ValueError: A param is missing or unreadable, or the configuration does not belong to this space.
        """
        values: dict[str, Scalar] = {}
        for name, key in self.keys.items():
            if key not in params:
                continue
            try:
                values[name] = self.parameters[name].from_string(params[key])
            except ValueError as error:
                raise ValueError(f"{name!r}: {error}") from None
        return self.validated(values, check_constraints=False)

    def to_json(self) -> str:
        """The space as JSON; :meth:`from_json` restores an equal space."""
        parameters = {name: parameter.model_dump(mode="json") for name, parameter in self.parameters.items()}
        return json.dumps({"parameters": parameters, "constraints": list(self.constraints)})

    @classmethod
    def from_json(cls, text: str) -> SearchSpace:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: The text does not describe a search space.
        """
        data = json.loads(text)
        return cls(PARAMETERS.validate_python(data["parameters"]), tuple(data["constraints"]))
