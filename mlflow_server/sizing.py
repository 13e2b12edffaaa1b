"""How many workers of the tracking server fit on this machine."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import psutil

MAX_WORKERS = 4
"""More would use up PostgreSQL's 100 connections: a worker's ten threads open up to 20, for runs and for passwords."""

WORKER_MEMORY = 512 * 2**20
"""A worker holds 300 MB; uploads pass through it in pieces."""


def fitting_workers() -> int:
    """The number of workers that this machine can use.

    uvicorn hands its workers a socket on which asyncio does not turn Nagle's algorithm off, and every answer then waits
    40 ms for an acknowledgement. uvloop does turn it off; where it is missing, one worker is faster than many.
    """
    if find_spec("uvloop") is None:
        return 1
    return max(1, min(MAX_WORKERS, int(_processors()), int(_memory() // WORKER_MEMORY)))


def _processors() -> float:
    """The number of processors that this process may use; in a container, that of the container."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _control_group("cpu.max").partition(" ")
    return min(here, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else here


def _memory() -> int:
    """The memory that this process may use, in bytes."""
    limit = _control_group("memory.max")
    here = int(psutil.virtual_memory().total)
    return min(here, int(limit)) if limit.isdigit() else here


def _control_group(name: str) -> str:
    try:
        return Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return ""
