"""What MLflow shows of a data set: a name, a digest of its content, and the shapes of its arrays."""

from __future__ import annotations

import hashlib
from typing import Any

from hpo_core.store import Dataset


def describe(name: str, features: Any, targets: Any = None) -> Dataset:
    """A data set for MLflow.

    Args:
        name: What people call it.
        features: An array, a DataFrame or whatever ``numpy.asarray`` takes, shape ``(n, ...)``.
        targets: The same for labels or values; None if there are none.

    >>> import numpy as np
    >>> describe("digits", np.zeros((3, 8, 8)), np.arange(3)).profile
    {'features_shape': [3, 8, 8], 'targets_shape': [3]}
    >>> describe("digits", np.zeros(3)).digest == describe("digits", np.zeros(4)).digest
    False
    """
    import numpy as np

    arrays = {"features": np.asarray(features)}
    if targets is not None:
        arrays["targets"] = np.asarray(targets)
    digest = hashlib.blake2b(digest_size=4)
    for key, array in arrays.items():
        digest.update(f"{key}{array.dtype}{array.shape}".encode())
        # An object array's bytes are addresses, which differ from process to process.
        digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).data)
    return Dataset(
        name,
        digest.hexdigest(),
        {key: (str(array.dtype), [-1, *array.shape[1:]]) for key, array in arrays.items()},
        {f"{key}_shape": list(array.shape) for key, array in arrays.items()},
    )
