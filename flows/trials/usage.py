"""Measures what a trial uses: processor, memory and GPUs of its process and all that it started.

The metrics have the names of MLflow's system metrics, so its UI draws them on a page of their own. MLflow's monitor
would measure the whole machine, and be imported by every worker. psutil, and pynvml if there is one, are imported when
a trial is measured.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hpo_core.ledger.tags import SYSTEM
from hpo_flows.workers.resources import VISIBLE, cores, memory, named_in
from hpo_flows.workers.watchdog import resident_bytes, tree

FIRST_SECONDS = 1.0

PAUSE_SECONDS = 5.0

SHARE = 1 / 50
"""A pause is at least this share of the time so far. So an hour takes some 200 measurements, and a day 400."""

MEGABYTE = 1e6


class Usage:
    """Measures a process tree now and then.

    Args:
        pid: The process at its top.
        variables: Its environment variables beyond this process's own.
    """

    def __init__(self, pid: int, variables: Mapping[str, str]) -> None:
        visible = variables.get(VISIBLE, os.environ.get(VISIBLE))
        self._pid, self._cores, self._memory = pid, cores(), memory()
        self._began = self._last = time.monotonic()
        self._due = self._began + FIRST_SECONDS
        self._seconds = dict(self._processor())
        self._gpus = _gpus(None if visible is None else named_in(visible))
        self.measured = 0

    def due(self) -> dict[str, float]:
        """The metrics, if a measurement is due; else none."""
        now = time.monotonic()
        if now < self._due:
            return {}
        self._due = now + max(PAUSE_SECONDS, SHARE * (now - self._began))
        self.measured += 1
        return self.measure(now)

    def measure(self, now: float) -> dict[str, float]:
        """The metrics of this moment; the processor's is a mean since the last one."""
        seconds = self._processor()
        used = sum(max(0.0, after - self._seconds.get(pid, 0.0)) for pid, after in seconds.items())
        share = used / max(now - self._last, 1e-3) / self._cores
        self._seconds, self._last = seconds, now
        held = resident_bytes(self._pid)
        found = {
            "cpu_utilization_percentage": 100 * share,
            "system_memory_usage_megabytes": held / MEGABYTE,
            "system_memory_usage_percentage": 100 * held / self._memory,
        }
        for number, gpu in enumerate(self._gpus):
            with contextlib.suppress(Exception):  # the driver may refuse any of them
                found |= {f"gpu_{number}_{name}": value for name, value in self._measure_gpu(gpu).items()}
        return {f"{SYSTEM}{name}": value for name, value in found.items()}

    def _measure_gpu(self, gpu: Any) -> dict[str, float]:
        import pynvml

        total, own = (
            pynvml.nvmlDeviceGetMemoryInfo(gpu),
            [
                process.usedGpuMemory
                for process in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)
                if process.pid in self._seconds and process.usedGpuMemory is not None
            ],
        )
        used = sum(own) if own else total.used  # in a container, the driver may know its processes by other numbers
        return {
            "memory_usage_megabytes": used / MEGABYTE,
            "memory_usage_percentage": 100 * used / total.total,
            "utilization_percentage": float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu),
        }

    def _processor(self) -> dict[int, float]:
        """Seconds of processor time so far, by process."""
        import psutil

        found: dict[int, float] = {}
        for process in tree(self._pid):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
        return found


def _gpus(names: Sequence[str] | None) -> list[Any]:
    """The GPUs of these names, or all of them, as pynvml knows them; none without pynvml or a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        if names is None:
            names = [str(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return [
            pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID(name)
            for name in names
        ]
    except Exception:  # of pynvml, which is not installed, or of the driver
        return []
