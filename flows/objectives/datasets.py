"""Describes a dataset for MLflow: its name, a digest of its content, and the shapes of its arrays.

numpy is imported in :func:`describe`, so that the flow's process does not load it for this file.
"""

from __future__ import annotations

import hashlib
from typing import Any

from hpo_core.ledger.store import Dataset


def describe(name: str, features: Any, targets: Any = None) -> Dataset:
    """Describe a dataset for MLflow.

    Args:
        name: The dataset's name.
        features: An array, a DataFrame or anything that ``numpy.asarray`` takes, shape ``(n, ...)``.
        targets: Labels or values, in the same forms; None if there are none.

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
        # The bytes of an object array are addresses, which differ between processes.
        digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).data)
    return Dataset(
        name,
        digest.hexdigest(),
        {key: (str(array.dtype), [-1, *array.shape[1:]]) for key, array in arrays.items()},
        {f"{key}_shape": list(array.shape) for key, array in arrays.items()},
    )
