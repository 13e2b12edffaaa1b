"""What a configuration is, and when two are the same one.

A configuration maps the names of the *active* parameters to JSON scalars. Its identity does not depend on key order
or on how a number is held: ``1``, ``1.0`` and ``numpy.int64(1)`` are one value, ``True`` and ``"1"`` are others.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, cast

Scalar = str | int | float | bool | None
Config = Mapping[str, Scalar]


def native(value: Any) -> Scalar:
    """The plain Python scalar behind ``value``, which may be a numpy one.

    Raises:
        ValueError: Not a JSON scalar, or a number that is not finite.

    >>> import numpy as np
    >>> native(np.float64(0.5)), native(np.bool_(True)), native("adam")
    (0.5, True, 'adam')
    """
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise ValueError(f"{value!r} is not a string, a finite number, a boolean or null")


def scalar_key(value: Any) -> str:
    """A string that equal values share and different ones do not.

    >>> [scalar_key(value) for value in (1, 1.0, -0.0, True, "1", None, 0.1)]
    ['1', '1', '0', 'true', '"1"', 'null', '0.1']
    """
    value = native(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def identity(config: Config) -> str:
    """A digest of 16 hex digits that says whether two configurations are the same.

    >>> identity({"units": 8, "rate": 1}) == identity({"rate": 1.0, "units": 8})
    True
    >>> identity({"flag": True}) == identity({"flag": 1})
    False
    """
    text = "{" + ",".join(f"{json.dumps(name)}:{scalar_key(config[name])}" for name in sorted(config)) + "}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_to_json(config: Config) -> str:
    """The configuration as JSON from which :func:`config_from_json` makes the same values, types and last bits."""
    return json.dumps({name: native(value) for name, value in config.items()}, allow_nan=False)


def config_from_json(text: str) -> dict[str, Scalar]:
    """The inverse of :func:`config_to_json`.

    Raises:
        ValueError: The text is not a JSON object of scalars.
    """
    try:
        config = json.loads(text)
    except RecursionError:
        raise ValueError(f"{text[:80]!r} is nested too deeply") from None
    if not isinstance(config, dict):
        raise ValueError(f"{text[:80]!r} is not a JSON object")
    return {name: native(value) for name, value in cast("dict[str, Any]", config).items()}
