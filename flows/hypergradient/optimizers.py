"""Implements inner optimisers as differentiable functions: state and gradient in, state out.

Keras' own optimisers assign variables, and an assignment cannot be differentiated. Notation: ``w`` are
the weights, ``g`` their gradient, ``a`` the learning rate of each weight tensor (a scalar, or None for the optimiser's
own), ``mu`` the momentum, ``t`` the step from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

Tensor = Any

Tensors = list[Tensor]


class Optimizer(Protocol):
    """One step of an inner optimisation, as a function."""

    @property
    def learning_rate(self) -> float:
        """The learning rate of weights for which no hyperparameter sets one."""

    @property
    def momentum(self) -> float:
        """The momentum if no hyperparameter sets one."""

    def slots(self, weights: Tensors) -> Tensors:
        """The optimiser's own state before the first step."""

    def update(
        self, weights: Tensors, slots: Tensors, gradient: Tensors, rates: Sequence[Tensor], momentum: Tensor, t: Tensor
    ) -> tuple[Tensors, Tensors]:
        """Weights and slots after step ``t``."""


@dataclass(frozen=True)
class SGD:
    """``v <- mu v - a g``, ``w <- w + v``, with ``mu = 0`` for plain SGD."""

    learning_rate: float = 0.1
    momentum: float = 0.0

    def slots(self, weights: Tensors) -> Tensors:
        return [tf.zeros_like(w) for w in weights]

    def update(
        self, weights: Tensors, slots: Tensors, gradient: Tensors, rates: Sequence[Tensor], momentum: Tensor, t: Tensor
    ) -> tuple[Tensors, Tensors]:
        velocity = [momentum * v - a * g for v, g, a in zip(slots, gradient, rates, strict=True)]
        return [w + v for w, v in zip(weights, velocity, strict=True)], velocity


@dataclass(frozen=True)
class Adam:
    """Kingma and Ba (2015), arXiv:1412.6980, algorithm 1, with ``mu`` as their ``beta1``.

    ``epsilon`` is squared under the root, ``a m / sqrt(v + epsilon**2)``: with the root alone the derivative does not
    exist where a gradient is 0, as for every dead unit. It is larger than Keras' 1e-7, because a gradient that is small
    compared to it moves a weight by ``a / epsilon`` times itself, and so amplifies rounding errors.
    """

    learning_rate: float = 0.001
    momentum: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-5

    def slots(self, weights: Tensors) -> Tensors:
        return [tf.zeros_like(w) for w in (*weights, *weights)]

    def update(
        self, weights: Tensors, slots: Tensors, gradient: Tensors, rates: Sequence[Tensor], momentum: Tensor, t: Tensor
    ) -> tuple[Tensors, Tensors]:
        n = len(weights)
        count = tf.cast(t + 1, momentum.dtype)
        beta2 = tf.constant(self.beta2, momentum.dtype)
        m = [momentum * m + (1 - momentum) * g for m, g in zip(slots[:n], gradient, strict=True)]
        v = [beta2 * v + (1 - beta2) * tf.square(g) for v, g in zip(slots[n:], gradient, strict=True)]
        first, second = 1 - tf.pow(momentum, count), 1 - tf.pow(beta2, count)
        steps = [
            a * (m_i / first) / tf.sqrt(v_i / second + self.epsilon**2) for a, m_i, v_i in zip(rates, m, v, strict=True)
        ]
        return [w - s for w, s in zip(weights, steps, strict=True)], m + v
