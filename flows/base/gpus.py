"""Limits how much of the GPUs a process takes, so that all processes of a study find room on them.

By default TensorFlow and JAX take nearly all memory of every GPU for the first process that uses it; the worker of the
next slot, or the first worker beside a script that has built a model, would find none.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

SHARING = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Makes TensorFlow and JAX take memory as they need it. They read it when they first use a GPU."""


def share() -> None:
    """Make this process, and those that it starts, take a GPU's memory as needed. What the user has set stays."""
    for name, value in SHARING.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Within this context, Keras models get their weights in main memory: what is thrown away needs no GPU.

    The GPUs stay visible, since TensorFlow and JAX could not be shown them again, and the user may train here later.
    """
    keras = sys.modules.get("keras")
    with contextlib.nullcontext() if keras is None else keras.device("cpu:0"):
        yield
