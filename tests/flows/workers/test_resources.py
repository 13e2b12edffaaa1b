"""GPUs, threads and memory of each trial at a time: who gets what, and a real worker that says what it has."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.errors import InputError
from hpo_core.study.sections import Resources
from hpo_flows.base.gpus import SHARING, share
from hpo_flows.objectives.reference import Objective
from hpo_flows.workers import resources as resources_module
from hpo_flows.workers.gpu import SHARE, bound_memory, out_of_memory
from hpo_flows.workers.job import Job, TrialFailed
from hpo_flows.workers.pool import WorkerPool
from hpo_flows.workers.resources import JAX_SHARE, SHARED, THREADS, VISIBLE, assigned, check, devices, variables
from tests.conftest import PATIENCE
from tests.studies import ROOT, make_spec


@pytest.mark.parametrize("gpus", [1, 2, 3])
def test_no_two_slots_share_a_gpu(gpus: int) -> None:
    present = [f"GPU-{number}" for number in range(7)]
    slots = len(present) // gpus
    given = [assigned(present, slot, gpus) for slot in range(slots)]
    assert all(len(mine) == gpus for mine in given)
    flat = [name for mine in given for name in mine]
    assert flat == present[: slots * gpus]


@pytest.mark.parametrize(
    ("visible", "found"),
    [("4,7", ["4", "7"]), ("", []), ("-1", []), ("MIG-a, MIG-b", ["MIG-a", "MIG-b"])],
)
def test_a_restriction_that_is_there_already_is_kept(
    visible: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    assert devices() == found


def test_the_driver_says_how_many_gpus_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    driver = tmp_path / "driver"
    driver.mkdir()
    monkeypatch.setattr(resources_module, "DRIVER", driver)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert devices() == []
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (driver / bus).mkdir()
    assert devices() == ["0", "1"]
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g.5gb Device 0: (UUID: MIG-1)'\n")
    tool.chmod(0o755)
    assert devices() == ["0"]
    tool.write_text("#!/bin/sh\nexit 9\n")  # its driver is not loaded
    assert devices() == ["0", "1"]


@pytest.mark.parametrize(
    ("given", "slots", "field", "remedy"),
    [
        ({"gpus": 1}, 3, "resources.gpus", "set parallel to 2"),
        ({"gpus": 4}, 1, "resources.gpus", "lower it"),
        ({"gpus": 0.5}, 5, "resources.gpus", "set parallel to 4"),
        ({"cpus": 3}, 2, "resources.cpus", "set parallel to 1"),
        ({"cpus": 9_999}, 1, "resources.cpus", "lower it"),
        ({"memory": "3GiB"}, 3, "resources.memory", "set parallel to 2"),
        ({"memory": "900GB"}, 1, "resources.memory", "lower it"),
    ],
)
def test_more_than_the_machine_has_is_one_error(
    given: dict[str, Any], slots: int, field: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources_module, "cores", lambda: 4)
    monkeypatch.setattr(resources_module, "memory", lambda: 8 << 30)
    with pytest.raises(InputError) as refused:
        check(Resources(**given), slots, ["0", "1"])
    assert refused.value.field == field
    assert remedy in refused.value.remedy
    check(Resources(gpus=1, cpus=2, memory="4GiB"), 2, ["0", "1"])  # type: ignore[arg-type]


def test_workers_leave_gpu_memory_to_each_other_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SHARING:
        monkeypatch.delenv(name, raising=False)
    assert variables(Resources(), [], 0) == SHARING
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    share()
    assert [os.environ[name] for name in SHARING] == ["true", "true"] and variables(Resources(), [], 0) == {}


def test_what_is_not_given_is_not_limited() -> None:
    assert variables(Resources(), ["0"], 5).keys() <= SHARING.keys()
    check(Resources(), 1_000, [])
    assert variables(Resources(gpus=0), ["0"], 3)[VISIBLE] == ""


@pytest.mark.parametrize("name", SHARED)
def test_slots_share_the_cores_among_their_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user says otherwise: a training whose threads are more than the cores takes many times as long."""
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(resources_module, "cores", lambda: 8)
    assert [variables(Resources(), [], 0, slots).get(name) for slots in (1, 2, 3, 16)] == [None, "4", "2", "1"]
    assert variables(Resources(cpus=3), [], 0, 2)[name] == "3"
    monkeypatch.setenv(name, "8")
    assert name not in variables(Resources(), [], 0, 2)


def test_auto_on_other_machines_is_refused() -> None:
    with pytest.raises(InputError, match=r"resources\.gpus.*give a number"):
        make_spec(resources={"gpus": "auto"}, runner={"type": "ray", "address": "ray://head:1"})


