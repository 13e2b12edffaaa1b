"""Assigns GPUs, threads and memory to the trials that run in parallel.

A *slot* is one of the trials that a process trains at a time. A worker process serves one slot for its whole life, so
its share is set by environment variables before it starts: TensorFlow and BLAS read them only once. psutil is imported
only when the memory is needed.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpo_core.base.errors import InputError
from hpo_core.study.sections import Resources
from hpo_flows.base.gpus import SHARING
from hpo_flows.workers.gpu import SHARE

VISIBLE = "CUDA_VISIBLE_DEVICES"

ASK_SECONDS = 20.0

DRIVER = Path("/proc/driver/nvidia/gpus")

JAX_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"

SHARED = ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
"""The threads of OpenMP, and what joblib counts as cores; LightGBM's estimators only look at the latter."""

THREADS = (
    *SHARED,
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def devices() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them. Does not import TensorFlow."""
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return named_in(visible)
    return [str(number) for number in range(_count())]


def named_in(visible: str) -> list[str]:
    """The devices in a value of ``CUDA_VISIBLE_DEVICES``. Like CUDA, it stops at the first unknown name.

    >>> named_in("2, GPU-8932f937"), named_in("0,-1,1"), named_in("")
    (['2', 'GPU-8932f937'], ['0'], [])
    """
    found: list[str] = []
    for name in (part.strip() for part in visible.split(",")):
        if not name or name.startswith("-"):
            break
        found.append(name)
    return found


def _count() -> int:
    """The number of GPUs, from ``nvidia-smi`` or else from the driver's entries in ``/proc``."""
    if (tool := shutil.which("nvidia-smi")) is not None:
        try:
            answer = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=ASK_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())
    return len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0


def per_slot(gpus: float | str, devices: int, slots: int) -> float:
    """How many GPUs a slot gets; ``auto`` divides those that are there, whole ones as long as there are enough.

    >>> [per_slot("auto", 4, slots) for slots in (1, 2, 3, 8)], per_slot("auto", 0, 2)
    ([4, 2, 1, 0.5], 0)
    """
    if not isinstance(gpus, str):
        return gpus
    if devices == 0 or devices >= slots:
        return devices // slots
    return 1 / math.ceil(slots / devices)


def sharing(gpus: float) -> int:
    """How many slots share a GPU.

    >>> [sharing(gpus) for gpus in (2, 1, 0.5, 0.3, 0.1)]
    [1, 1, 2, 3, 10]
    """
    return 1 if gpus >= 1 else math.floor(1 / gpus + 1e-9)


def assigned(devices: Sequence[str], slot: int, gpus: float) -> list[str]:
    """The GPUs of a slot: whole ones are consecutive and its own; a share of one is on each in turn.

    Raises:
        InputError: There are not enough.

    >>> [assigned(["4", "5", "6", "7"], slot, 2) for slot in (0, 1)], [assigned("67", slot, 0.5) for slot in range(4)]
    ([['4', '5'], ['6', '7']], [['6'], ['7'], ['6'], ['7']])
    """
    room = len(devices) * sharing(gpus) if gpus < 1 else len(devices) // int(gpus)
    if slot >= room:
        need = math.ceil((slot + 1) / sharing(gpus)) if gpus < 1 else (slot + 1) * int(gpus)
        each = f"{gpus:g} GPU{'s' * (gpus > 1)} each"
        raise InputError(
            "resources.gpus",
            f"{slot + 1} trials at a time with {each} need {need}, and this machine shows {len(devices)}",
            f"set parallel to {room}" if room else "lower it, or train where they are",
        )
    if gpus < 1:
        return [devices[slot % len(devices)]]
    return list(devices[slot * int(gpus) : (slot + 1) * int(gpus)])


def variables(resources: Resources, devices: Sequence[str], slot: int, slots: int = 1) -> dict[str, str]:
    """The environment variables that give a slot's worker its share.

    Args:
        resources: What a trial may use.
        devices: The GPUs that are there.
        slot: The slot, from 0.
        slots: How many slots there are.

    Raises:
        InputError: There are fewer GPUs than the slot needs.
    """
    found = {name: value for name, value in SHARING.items() if name not in os.environ}
    if resources.gpus is not None:
        gpus = per_slot(resources.gpus, len(devices), slots)
        found[VISIBLE] = ",".join(assigned(devices, slot, gpus)) if gpus else ""
        if 0 < gpus < 1:
            found[SHARE] = f"{1 / sharing(gpus):.4g}"
            if JAX_SHARE not in os.environ:
                found[JAX_SHARE] = found[SHARE]
    if resources.cpus is not None:
        found |= dict.fromkeys(THREADS, str(resources.cpus))
    elif slots > 1:
        # Threads of OpenMP spin while they wait for each other: with more of them than cores, a training by XGBoost,
        # LightGBM or PyTorch takes a hundred times as long.
        found |= {name: str(max(1, cores() // slots)) for name in SHARED if name not in os.environ}
    return found


def check(resources: Resources, slots: int, devices: Sequence[str]) -> None:
    """Check that this machine has the resources for this many slots.

    Raises:
        InputError: It does not.
    """
    if resources.gpus and (gpus := per_slot(resources.gpus, len(devices), slots)):
        assigned(devices, slots - 1, gpus)
    if resources.cpus is not None:
        _fits("cpus", resources.cpus, slots, cores(), "{} cores")
    if resources.memory is not None:
        _fits("memory", resources.memory, slots, memory(), "{} bytes of memory")


def _fits(key: str, each: int, slots: int, there: int, unit: str) -> None:
    if each * slots > there:
        shown = unit.format(there)
        raise InputError(
            f"resources.{key}",
            f"{slots} trials at a time with {each} each need {each * slots}, and this machine has {shown}",
            f"set parallel to {there // each}, or lower it" if there >= each else "lower it",
        )


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """The machine's memory in bytes."""
    import psutil

    return int(psutil.virtual_memory().total)


def engine_request(resources: Resources, names: Mapping[str, str]) -> dict[str, float]:
    """The resources that are set, under the engine's names for them.

    >>> engine_request(Resources(gpus=1, memory="1KiB"), {"gpus": "GPU", "cpus": "CPU", "memory": "MEMORY"})
    {'GPU': 1, 'MEMORY': 1024}
    """
    return {theirs: value for ours, theirs in names.items() if (value := getattr(resources, ours))}
