"""Looks after a worker's share of a GPU: bounds the memory that a framework takes, and tells when it ran out.

Frameworks are bounded once they are imported, by whoever imports them, since none reads the share from a variable of
the environment: a hook in ``sys.meta_path`` waits for them. JAX does read one, which
:func:`hpo_flows.workers.resources.variables` sets.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from hpo_flows.workers.channel import shown

SHARE = "HPO_GPU_SHARE"
"""The variable with a worker's share of its GPU's memory, between 0 and 1."""

ASK_SECONDS = 20.0

PHRASES = ("CUDA out of memory", "CUDA_ERROR_OUT_OF_MEMORY", "RESOURCE_EXHAUSTED", "HIP out of memory")
"""What PyTorch, CUDA itself and JAX write when there is no memory left."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of the objective is a GPU that has no memory left.

    TensorFlow's error of that kind is also raised for the processor's memory, so its device is looked at.

    >>> out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")), out_of_memory(MemoryError())
    (True, False)
    """
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:  # Keras and Lightning raise others from it
        chain.append(current)
        current = current.__cause__ or current.__context__
    texts = [shown(each) for each in chain]
    return any(
        any(phrase in text for phrase in PHRASES) or ("OOM when allocating" in text and "GPU" in text) for text in texts
    )


def bound_memory(share: float) -> None:
    """Limit what PyTorch and TensorFlow take of this process's GPU, as soon as either is imported."""
    sys.meta_path.insert(
        0,
        _AfterImport(
            {"torch": partial(_bound_torch, share=share), "tensorflow": partial(_bound_tensorflow, share=share)}
        ),
    )


def _bound_torch(torch: Any, *, share: float) -> None:
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            torch.cuda.set_per_process_memory_fraction(share, device)


def _bound_tensorflow(tf: Any, *, share: float) -> None:
    for device, total in zip(tf.config.list_physical_devices("GPU"), memory_of_devices(), strict=False):
        limit = tf.config.LogicalDeviceConfiguration(memory_limit=int(share * total))
        tf.config.set_logical_device_configuration(device, [limit])


def memory_of_devices() -> list[int]:
    """The memory of each GPU that this process may use, in MiB; empty if the driver does not say."""
    return [int(line) for line in _asked("memory.total") if line.isdigit()]


def described() -> list[str]:
    """The GPUs that this process may use, each with its memory and driver; empty if there are none."""
    rows = (line.split(", ") for line in _asked("name,memory.total,driver_version"))
    return [f"{row[0]}, {row[1]} MiB, driver {row[2]}" for row in rows if len(row) == 3]


def _asked(query: str) -> list[str]:
    """What ``nvidia-smi`` prints, a line a GPU; empty if it does not."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return []
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    command += ["-i", visible] if visible else []
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()


class _AfterImport(MetaPathFinder):
    """Calls an action with each of some modules once it is imported.

    Args:
        actions: By the module's name. Each is called once.
    """

    def __init__(self, actions: dict[str, Callable[[Any], object]]) -> None:
        self._actions = actions

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if (action := self._actions.pop(name, None)) is None:
            return None
        spec = importlib.util.find_spec(name)  # by the other finders: the action is gone, so not by this one
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                action(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
