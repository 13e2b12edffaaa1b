"""Defines how hyperparameters act on one step of the inner optimisation.

A hyperparameter is a function and the place where it is called; the derivative follows from that. So a new one takes a
few lines, like those below. The places are :func:`inputs`, :func:`targets`, :func:`loss_weight`, :func:`penalty`,
:func:`learning_rate`, :func:`momentum` and :func:`variable`.

Notation: ``b`` examples in a batch, ``n`` in the training set, ``C`` classes; ``value`` is a scalar tensor, or a vector
where a function says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import tensorflow as tf

Tensor = Any


class Place(StrEnum):
    """Where a hyperparameter acts."""

    INPUTS = "inputs"
    TARGETS = "targets"
    LOSS_WEIGHT = "loss weight"
    PENALTY = "penalty"
    VARIABLE = "variable"
    LEARNING_RATE = "learning rate"
    MOMENTUM = "momentum"


@dataclass(frozen=True)
class Batch:
    """The examples of one inner step.

    Attributes:
        x: Inputs, shape ``(b, ...)``.
        y: Targets, shape ``(b, C)`` or ``(b,)``.
        index: Their positions in the training set, shape ``(b,)``.
        seed: For ``tf.random.stateless_*``, shape ``(2,)``; different for each step and each hyperparameter.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    seed: Tensor


@dataclass(frozen=True)
class Hyperparameter:
    """A function of the value, and where it is called.

    Args:
        place: Where it is called.
        apply: The function; its arguments depend on the place.
        layers: For a learning rate, the names of its layers, or None for all. For a variable, its layer and name.
    """

    place: Place
    apply: Callable[..., Tensor]
    layers: Sequence[str] | None = None


def inputs(function: Callable[[Batch, Tensor], Tensor]) -> Hyperparameter:
    """A change of the inputs while training: ``function(batch, value)`` returns the new inputs."""
    return Hyperparameter(Place.INPUTS, function)


def targets(function: Callable[[Batch, Tensor], Tensor]) -> Hyperparameter:
    """A change of the targets while training: ``function(batch, value)`` returns the new targets."""
    return Hyperparameter(Place.TARGETS, function)


def loss_weight(function: Callable[[Batch, Tensor], Tensor]) -> Hyperparameter:
    """A factor of each example's loss: ``function(batch, value)`` returns shape ``(b,)``."""
    return Hyperparameter(Place.LOSS_WEIGHT, function)


def penalty(function: Callable[[Mapping[str, Tensor], Tensor], Tensor]) -> Hyperparameter:
    """A term of the training loss: ``function(weights, value)`` returns a scalar.

    ``weights`` maps ``layer/weight`` (``dense/kernel``) to tensors.
    """
    return Hyperparameter(Place.PENALTY, function)


def variable(layer: str, name: str) -> Hyperparameter:
    """The value of an untrained variable of the model, such as a custom layer's setting."""
    return Hyperparameter(Place.VARIABLE, lambda value: value, (layer, name))


def dropout(layer: str) -> Hyperparameter:
    """The rate of the :class:`hpo_flows.hypergradient.RelaxedDropout` with this name."""
    return variable(layer, "rate")


def learning_rate(layers: Sequence[str] | None = None) -> Hyperparameter:
    """A constant learning rate for the named layers or for all. If several apply to a weight, they are multiplied."""
    return Hyperparameter(Place.LEARNING_RATE, lambda value, progress: value, layers)


def learning_rate_knots(count: int, layers: Sequence[str] | None = None) -> list[Hyperparameter]:
    """A schedule: learning rates at ``count`` >= 2 evenly spaced times, interpolated linearly in their logarithms.

    There is one hyperparameter per knot. Each gives the factor ``value ** hat(progress)``, where ``hat`` is 1 at its
    own knot and 0 at all others, so their product is the schedule.
    """

    def knot(i: int) -> Hyperparameter:
        def apply(value: Tensor, progress: Tensor) -> Tensor:
            return tf.pow(value, tf.nn.relu(1 - tf.abs(progress * (count - 1) - i)))

        return Hyperparameter(Place.LEARNING_RATE, apply, layers)

    return [knot(i) for i in range(count)]


