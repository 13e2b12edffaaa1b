"""A say in a study that runs: real flows, real MLflow, and the command that tells them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.errors import StudyUnknown
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.opening import find_study
from hpo_core.lineage.replay import explain
from hpo_core.tracking.connection import connect
from hpo_flows.api import instructing, open_ledger, run
from hpo_flows.loop import tune
from hpo_flows.objectives.reference import Objective
from hpo_flows.results import StudyResult
from tests.conftest import wait_until
from tests.studies import ROOT, environment, gated, let_pass, make_spec, start, write_study
from tests.studies import _somewhere_else as _somewhere_else

pytestmark = pytest.mark.usefixtures("prefect_server")


class Flow:
    """A flow in a thread of this process, which hears what it is told at every round."""

    def __init__(self, **changes: Any) -> None:
        self._spec = make_spec("gated", repeats="off", **changes)
        self.result: StudyResult | None = None
        self._ledger = open_ledger(self._spec)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.result = run(self._ledger, Objective(self._spec.objective, (str(ROOT),)))

    def history(self) -> History:
        self._thread.join()
        assert self.result is not None
        return self.result.history


@pytest.fixture(autouse=True)
def _at_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "HEAR_SECONDS", 0.2)
    monkeypatch.setattr(tune, "RELOAD_SECONDS", 0.5)


def told() -> Ledger:
    return find_study(connect(), "study")


def wait_for(count: int, state: TrialState) -> list[Trial]:
    def there() -> list[Trial]:
        try:
            found = [trial for trial in told().load() if trial.state is state]
        except StudyUnknown:  # a flow in a process of its own has only just begun
            return []
        return found if len(found) >= count else []

    return wait_until(there)


def test_what_a_flow_is_told_while_it_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One flow, two slots, both taken until the gate opens."""
    flow = Flow(space=gated(tmp_path, 0), stop={"trials": 4})
    first, second = wait_for(2, TrialState.RUNNING)
    instructing.stop_trial(told(), first.number, "it hangs")
    assert wait_for(1, TrialState.FAILED)[0].reason == "stopped by hpo stop --trial 0: it hangs"
    assert [each.number for each in wait_for(2, TrialState.RUNNING)] == [second.number, 2]  # its slot is filled again
    instructing.change(told(), ["parallel=4", "trials=+2"])
    instructing.enqueue(told(), {"x": 0.125, "gate": str(tmp_path / "gate"), "free": 0})
    running = wait_for(3, TrialState.RUNNING)
    wait_for(4, TrialState.RUNNING)
    told().study.instruct("pause")
    wait_until(lambda: "hpo pause" in caplog.text)
    let_pass(tmp_path)
    wait_for(4, TrialState.COMPLETE)
    assert not told().load().running
    told().study.instruct("resume")
    history = flow.history()
    assert len(history) == 6 and len(history.complete) == 5 and len(running) >= 3
    (enqueued,) = [trial for trial in history if trial.notes["strategy"] == "enqueued"]
    assert enqueued.config["x"] == 0.125 and enqueued.proposed == "Given by hand (hpo enqueue)"
    assert told().spec.parallel == 4 and told().spec.stop.trials == 6
    assert "study: hpo set parallel=4 stop.trials=+2" in caplog.text
    for number in (enqueued.number, 5):
        found = flow.result.explain(number)  # type: ignore[union-attr]
        assert found.same and found.seen is not None


@pytest.mark.slow
def test_a_machine_that_cannot_train_more_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from hpo_flows.workers import resources

    monkeypatch.setattr(resources, "cores", lambda: 2)
    flow = Flow(space=gated(tmp_path, 0), stop={"trials": 3}, resources={"cpus": 1})
    wait_for(2, TrialState.RUNNING)
    instructing.change(told(), ["parallel=3"])
    wait_until(lambda: "this flow stays at parallel=2: resources.cpus" in caplog.text)
    let_pass(tmp_path)
    assert len(flow.history()) == 3


