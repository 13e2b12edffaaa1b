"""Seeds Keras for one thread, so that draws of other threads do not change its models.

Keras draws the seeds of initialisers and dropout from Python's global generator. Other threads of the process, such as
Prefect's, draw from it too: one draw between the seeding and the model's creation changes the weights. Keras is
imported in :func:`seeded` only, because it is heavy.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Draws(threading.local):
    """What Keras draws from instead: the thread's own generator inside :func:`seeded`, else the global one."""

    own: random.Random | None = None

    def randint(self, low: int, high: int) -> int:
        """Like ``random.randint``."""
        return (random if self.own is None else self.own).randint(low, high)


_DRAWS = _Draws()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Like ``keras.utils.set_random_seed``, but within this context no other thread affects this thread's models.

    What a model's own code draws from ``random`` or ``numpy.random`` still comes from the process's generators.

    Args:
        seed: From 0 to ``2**32 - 1``.
    """
    import keras
    from keras.src.random import seed_generator

    keras.utils.set_random_seed(seed)
    seed_generator.python_random = _DRAWS
    outer, _DRAWS.own = _DRAWS.own, random.Random(seed)  # noqa: S311, no secret
    try:
        yield
    finally:
        _DRAWS.own = outer
