"""Converts what an objective returns or reports to plain floats and steps, and rejects what is not a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo_core.base.storable import MAX_STEP, MAX_VALUE


def as_metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """Convert metrics to plain floats.

    Raises:
        ValueError: A name is not a string, or a value is not a number.

    >>> as_metrics({"loss": 1})
    {'loss': 1.0}
    """
    metrics: dict[str, float] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise ValueError(f"the metric name {name!r} is not a string")
        try:
            # A plain str: the flow's process might not be able to unpickle a subclass.
            metrics[str.__str__(name)] = as_number(value)
        except Exception:  # a tensor's float() may raise any kind
            raise ValueError(f"the metric {name!r} has the value {value!r:.80}, which is not a number") from None
    return metrics


class MissingMetric(ValueError):
    """The objective returned metrics, but not the study's: a mistake in the study file rather than in the trial."""


class NotFinite(ValueError):
    """The study's metric is not finite: the training went astray."""


def as_result(value: Any, metric: str) -> dict[str, float]:
    """Convert what an objective returned to metrics, among which the study's is finite.

    Raises:
        ValueError: It is neither a number nor a dict of numbers with the study's metric, or that metric is not finite.
    """
    if not isinstance(value, Mapping):
        try:
            value = {metric: as_number(value)}
        except Exception:
            raise ValueError(
                f"the objective returned {value!r:.80}; return the {metric} as a number, or a dict with it"
            ) from None
    metrics = as_metrics(value)
    if metric not in metrics:
        raise MissingMetric(
            f"the objective returned no {metric!r} but {sorted(metrics)}; return it, or correct metric: in the study"
        )
    if not abs(metrics[metric]) < MAX_VALUE:
        raise NotFinite(f"the objective returned {metric} = {metrics[metric]}")
    return metrics


def as_step(step: Any) -> int:
    """Convert a step to a plain integer.

    Raises:
        ValueError: It is not whole, or MLflow cannot hold it.

    >>> as_step(3.0)
    3
    """
    try:
        number = int(step)
        whole = number == step
    except Exception:  # raised by a NaN, a text or a tensor
        whole = False
    if not whole or abs(number) > MAX_STEP:
        raise ValueError(f"the step {step!r:.80} is not a whole number that MLflow can hold; count steps from 0")
    return number


def as_number(value: Any) -> float:
    """Convert a number of any library to a plain float: also a one-element array or tensor, and a boolean as 0 or 1.

    Raises:
        TypeError: It is a text, even one that reads as a number.
        Exception: Whatever the library of another type raises.

    >>> as_number(True), as_number("0.5")
    Traceback (most recent call last):
    TypeError: a text is not a number
    """
    element = value
    for unwrap in ("item", "numpy"):  # the first for numpy, PyTorch and JAX; the second for TensorFlow
        if callable(method := getattr(element, unwrap, None)):
            element = method()
    if isinstance(element, str | bytes | bytearray):
        raise TypeError("a text is not a number")
    return float(element)