@pytest.mark.slow
def test_two_flows_take_up_each_configuration_once(tmp_path: Path) -> None:
    path = write_study(tmp_path, "slow", stop={"trials": 24}, strategy="random")
    open_ledger(make_spec("slow", stop={"trials": 24}, strategy="random", repeats="off"))
    wanted = [round(0.01 + 0.05 * i, 3) for i in range(8)]
    for x in wanted:  # before the flows begin, since a quick study could be over before it heard of them
        instructing.enqueue(told(), {"x": x})
    flows = [start(path, "--set", "repeats=off") for _ in range(2)]
    for flow in flows:
        out, _ = flow.communicate()
        assert flow.returncode == 0, out
    history = told().load()
    assert [trial.number for trial in history] == list(range(24))
    taken = [trial.config["x"] for trial in history if trial.notes["strategy"] == "enqueued"]
    assert sorted(taken) == wanted  # type: ignore[type-var]
    assert len(history.identities) == 24


def hpo(folder: Path, *arguments: str) -> str:
    """A command in a folder of its own, which knows nothing of the study but MLflow's address."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "hpo_flows.cli", *arguments]
    return subprocess.run(command, check=True, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True).stdout


Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts flows in processes of their own, which end with the test, however that ends."""
    begun: list[subprocess.Popen[str]] = []

    def begin(path: Path, *arguments: str) -> subprocess.Popen[str]:
        begun.append(start(path, *arguments))
        return begun[-1]

    yield begin
    for flow in begun:
        if flow.poll() is None:
            os.killpg(flow.pid, signal.SIGKILL)


def check_nothing_double(history: History, count: int) -> None:
    assert [trial.number for trial in history.every] == list(range(count))
    first: dict[str, Trial] = {}
    double = [(first[t.identity], t) for t in history.every if first.setdefault(t.identity, t) is not t]
    assert not double
    assert not told().skipped


@pytest.mark.slow
def test_two_flows_take_up_whatever_they_are_told(tmp_path: Path, begin: Begin) -> None:
    """All trials wait until the gate opens, so each instruction meets two flows whose slots are taken."""
    elsewhere = tmp_path / "elsewhere"
    path = write_study(tmp_path, "gated", space=gated(tmp_path, 0), stop={"trials": 10}, strategy="random")
    flows = [begin(path, "--set", "repeats=off") for _ in range(2)]
    running = wait_for(4, TrialState.RUNNING)
    hpo(elsewhere, "set", "study", "parallel=3", "trials=+2")
    wait_for(6, TrialState.RUNNING)
    owners = {trial.owner: trial.number for trial in running}
    assert len(owners) == 2
    for number in owners.values():  # one of each flow
        hpo(elsewhere, "stop", "study", "--trial", str(number), "--reason", "enough")
    failed = wait_for(2, TrialState.FAILED)
    assert {t.number: t.reason for t in failed} == {
        n: f"stopped by hpo stop --trial {n}: enough" for n in owners.values()
    }
    wait_for(6, TrialState.RUNNING)
    config = {"x": 0.125, "gate": str(tmp_path / "gate"), "free": 0}
    for _ in range(2):  # two people at once, so that neither could know of the other
        told().study.instruct("enqueue", config)
    assert "no further trial starts" in hpo(elsewhere, "pause", "study")
    for number in {trial.owner: trial.number for trial in told().load().running}.values():
        hpo(elsewhere, "stop", "study", "--trial", str(number))
    wait_for(4, TrialState.FAILED)  # a flow that has heard of these has heard of the pause
    let_pass(tmp_path)
    for flow in flows:  # it says so at its next round
        wait_until(lambda flow=flow: flow.poll() is not None or not told().load().running)  # type: ignore[misc]
    assert len(told().load()) == 8 and all(flow.poll() is None for flow in flows)
    assert "paused (hpo resume study)" in hpo(elsewhere, "status", "study")
    assert "running, paused" in hpo(elsewhere, "list")
    hpo(elsewhere, "resume", "study")
    for flow in flows:
        out, _ = flow.communicate()
        assert flow.returncode == 0, out
    history = told().load()
    check_nothing_double(history, 12)
    assert [trial.config["x"] for trial in history if trial.notes["strategy"] == "enqueued"] == [0.125]
    assert (told().spec.parallel, told().spec.stop.trials) == (3, 12)


