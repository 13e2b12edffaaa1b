"""Assigns GPUs, threads and memory to the trials that run in parallel.

A *slot* is one of the trials that a process trains at a time. A worker process serves one slot for its whole life, so
its share is set by environment variables before it starts: TensorFlow and BLAS read them only once. psutil is imported
only when the memory is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpo_core.base.errors import InputError
from hpo_core.study.sections import Resources

VISIBLE = "CUDA_VISIBLE_DEVICES"

ASK_SECONDS = 20.0

DRIVER = Path("/proc/driver/nvidia/gpus")

SHARING = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Makes TensorFlow and JAX take a GPU's memory as they need it. By default the first process takes nearly all, and the
next one, such as another slot's worker, finds none. What the user has set stays."""

THREADS = (
    "OMP_NUM_THREADS",
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


def assigned(devices: Sequence[str], slot: int, gpus: int) -> list[str]:
    """The GPUs of a slot: ``gpus`` consecutive ones, and no two slots share any.

    Raises:
        InputError: There are not enough.

    >>> [assigned(["4", "5", "6", "7"], slot, 2) for slot in (0, 1)]
    [['4', '5'], ['6', '7']]
    """
    mine = list(devices[slot * gpus : (slot + 1) * gpus])
    if len(mine) < gpus:
        raise InputError(
            "resources.gpus",
            f"{slot + 1} trials at a time with {gpus} GPUs each need {(slot + 1) * gpus}, and this machine shows "
            f"{len(devices)}",
            f"set parallel to {len(devices) // gpus}" if len(devices) >= gpus else "lower it, or train where they are",
        )
    return mine


def variables(resources: Resources, devices: Sequence[str], slot: int) -> dict[str, str]:
    """The environment variables that give a slot's worker its share.

    Raises:
        InputError: There are fewer GPUs than the slot needs.
    """
    found = {name: value for name, value in SHARING.items() if name not in os.environ}
    if resources.gpus is not None:
        found[VISIBLE] = ",".join(assigned(devices, slot, resources.gpus))
    if resources.cpus is not None:
        found |= dict.fromkeys(THREADS, str(resources.cpus))
    return found


def check(resources: Resources, slots: int, devices: Sequence[str]) -> None:
    """Check that this machine has the resources for this many slots.

    Raises:
        InputError: It does not.
    """
    if resources.gpus:
        assigned(devices, slots - 1, resources.gpus)
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
