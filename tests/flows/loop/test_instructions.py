"""A say in a study that runs: real flows, real MLflow, and the command that tells them."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.opening import find_study
from hpo_core.tracking.connection import connect
from hpo_flows.api import instructing, open_ledger, run
from hpo_flows.loop import tune
from hpo_flows.objectives.reference import Objective
from hpo_flows.results import StudyResult
from tests.conftest import wait_until
from tests.studies import ROOT, gated, let_pass, make_spec, start, write_study
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
    ledger = told()

    def there() -> list[Trial]:
        found = [trial for trial in ledger.load() if trial.state is state]
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


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    path = write_study(tmp_path, "gated", space=gated(tmp_path, 0), stop={"trials": 2})
    flow = start(path)
    wait_for(2, TrialState.RUNNING)

    def hpo(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "hpo_flows.cli", *arguments], check=True, cwd=tmp_path)

    hpo("set", "study", "trials=+1")
    hpo("stop", "study", "--trial", "1")
    assert wait_for(1, TrialState.FAILED)[0].number == 1
    let_pass(tmp_path)
    out, _ = flow.communicate()
    assert flow.returncode == 0, out
    assert len(told().load().complete) == 2
    assert connect().get(told().load().failed[0].run_id).tags[Tag.REASON] == "stopped by hpo stop --trial 1"