def momentum() -> Hyperparameter:
    """The momentum of SGD, or Adam's beta1."""
    return Hyperparameter(Place.MOMENTUM, lambda value: value)


def _chosen(weights: Mapping[str, Tensor], layers: Sequence[str] | None) -> list[Tensor]:
    """The matrices and filters of some layers; biases and scales are not penalised."""
    return [
        weight
        for path, weight in weights.items()
        if len(weight.shape) > 1 and (layers is None or path.partition("/")[0] in layers)
    ]


def l2(layers: Sequence[str] | None = None) -> Hyperparameter:
    """``value * sum(w**2)`` over the kernels of the named layers, or of all."""
    return penalty(lambda weights, value: value * tf.add_n([tf.reduce_sum(w * w) for w in _chosen(weights, layers)]))


def l1(layers: Sequence[str] | None = None) -> Hyperparameter:
    """``value * sum(|w|)`` over the kernels of the named layers, or of all."""
    return penalty(
        lambda weights, value: value * tf.add_n([tf.reduce_sum(tf.abs(w)) for w in _chosen(weights, layers)])
    )


def label_smoothing() -> Hyperparameter:
    """``(1 - value) y + value / C`` for one-hot targets, shape ``(b, C)``."""
    return targets(lambda batch, value: (1 - value) * batch.y + value / batch.y.shape[-1])


def example_weights(groups: Any = None) -> Hyperparameter:
    """A weight for each training example; ``value`` has shape ``(n,)``, or one entry per group.

    Args:
        groups: The group of each example, shape ``(n,)``; None if each is its own.
    """

    def weigh(batch: Batch, value: Tensor) -> Tensor:
        return tf.gather(value, batch.index if groups is None else tf.gather(tf.constant(groups), batch.index))

    return loss_weight(weigh)


def class_weights(which: int | None = None) -> Hyperparameter:
    """A weight for the examples of each class of one-hot targets; ``value`` has shape ``(C,)``.

    Args:
        which: Weight only this class; ``value`` is then a scalar, and the other classes have weight 1.
    """
    if which is None:
        return loss_weight(lambda batch, value: tf.linalg.matvec(batch.y, value))
    return loss_weight(lambda batch, value: 1 + (value - 1) * batch.y[:, which])


def input_noise() -> Hyperparameter:
    """Normal noise of standard deviation ``value`` on the inputs."""
    return inputs(
        lambda batch, value: (
            batch.x + value * tf.random.stateless_normal(tf.shape(batch.x), batch.seed, dtype=batch.x.dtype)
        )
    )


def contrast() -> Hyperparameter:
    """Inputs times ``1 + value * u``, with a uniform ``u`` in [-1, 1] for each example."""
    return inputs(lambda batch, value: batch.x * (1 + value * _uniform(batch, len(batch.x.shape) - 1)))


def shift() -> Hyperparameter:
    """Images, shape ``(b, height, width, channels)``, moved by up to ``value`` pixels either way.

    A shift by a fraction of a pixel is the weighted mean of its neighbours; edges are repeated.
    """

    def move(batch: Batch, value: Tensor) -> Tensor:
        x, offsets = batch.x, value * _uniform(batch, 1, 2)
        return _shifted(_shifted(x, offsets[:, 0], 1), offsets[:, 1], 2)

    return inputs(move)


def _uniform(batch: Batch, ones: int, *last: int) -> Tensor:
    """Uniform in [-1, 1], shape ``(b, 1, ...)``, or ``(b, *last)``."""
    shape = [tf.shape(batch.x)[0], *(last or [1] * ones)]
    return tf.random.stateless_uniform(shape, batch.seed, -1.0, 1.0, dtype=batch.x.dtype)


def _shifted(x: Tensor, offset: Tensor, axis: int) -> Tensor:
    size = x.shape[axis]
    whole = tf.floor(offset)
    part = tf.reshape(offset - whole, [-1] + [1] * (len(x.shape) - 1))
    positions = tf.range(size)[None, :] + tf.cast(whole, tf.int32)[:, None]

    def at(where: Tensor) -> Tensor:
        return tf.gather(x, tf.clip_by_value(where, 0, size - 1), axis=axis, batch_dims=1)

    return (1 - part) * at(positions) + part * at(positions + 1)
