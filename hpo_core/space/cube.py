"""Encodes many configurations at once as arrays, the form in which surrogates work with a search space.

:class:`~hpo_core.space.search_space.SearchSpace` handles one configuration; a surrogate scores thousands. Notation:
``X`` has shape ``(n, d)``, one row per configuration, in the unit cube with NaN where a parameter is inactive, exactly
as :meth:`~hpo_core.space.search_space.SearchSpace.encode` returns it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hpo_core.base.arrays import Array
from hpo_core.space.configuration import Config, Scalar, scalar_key
from hpo_core.space.parameters import Boolean, Choice, Fixed, Float, Int, Ordinal
from hpo_core.space.search_space import SearchSpace

_Conditions = list[tuple[int, Array]]


@dataclass(frozen=True)
class Cube:
    """A search space as ``d`` columns."""

    space: SearchSpace

    @cached_property
    def columns(self) -> list[Any]:
        """The parameters that are not fixed, one per column."""
        return [self.space.parameters[name] for name in self.space.free]

    @cached_property
    def levels(self) -> Array:
        """The number of values of each parameter, shape ``(d,)``; ``inf`` if it is continuous."""
        return np.array([column.size for column in self.columns], dtype=float)

    @cached_property
    def categories(self) -> Array:
        """The number of options of each unordered parameter, shape ``(d,)``; 0 for all others."""
        return np.array(
            [
                len(c.options) if isinstance(c, Boolean | Choice) and not isinstance(c, Ordinal) else 0
                for c in self.columns
            ]
        )

    @cached_property
    def _conditions(self) -> list[_Conditions | None]:
        """For each column, the coordinates its parents must have; None if it can never be active."""
        position = {name: j for j, name in enumerate(self.space.free)}

        def conditions(name: str) -> _Conditions | None:
            found: _Conditions = []
            for parent, values in self.space.parameters[name].when.items():
                parameter = self.space.parameters[parent]
                if not isinstance(parameter, Fixed):
                    found.append((position[parent], np.array([parameter.encode(value) for value in values])))
                    continue
                # A fixed parent has no column, so its own conditions take its place.
                above = conditions(parent)
                if above is None or scalar_key(parameter.value) not in map(scalar_key, values):
                    return None
                found += above
            return found

        return [conditions(name) for name in self.space.free]

    @cached_property
    def conditional(self) -> bool:
        """Whether any parameter is sometimes inactive."""
        return any(conditions != [] for conditions in self._conditions)

    def active(self, X: Array) -> Any:
        """Which coordinates are active, a boolean mask of shape ``(n, d)``; inactive coordinates are not read."""
        on = np.ones(X.shape, dtype=bool)
        for j, conditions in enumerate(self._conditions):
            if conditions is None:
                on[:, j] = False
            for parent, wanted in conditions or ():
                # Coordinates of equal values differ by rounding only.
                on[:, j] &= on[:, parent] & (np.abs(X[:, parent, None] - wanted) < 1e-9).any(axis=1)
        return on

    def encode(self, configs: Sequence[Config]) -> tuple[Array, Any]:
        """``X`` of the configurations, and which of them belong to the space, shape ``(n,)``.

        Ignore the rows of the others (a value out of range, a missing or an extra parameter).
        """
        X = np.empty((len(configs), len(self.columns)))
        absent = object()
        given = np.empty(X.shape, dtype=bool)
        for j, (name, column) in enumerate(zip(self.space.free, self.columns, strict=True)):
            values = [config.get(name, absent) for config in configs]
            given[:, j] = [value is not absent for value in values]
            if isinstance(column, Float) and column.step is None and column.low < column.high:
                raw = np.array([value if type(value) in (float, int) else math.nan for value in values], dtype=float)
                with np.errstate(invalid="ignore"):
                    raw[~((raw >= column.low) & (raw <= column.high))] = math.nan
                if column.log:
                    X[:, j] = np.log(raw / column.low) / math.log(column.high / column.low)
                else:
                    X[:, j] = (raw - column.low) / (column.high - column.low)
                continue
            # Keyed by type as well: 1, 1.0 and True are equal as dictionary keys but not as values of a parameter.
            known: dict[tuple[type, Any], float] = {(object, absent): math.nan}
            for i, value in enumerate(values):
                key = (type(value), value)
                if key not in known:
                    try:
                        known[key] = column.encode(value)
                    except ValueError:
                        known[key] = math.nan
                X[i, j] = known[key]
        on = self.active(X)
        valid = (given == on).all(axis=1) & ~(on & np.isnan(X)).any(axis=1)
        names = self.space.parameters.keys()
        fixed = {n: scalar_key(p.value) for n, p in self.space.parameters.items() if isinstance(p, Fixed)}
        valid &= np.array(
            [
                config.keys() <= names and all(scalar_key(config[n]) == v for n, v in fixed.items() if n in config)
                for config in configs
            ],
            dtype=bool,
        )
        X[~on] = math.nan
        return X, valid

    def snap(self, U: Array) -> Array:
        """The points as their configurations encode: discrete values in mid-cell, NaN where inactive."""
        X = U.copy()
        for j, (column, levels) in enumerate(zip(self.columns, self.levels, strict=True)):
            if math.isinf(levels):
                continue
            if isinstance(column, Int) and column.log and column.step is None:
                a, b = math.log(column.low - 0.5), math.log(column.high + 0.5)
                whole = np.clip(np.rint(np.exp(a + U[:, j] * (b - a))), column.low, column.high)
                X[:, j] = (np.log(whole) - a) / (b - a)
            else:
                X[:, j] = (np.minimum(np.floor(U[:, j] * levels), levels - 1) + 0.5) / levels
        if self.conditional:
            X[~self.active(X)] = math.nan
        return X

    def config(self, x: Array) -> dict[str, Scalar]:
        """The configuration of one row, shape ``(d,)``."""
        # decode() ignores inactive coordinates, so any number may replace their NaN.
        return self.space.decode(np.nan_to_num(x, nan=0.5))

    def features(self, X: Array) -> tuple[Array, Any]:
        """Coordinates in which a stationary kernel can measure distance.

        A numeric or ordinal parameter is one feature, stretched so that its ends are 0 and 1. A category is one-hot
        over sqrt(2): any two options are 1 apart, the Hamming distance. An inactive parameter is set to the centre, so
        it never separates two configurations that both leave it unused.

        Returns:
            Features, shape ``(n, m)``, and the column each one belongs to, shape ``(m,)``.
        """
        parts: list[Array] = []
        owner: list[int] = []
        for j, column in enumerate(self.columns):
            x, options, levels = X[:, j], int(self.categories[j]), self.levels[j]
            if options:
                with np.errstate(invalid="ignore"):
                    index = np.floor(x * options)
                parts.append((index[:, None] == np.arange(options)) / math.sqrt(2.0))
                owner += [j] * options
                continue
            if levels == 1:
                x = np.zeros_like(x)
            elif not math.isinf(levels) and not (isinstance(column, Int) and column.log and column.step is None):
                x = (x * levels - 0.5) / (levels - 1)
            parts.append(np.where(np.isnan(x), 0.5, x)[:, None])
            owner.append(j)
        return np.hstack(parts) if parts else np.zeros((len(X), 0)), np.array(owner, dtype=int)
