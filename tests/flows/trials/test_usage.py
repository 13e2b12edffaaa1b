"""What a trial uses: its process and all that it started, and its GPUs where there are any."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest

from hpo_flows.trials.usage import PAUSE_SECONDS, Usage

HOLD = "import time; held = bytearray(60_000_000); print(flush=True); time.sleep(600)"


@pytest.fixture
def child() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_descendants_count(child: int) -> None:
    usage = Usage(os.getpid(), {"CUDA_VISIBLE_DEVICES": ""})
    ended = time.process_time() + 0.2
    while time.process_time() < ended:
        pass
    found = usage.measure(time.monotonic())
    assert list(found) == [
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
    ]
    alone = Usage(child, {"CUDA_VISIBLE_DEVICES": ""}).measure(time.monotonic())
    assert alone["system/system_memory_usage_megabytes"] > 60
    assert found["system/system_memory_usage_megabytes"] > alone["system/system_memory_usage_megabytes"]
    assert found["system/cpu_utilization_percentage"] > 0


def test_a_process_that_is_gone_uses_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert set(Usage(process.pid, {}).measure(time.monotonic()).values()) == {0.0}


def test_measurements_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds in a day, however often it is asked."""
    usage, clock = Usage(os.getpid(), {"CUDA_VISIBLE_DEVICES": ""}), [time.monotonic()]
    monkeypatch.setattr(usage, "measure", lambda now: {"x": 1.0})
    monkeypatch.setattr("hpo_flows.trials.usage.time.monotonic", lambda: clock[0])
    for _ in range(24 * 3600 // 5):
        clock[0] += PAUSE_SECONDS
        usage.due()
    assert 100 < usage.measured < 450


def test_gpus_are_those_that_the_trial_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """By number or by id; memory of its own processes where the driver tells, else all that is used."""
    own = types.SimpleNamespace(pid=os.getpid(), usedGpuMemory=3e9)
    foreign = types.SimpleNamespace(pid=-1, usedGpuMemory=9e9)
    played: Any = types.ModuleType("pynvml")
    played.nvmlInit = lambda: None
    played.nvmlDeviceGetHandleByIndex = lambda number: f"gpu {number}"
    played.nvmlDeviceGetHandleByUUID = lambda name: name
    played.nvmlDeviceGetMemoryInfo = lambda gpu: types.SimpleNamespace(used=12e9, total=24e9)
    played.nvmlDeviceGetComputeRunningProcesses = lambda gpu: [own, foreign] if gpu == "gpu 2" else [foreign]
    played.nvmlDeviceGetUtilizationRates = lambda gpu: types.SimpleNamespace(gpu=70)
    monkeypatch.setitem(sys.modules, "pynvml", played)
    found = Usage(os.getpid(), {"CUDA_VISIBLE_DEVICES": "2,GPU-1"}).measure(time.monotonic())
    assert {key: value for key, value in found.items() if "gpu" in key} == {
        "system/gpu_0_memory_usage_megabytes": 3000.0,
        "system/gpu_0_memory_usage_percentage": 12.5,
        "system/gpu_0_utilization_percentage": 70.0,
        "system/gpu_1_memory_usage_megabytes": 12000.0,
        "system/gpu_1_memory_usage_percentage": 50.0,
        "system/gpu_1_utilization_percentage": 70.0,
    }
