"""Defines what a configuration is, and when two configurations are the same.

A configuration maps the names of the *active* parameters to JSON scalars. Its identity does not depend on key order
or on a number's type: ``1``, ``1.0`` and ``numpy.int64(1)`` are the same value; ``True`` and ``"1"`` are different.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from hpo_core.base.storable import is_plain

Scalar = str | int | float | bool | None

Config = Mapping[str, Scalar]


def native(value: Any) -> Scalar:
    """``value`` as a plain Python scalar; it may be a numpy scalar.

    Raises:
        ValueError: The value is not a JSON scalar, is not finite, or is a text that databases reject. Enum members
            are rejected too, even those that are strings or integers: MLflow would store the member's value, and the
            objective would get that value back instead of the member.

    >>> import numpy as np
    >>> native(np.float64(0.5)), native(np.bool_(True)), native("adam")
    (0.5, True, 'adam')
    """
    if type(value) is float and math.isfinite(value):  # the most frequent, by far
        return value
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, Enum):
        raise ValueError(f"{value!r} is a member of an Enum; give its value, and make it a member in the objective")
    if isinstance(value, str) and not is_plain(value):
        raise ValueError(f"{value!r} contains a NUL character or half of a surrogate pair, which MLflow cannot store")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise ValueError(f"{value!r} is not a string, a finite number, a boolean or null")


def plain(data: Any) -> Any:
    """Nested data with numpy scalars and arrays converted to plain Python values; everything else is unchanged.

    >>> import numpy as np
    >>> plain({"trials": np.int64(3), "choices": np.array([1, 2]), "low": (np.float32(0.5), "x")})
    {'trials': 3, 'choices': [1, 2], 'low': [0.5, 'x']}
    """
    if isinstance(data, Mapping):
        return {key if isinstance(key, tuple) else plain(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return data.tolist() if hasattr(data, "tolist") else data


def scalar_key(value: Any) -> str:
    """A string that is the same for equal values and different for different values.

    >>> [scalar_key(value) for value in (1, 1.0, -0.0, True, "1", None, 0.1)]
    ['1', '1', '0', 'true', '"1"', 'null', '0.1']
    """
    value = native(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return json.dumps(value)


def displayed(value: object) -> str:
    """A value as people are shown it: a number with four significant digits.

    >>> displayed(0.123456), displayed("adam")
    ('0.1235', 'adam')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def identity(config: Config) -> str:
    """A digest of 16 hex digits, equal for two configurations exactly when they are the same.

    >>> identity({"units": 8, "rate": 1}) == identity({"rate": 1.0, "units": 8})
    True
    >>> identity({"flag": True}) == identity({"flag": 1})
    False
    """
    text = "{" + ",".join(f"{json.dumps(name)}:{scalar_key(config[name])}" for name in sorted(config)) + "}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_to_json(config: Config) -> str:
    """The configuration as JSON; :func:`config_from_json` restores the same values and types, to the last bit."""
    return json.dumps({name: native(value) for name, value in config.items()}, allow_nan=False)


def config_from_json(text: str) -> dict[str, Scalar]:
    """The inverse of :func:`config_to_json`.

    Raises:
        ValueError: The text is not a JSON object of scalars.
    """
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError(f"{text[:80]!r} is nested too deeply") from None
    return config_of(data)


def config_of(data: Any) -> dict[str, Scalar]:
    """A configuration from what JSON gave.

    Raises:
        ValueError: It is not an object of scalars.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{str(data)[:80]!r} is not a JSON object")
    return {name: native(value) for name, value in data.items()}
