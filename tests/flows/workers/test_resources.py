"""GPUs, threads and memory of each trial at a time: who gets what, and a real worker that says what it has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.errors import InputError
from hpo_core.study.sections import Resources
from hpo_flows.base.gpus import SHARING, share
from hpo_flows.objectives.reference import Objective
from hpo_flows.workers import resources as resources_module
from hpo_flows.workers.job import Job
from hpo_flows.workers.pool import WorkerPool
from hpo_flows.workers.resources import THREADS, VISIBLE, assigned, check, devices, variables
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
        job = Job(objective, "loss", {}, 0, 0, None, tmp_path)
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
        ({"gpus": 0.5}, "resources.gpus", "0.5"),
        ({"cpus": 0}, "resources.cpus", "0"),
        ({"memory": "4 gigs"}, "resources.memory", "write it as 500MiB or 2GiB"),
    ],
)
def test_resources_that_make_no_sense_are_refused(given: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        make_spec(resources=given)
    assert refused.value.field == field
    assert words in str(refused.value)
