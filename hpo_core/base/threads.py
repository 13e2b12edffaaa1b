"""Restricts linear algebra to one thread.

Matrices here have a few hundred rows, too few for several threads to help. When trials keep the processors busy, BLAS
threads spin while they wait for each other: on two busy cores, a proposal after 300 trials takes 25 times as long.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

_ALONE = threading.RLock()


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """A context manager or decorator that limits BLAS to one thread; the limit is global, so callers take turns.

    >>> @one_thread()
    ... def used():
    ...     return {each["num_threads"] for each in _libraries().info()} or {1}
    >>> used()
    {1}
    """
    with _ALONE, _libraries().limit(limits=1, user_api="blas"):
        yield
