"""Holds hyperparameters that are too many for a configuration: vectors that a trial continues from its parent's.

MLflow stores a configuration as params, which do not suit a weight for each of ten thousand examples. So a long vector
is not part of the configuration. Like the network's weights, it is derived from the parent trial: it comes from the
parent's checkpoint, takes some Adam steps along its hypergradient, and is saved in the trial's own checkpoint with its
moments. ``docs/decisions/0008-gradient.md`` gives the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

FILE = "vectors.npz"


@dataclass(frozen=True)
class VectorAdam:
    """A vector optimised by Adam, in unconstrained coordinates ``z``; its value is ``scale * sigmoid(z)``.

    Args:
        z: The vector, shape ``(n,)``.
        m, v: Adam's moments, shape ``(n,)``.
        count: Steps taken.
        scale: The upper limit of the value, for large ``z``.
    """

    z: Any
    m: Any
    v: Any
    count: int = 0
    scale: float = 1.0

    @classmethod
    def start(cls, size: int, value: float = 0.5, scale: float = 1.0) -> Self:
        """A vector with all entries at one value, between 0 and ``scale``."""
        zero = np.zeros(size)
        return cls(zero + np.log(value / (scale - value)), zero, zero, 0, scale)

    @property
    def value(self) -> Any:
        """The vector on the raw scale, shape ``(n,)``."""
        return self.scale / (1.0 + np.exp(-self.z))

    def step(self, slope: Any, rate: float, beta1: float = 0.9, beta2: float = 0.999) -> Self:
        """Take one Adam step (Kingma and Ba 2015, algorithm 1) down the hypergradient by the raw value, shape ``(n,)``.

        The second moment is scaled by its largest entry. So entries with a comparatively small hypergradient move
        little, instead of as far as the others.
        """
        share = self.value / self.scale
        g = slope * self.scale * share * (1.0 - share)
        m, v = beta1 * self.m + (1 - beta1) * g, beta2 * self.v + (1 - beta2) * g**2
        count = self.count + 1
        first, second = m / (1 - beta1**count), v / (1 - beta2**count)
        move = rate * first / (np.sqrt(second) + 0.1 * np.sqrt(second.max()) + 1e-300)
        return type(self)(self.z - move, m, v, count, self.scale)

    def save(self, folder: Path) -> None:
        """Write the vector into a folder, such as ``trial.checkpoint``."""
        np.savez(folder / FILE, z=self.z, m=self.m, v=self.v, count=self.count, scale=self.scale)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        with np.load(folder / FILE) as kept:
            return cls(kept["z"], kept["m"], kept["v"], int(kept["count"]), float(kept["scale"]))