@pytest.mark.parametrize("present", [1, 2, 3, 4])
@pytest.mark.parametrize("slots", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("gpus", [0.1, 0.25, 0.3, 0.5, 1, 2, "auto"])
def test_slots_share_a_gpu_as_far_as_their_shares_reach(present: int, slots: int, gpus: float | str) -> None:
    names, asked = [f"GPU-{number}" for number in range(present)], Resources(gpus=gpus)
    try:
        check(asked, slots, names)
    except InputError:
        assert gpus != "auto"
        return
    given = [variables(asked, names, slot, slots) for slot in range(slots)]
    for name in names:
        mine = [each for each in given if name in each[VISIBLE].split(",")]
        assert sum(float(each.get(SHARE, 1.0)) for each in mine) <= 1.001
        assert all(each[JAX_SHARE] == each[SHARE] for each in mine if SHARE in each)
    used = [sum(name in each[VISIBLE].split(",") for each in given) for name in names]
    assert gpus != "auto" or max(used) - min(used) <= 1 or min(used) > 0


def test_memory_is_the_memory_limit_where_that_is_not_given() -> None:
    assert make_spec(resources={"memory": "1GiB"}).memory_cap == 1 << 30
    assert make_spec(resources={"memory": "1GiB"}, memory_limit="2GiB").memory_cap == 2 << 30
    assert make_spec().memory_cap is None


def test_a_worker_has_its_share_and_so_has_the_one_that_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Resources(gpus=1, cpus=3)
    objective = Objective("tests.objectives:surroundings", (str(ROOT),))

    def report(pool: WorkerPool) -> dict[str, float]:
        job = Job(objective, {"loss": 1}, {}, 0, 0, None, tmp_path)
        with pool.worker() as worker:
            metrics = worker.run(job, timeout=PATIENCE, on_message=lambda message: True)
            worker.kill()
        return metrics

    with WorkerPool(1, objective, lambda slot: variables(asked, ["4", "7"], slot)) as pool:
        first, replaced = report(pool), report(pool)
        with pool.worker():  # so that the other slot's is started
            second = report(pool)
    assert first == replaced
    assert {key: first[key] for key in THREADS} == dict.fromkeys(THREADS, 3.0)
    assert (first[VISIBLE], second[VISIBLE]) == (4.0, 7.0)


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"gpu": 1}, "resources.gpu", "did you mean 'gpus'?"),
        ({"gpus": -1}, "resources.gpus", "-1"),
        ({"gpus": 1.5}, "resources.gpus", "1.5 is neither a whole number of GPUs, nor a share"),
        ({"gpus": "all"}, "resources.gpus", "nor auto"),
        ({"gpus": True}, "resources.gpus", "True"),
        ({"cpus": 0}, "resources.cpus", "0"),
        ({"memory": "4 gigs"}, "resources.memory", "write it as 500MiB or 2GiB"),
    ],
)
def test_resources_that_make_no_sense_are_refused(given: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        make_spec(resources=given)
    assert refused.value.field == field
    assert words in str(refused.value)


def test_a_framework_is_bounded_once_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded = """
class cuda:
    shares = {}
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 2)
    set_per_process_memory_fraction = staticmethod(lambda share, device: cuda.shares.update({device: share}))
"""
    (tmp_path / "torch.py").write_text(bounded)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    bound_memory(0.25)
    torch = importlib.import_module("torch")
    assert torch.cuda.shares == {0: 0.25, 1: 0.25} and torch.__spec__.name == "torch"
    assert importlib.import_module("torch") is torch
    del sys.modules["torch"]  # by monkeypatch it would be put back


def test_memory_of_a_gpu_is_told_from_other_memory() -> None:
    class ResourceExhaustedError(Exception):
        """Of TensorFlow."""

    on = "OOM when allocating tensor with shape[9,9] and type float on /job:localhost/device:{}:0"
    assert out_of_memory(ResourceExhaustedError(on.format("GPU")))
    assert not out_of_memory(ResourceExhaustedError(on.format("CPU")))
    assert out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 68 bytes."))
    try:
        try:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        except RuntimeError as error:
            raise ValueError("the training failed") from error
    except ValueError as outer:
        assert out_of_memory(outer)


def test_a_trial_out_of_gpu_memory_is_not_tried_again_and_its_worker_is_replaced(tmp_path: Path) -> None:
    objective = Objective("tests.objectives:out_of_gpu_memory", (str(ROOT),))
    with WorkerPool(1, objective) as pool:
        with pool.worker() as worker, pytest.raises(TrialFailed, match="out of GPU memory") as failed:
            worker.run(
                Job(objective, {"loss": 1}, {}, 0, 0, None, tmp_path), timeout=PATIENCE, on_message=lambda message: True
            )
        assert not failed.value.retry
        with pool.worker() as next_one:
            assert next_one.pid != worker.pid
