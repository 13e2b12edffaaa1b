"""Names the array type of the numerics, a numpy array of 64-bit floats, and selects evenly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most a given number of items, evenly spaced.

    >>> evenly(range(10), 4), evenly("ab", 4)
    ([0, 3, 6, 9], ['a', 'b'])
    """
    return [items[i] for i in np.linspace(0, len(items) - 1, min(len(items), most)).astype(int)]