@pytest.mark.slow
def test_two_flows_end_when_their_minutes_are_cut(tmp_path: Path, begin: Begin) -> None:
    path = write_study(tmp_path, "slow", stop={"trials": 5000, "minutes": 600}, strategy="random")
    flows = [begin(path, "--set", "repeats=off") for _ in range(2)]
    wait_for(4, TrialState.COMPLETE)
    hpo(tmp_path, "set", "study", "stop.minutes=0.01")
    for flow in flows:
        out, _ = flow.communicate()
        assert flow.returncode == 0 and "0.01 minutes are over" in out, out
    history = told().load()
    check_nothing_double(history, history.next_number)
    assert not history.running and len(history) < 5000


WIDER = {"type": "float", "low": 0.5, "high": 2.0}


@pytest.mark.slow
def test_a_flow_goes_on_in_the_space_that_another_one_brings(tmp_path: Path, begin: Begin) -> None:
    settings: dict[str, Any] = {"stop": {"trials": 200}, "strategy": "random", "repeats": "off"}
    old = begin(write_study(tmp_path, "slow", **settings))
    wait_for(4, TrialState.COMPLETE)
    new = begin(write_study(tmp_path, "slow", space={"x": WIDER}, **settings), "--change-space")
    for flow in (old, new):
        out, _ = flow.communicate()
        assert flow.returncode == 0, out
        assert "all 200 trials are" in out  # done, or started, if the other flow still trains the last ones
    assert "the space is changed" in out
    history, spec = told().load(), told().spec
    check_nothing_double(history, 200)
    assert len(spec.editions) == 1 and history.outside and not history.under_way
    assert all(trial.config["x"] >= 0.5 for trial in history if trial.edition == spec.edition)  # type: ignore[operator]
    by_owner = {t.owner: t.edition for t in history.every}  # what each flow proposed last
    assert set(by_owner.values()) == {spec.edition} and len(by_owner) == 2
    for number in (0, 5, 100, 199):
        found = explain(told(), number)
        assert found.seen is not None and found.same, (number, found.verdict, found.caveats)


@pytest.mark.slow
def test_a_flow_ends_whose_objective_may_not_know_a_parameter(tmp_path: Path, begin: Begin) -> None:
    settings: dict[str, Any] = {"stop": {"trials": 60}, "strategy": "random", "repeats": "off"}
    old = begin(write_study(tmp_path, "slow", **settings))
    wait_for(4, TrialState.COMPLETE)
    space = {"x": {"type": "float", "low": 0, "high": 1}, "width": {"type": "int", "low": 1, "high": 9, "default": 2}}
    new = begin(write_study(tmp_path, "slow", space=space, **settings), "--change-space")
    out, _ = old.communicate()
    assert old.returncode == 0
    assert "the space was changed, and this run began before that (new: width); run it again to go on" in out, out
    out, _ = new.communicate()
    assert new.returncode == 0, out
    history = told().load()
    check_nothing_double(history, 60)
    assert not history.outside and {trial.config["width"] for trial in history if not trial.edition} == {2}


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    path = write_study(tmp_path, "gated", space=gated(tmp_path, 0), stop={"trials": 2})
    flow = start(path)
    wait_for(2, TrialState.RUNNING)

    hpo(tmp_path, "set", "study", "trials=+1")
    hpo(tmp_path, "stop", "study", "--trial", "1")
    assert wait_for(1, TrialState.FAILED)[0].number == 1
    let_pass(tmp_path)
    out, _ = flow.communicate()
    assert flow.returncode == 0, out
    assert len(told().load().complete) == 2
    assert connect().get(told().load().failed[0].run_id).tags[Tag.REASON] == "stopped by hpo stop --trial 1"
