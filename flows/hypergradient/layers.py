"""Defines Keras layers that are differentiable in their settings."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class RelaxedDropout(keras.layers.Layer):  # type: ignore[misc]
    """Dropout whose mask is a smooth function of its rate.

    Gal, Hron and Kendall (2017), arXiv:1705.07832, eq. 5: with ``u`` uniform, a unit is dropped to the share
    ``z = sigmoid((logit(rate) + logit(u)) / temperature)``, which becomes 0 or 1 as the temperature falls.

    Args:
        rate: The rate if no hyperparameter sets it, above 0 and below 1.
        temperature: A smaller one is closer to dropout, with a noisier derivative.
    """

    def __init__(self, rate: float = 0.5, temperature: float = 0.1, **settings: Any) -> None:
        super().__init__(**settings)
        self.initial, self.temperature = rate, temperature
        self.rate = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(rate), trainable=False, name="rate"
        )
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        rate = ops.convert_to_tensor(self.rate)
        tiny = 1e-6  # logit(0) is infinite, and uniform numbers may be 0
        u = keras.random.uniform(ops.shape(inputs), tiny, 1 - tiny, dtype=inputs.dtype, seed=self.seed_generator)
        z = ops.sigmoid((_logit(ops.clip(rate, tiny, 1 - tiny)) + _logit(u)) / self.temperature)
        return inputs * (1 - z) / (1 - rate)

    def get_config(self) -> dict[str, Any]:
        return dict(super().get_config()) | {"rate": self.initial, "temperature": self.temperature}


def _logit(p: Any) -> Any:
    return ops.log(p) - ops.log1p(-p)
