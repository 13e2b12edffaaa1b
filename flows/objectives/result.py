"""Converts what an objective returns or reports to plain floats and steps, and rejects what is not a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hpo_core.base.storable import MAX_STEP, MAX_VALUE


def as_metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """Convert metrics to plain floats.

    Raises:
        ValueError: They are not a dict, a name is not a string, or a value is not a number.

    >>> as_metrics({"loss": 1})
    {'loss': 1.0}
    """
    metrics: dict[str, float] = {}
    if not hasattr(values, "items"):
        raise ValueError(f"the metrics are {values!r:.80}, which is not a dict; give them by name: {{'loss': 0.3}}")
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
    """The objective returned metrics, but not all of the study's own: a mistake in the study file, not in the trial."""


class NotFinite(ValueError):
    """One of the study's own metrics is not finite: the training went astray."""


def as_result(value: Any, own: Sequence[str], reported: Mapping[str, float] = {}) -> dict[str, float]:
    """Convert what an objective returned to metrics, among which the study's own are all there, and finite.

    Args:
        value: What it returned.
        own: The study's own metrics.
        reported: The latest value of each metric that it reported; with several of its own, those that are not returned
            are taken from here.

    Raises:
        ValueError: It is neither a number nor a dict of numbers with the study's own metrics, or one is not finite.
    """
    if not isinstance(value, Mapping):
        value = _alone(value, own, reported)
    metrics = as_metrics(value)
    if len(own) > 1:
        metrics = {name: reported[name] for name in own if name in reported} | metrics
    for metric in own:
        if metric not in metrics:
            key = "metric" if len(own) == 1 else "metrics"
            raise MissingMetric(
                f"the objective returned no {metric!r} but {sorted(metrics)}; return it, or correct {key}: in the study"
            )
        if not abs(metrics[metric]) < MAX_VALUE:
            raise NotFinite(f"the objective returned {metric} = {metrics[metric]}")
    return metrics


def _alone(value: Any, own: Sequence[str], reported: Mapping[str, float]) -> Mapping[str, Any]:
    """A result that is not a dict, as one.

    Raises:
        ValueError: It is not a number, or the study has several metrics.
    """
    if len(own) > 1:
        if value is None and all(name in reported for name in own):
            return {}
        raise ValueError(f"the objective returned {value!r:.80}; return a dict with {' and '.join(own)}")
    try:
        return {own[0]: as_number(value)}
    except Exception:
        raise ValueError(
            f"the objective returned {value!r:.80}; return the {own[0]} as a number, or a dict with it"
        ) from None


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
    if hasattr(value, "filled"):  # of numpy.ma, where item() gives what is under the mask
        element = value.filled(math.nan)
    for unwrap in ("item", "numpy"):  # the first for numpy, PyTorch and JAX; the second for TensorFlow
        if callable(method := getattr(element, unwrap, None)):
            element = method()
    if isinstance(element, str | bytes | bytearray):
        raise TypeError("a text is not a number")
    return float(element)
