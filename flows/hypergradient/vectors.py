"""Hyperparameters too many for a configuration: vectors that a trial carries on from its parent.

MLflow keeps a configuration as params, which is nothing for a weight for each of ten thousand examples. A long vector
is therefore no part of it. Like the weights of the network it is what a trial *makes* of its parent's: it comes from
the parent's checkpoint, takes some steps of Adam along its hypergradient, and goes into the trial's own checkpoint, its
moments beside it. ``docs/decisions/0008-gradient.md`` has the argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

FILE = "vectors.npz"


@dataclass(frozen=True)
class VectorAdam:
    """A vector under Adam, in unconstrained coordinates ``z``; its value is ``scale * sigmoid(z)``.

    Args:
        z: The vector, shape ``(n,)``.
        m, v: Adam's moments, shape ``(n,)``.
        count: Steps taken.
        scale: The value where ``z`` is large.
    """

    z: Any
    m: Any
    v: Any
    count: int = 0
    scale: float = 1.0

    @classmethod
    def start(cls, size: int, value: float = 0.5, scale: float = 1.0) -> Self:
        """All entries at one value, between 0 and ``scale``."""
        zero = np.zeros(size)
        return cls(zero + np.log(value / (scale - value)), zero, zero, 0, scale)

    @property
    def value(self) -> Any:
        """The vector on the raw scale, shape ``(n,)``."""
        return self.scale / (1.0 + np.exp(-self.z))

    def step(self, slope: Any, rate: float, beta1: float = 0.9, beta2: float = 0.999) -> Self:
        """One step of Adam (Kingma and Ba 2015, algorithm 1) down the hypergradient by the raw value, shape ``(n,)``.

        The scale of the second moment is that of the largest entry: entries whose hypergradient is small beside the
        others' move little, instead of as far as they do.
        """
        share = self.value / self.scale
        g = slope * self.scale * share * (1.0 - share)
        m, v = beta1 * self.m + (1 - beta1) * g, beta2 * self.v + (1 - beta2) * g**2
        count = self.count + 1
        first, second = m / (1 - beta1**count), v / (1 - beta2**count)
        move = rate * first / (np.sqrt(second) + 0.1 * np.sqrt(second.max()) + 1e-300)
        return type(self)(self.z - move, m, v, count, self.scale)

    def save(self, folder: Path) -> None:
        """Write it into a folder, such as ``trial.checkpoint``."""
        np.savez(folder / FILE, z=self.z, m=self.m, v=self.v, count=self.count, scale=self.scale)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What :meth:`save` wrote."""
        with np.load(folder / FILE) as kept:
            return cls(kept["z"], kept["m"], kept["v"], int(kept["count"]), float(kept["scale"]))
