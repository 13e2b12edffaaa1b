"""Ask and tell over a real MLflow: one loop, several threads and processes, trials that fail, end early or are lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo_core.base.errors import InputError, StudyFailed, TrackingError
from hpo_core.history.trial import TrialState
from hpo_core.ledger import ownership
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.opening import find_study
from hpo_core.tracking.connection import connect
from hpo_core.tracking.mlflow_store import MlflowStore
from hpo_flows import AskedStudy, Float, open_study
from hpo_flows.api import asked
from hpo_flows.trials import recorder
from tests.conftest import wait_until
from tests.studies import ROOT, make_spec, start, wait_for_complete, write_study
from tests.studies import _somewhere_else as _somewhere_else

KEYS: dict[str, Any] = {"name": "study", "space": {"x": Float(low=0, high=1)}, "metric": "loss", "trials": 4}

WORKER = """
import sys
from hpo_flows import open_study

with open_study(sys.argv[1]) as study:
    while not study.over:
        trial = study.ask(wait=1)
        if trial is not None:
            with trial:
                trial.tell(trial.config["x"] ** 2)
assert "prefect" not in sys.modules
"""


def ask_all(study: AskedStudy) -> None:
    while (trial := study.ask()) is not None:
        trial.tell((float(trial.config["x"]) - 0.3) ** 2)  # type: ignore[arg-type]


def test_a_loop_of_ones_own() -> None:
    study = open_study(**KEYS, repeats="off")
    assert study.best is None and not study.over
    ask_all(study)
    assert study.over and study.reason == "all 4 trials are done"
    result = study.result()
    assert [trial.state for trial in result.history] == [TrialState.COMPLETE] * 4
    assert study.best == result.best and result.best is not None
    runs = connect().search([result.experiment_id], {Tag.ROLE: "trial"})
    assert [float(run.params["x"]) for run in runs] == [trial.config["x"] for trial in result.history]
    assert connect().get(result.run_id).status == "FINISHED"
    again = open_study("study")
    assert again.ask() is None and again.over
    more = open_study(**KEYS | {"trials": "+2"})
    ask_all(more)
    assert len(more.result().history) == 6


def test_what_was_proposed_is_what_a_flow_would_have_got() -> None:
    study = open_study(**KEYS, seed=3, repeats="off")
    ask_all(study)
    spec = make_spec(stop={"trials": 4}, seed=3, repeats="off")
    history = study.result().history
    for number in range(4):
        explained = study.result().explain(number)
        assert explained.seen is not None and explained.same
        assert spec.propose(explained.seen, 1)[0].config == history.trials[number].config


@pytest.mark.parametrize("how", ["spec", "dict", "path", "str"])
def test_a_study_is_given_in_any_form(how: str, tmp_path: Path) -> None:
    spec = make_spec()
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
    given: Any = {"spec": spec, "dict": spec.model_dump(exclude_none=True), "path": path, "str": str(path)}[how]
    trial = open_study(given).ask()
    assert trial is not None and set(trial.config) == {"x"}
    trial.tell(0.5)


def test_whoever_asks_does_not_take_the_objective_away() -> None:
    open_study(make_spec(stop={"trials": 4}))
    open_study(**KEYS)
    assert find_study(connect(), "study").spec.objective == "tests.objectives:quick"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"retries": 2}, r"retries: hpo tune does this with an objective, and the study has none; remove it"),
        ({"final": {"top": 2}}, r"final: .*remove it, or add objective"),
        ({"space": {}}, "space: "),
        ({"study": "study"}, "space: it is given beside a whole study"),
    ],
)
def test_bad_input_is_told(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_study(**KEYS | change)


def test_trials_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    study = open_study(**KEYS, repeats="off", stop={"same_error": False})
    with pytest.raises(ZeroDivisionError), study.ask():  # type: ignore[union-attr]
        _ = 1 / 0
    with study.ask():  # type: ignore[union-attr]
        pass
    third = study.ask()
    assert third is not None
    study.tell(third, error="the robot fell over")
    study.tell(study.ask(), float("nan"))  # type: ignore[arg-type]
    history = study.result().history
    assert [trial.reason for trial in history.failed] == [
        "ZeroDivisionError: division by zero",
        asked.UNTOLD,
        "the robot fell over",
        "the result is loss = nan",
    ]
    assert asked.UNTOLD in caplog.text
    assert b"ZeroDivisionError" in (connect().download(history.trials[0].run_id, "failure.txt") or b"")


def test_failing_alike_ends_the_study() -> None:
    study = open_study(**KEYS)
    for _ in range(3):
        study.tell(study.ask(), error="no such device")  # type: ignore[arg-type]
    with pytest.raises(StudyFailed, match="no such device"):
        study.ask()


def test_what_cannot_be_told_leaves_the_trial_as_it_is() -> None:
    study = open_study(**KEYS)
    trial = study.ask()
    assert trial is not None
    for wrong, says in [
        ("0.5", "told was '0.5'; return the loss as a number"),
        ({"los": 1.0}, "told was no 'loss' but"),
        (None, "neither a result nor an error"),
    ]:
        with pytest.raises(InputError, match=says):
            study.tell(trial, wrong)
    with pytest.raises(InputError, match="7 is not a trial that this process asked for; out are"):
        study.tell(7, 1.0)
    study.tell(0, {"loss": 0.5, "size": 3})
    with pytest.raises(InputError, match="it was told before"):
        trial.tell(0.4)
    (told,) = study.result().history.complete
    assert (told.loss, told.metrics["size"]) == (0.5, 3.0)


def test_early_stopping() -> None:
    rule = {"rule": "median", "first": 1, "trials": 1, "every": 1}
    study = open_study(**KEYS, repeats="off", early_stop=rule)
    went_on: list[int] = []
    while (trial := study.ask()) is not None:
        step = 0
        while trial.report(step, {"loss": float(trial.number)}) and step < 5:
            step += 1
        went_on.append(step)
        trial.tell(float(trial.number))
    assert went_on[0] == 5 and max(went_on[1:]) < 5
    assert "stopped by median" in study.result().history.trials[3].reason


def test_hyperband_waits_for_what_is_out_and_goes_on_from_checkpoints() -> None:
    study = open_study(
        **KEYS | {"trials": 40},
        strategy="hyperband",
        fidelity={"name": "epochs", "min": 1, "max": 9, "eta": 3},
    )
    resumed = 0
    while (trial := study.ask()) is not None:
        with trial:
            if trial.resume_from is not None:
                resumed += 1
                assert (trial.resume_from / "weights").read_text() == str(trial.config["x"])
            (trial.checkpoint / "weights").write_text(str(trial.config["x"]))
            trial.tell(float(trial.config["x"]) / float(trial.fidelity or 1))  # type: ignore[arg-type]
    history = study.result().history
    promoted = [trial for trial in history if trial.parent is not None]
    assert promoted and resumed == len(promoted)
    assert all(str(trial.notes["continued"]).startswith("yes") for trial in promoted)


def test_nothing_to_be_had_for_now_is_not_the_end() -> None:
    study = open_study(**KEYS | {"space": {"x": {"type": "choice", "choices": [1]}}}, repeats="off")
    trial = study.ask()
    assert trial is not None and study.ask() is None and not study.over
    trial.tell(1.0)
    assert study.ask() is None and study.over and "nothing more to propose" in study.reason


def test_leases_are_renewed_while_a_trial_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "RENEW_SECONDS", 0.0)
    monkeypatch.setattr(recorder, "FIRST_WRITE_SECONDS", 0.0)
    study = open_study(**KEYS)
    trial = study.ask()
    assert trial is not None
    run = study.result().history.running[0].run_id
    first = int(connect().get(run).tags[Tag.LEASE])
    wait_until(lambda: int(connect().get(run).tags[Tag.LEASE]) > first)
    trial.report(0, {"loss": 2.0})
    trial.tell(1.0)
    wait_until(lambda: study._renewer is None)


def test_interrupted_and_lost_trials_are_taken_up_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), open_study(**KEYS, repeats="off") as study, study.ask():  # type: ignore[union-attr]
        raise KeyboardInterrupt
    script = "import os; from hpo_flows import open_study; open_study('study').ask(); os._exit(9)"
    subprocess.run([sys.executable, "-c", script], env=environment_without_prefect(), check=False)
    ask_all(study := open_study("study"))
    history = study.result().history
    assert [trial.notes.get("lost") for trial in history.failed] == ["interrupted", "died"]
    assert len(history.complete) == 4
    assert len({trial.config["x"] for trial in history}) == 4


def environment_without_prefect() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_a_result_waits_on_disk_while_mlflow_is_away() -> None:
    study = open_study(**KEYS)
    trial = study.ask()
    assert trial is not None

    def away(*arguments: Any) -> None:
        raise TrackingError("MLflow does not answer")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowStore, "log", away)
        with pytest.raises(TrackingError):
            trial.tell(0.25)
    assert trial.told
    assert study.ask() is not None
    assert [each.loss for each in study.result().history.complete] == [0.25]


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_many_askers_on_one_study(kind: str, tmp_path: Path) -> None:
    """Nothing double, nothing lost."""
    study = open_study(**KEYS | {"trials": 24}, repeats="off")
    if kind == "threads":
        threads = [threading.Thread(target=ask_all_in_turn, args=[study]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        script = tmp_path / "worker.py"
        script.write_text(WORKER)
        command = [sys.executable, str(script), "study"]
        workers = [subprocess.Popen(command, env=environment_without_prefect()) for _ in range(3)]
        assert [worker.wait() for worker in workers] == [0, 0, 0]
    check_nothing_double(24)


def ask_all_in_turn(study: AskedStudy) -> None:
    while not study.over:
        if (trial := study.ask(wait=1)) is not None:
            trial.tell(0.5 + float(trial.config["x"]))  # type: ignore[arg-type]


def check_nothing_double(count: int) -> None:
    history = find_study(connect(), "study").load()
    assert [trial.number for trial in history] == list(range(count))
    assert all(trial.state is TrialState.COMPLETE for trial in history)
    assert len(history.identities) == count
    assert len({trial.run_id for trial in history}) == count


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_flow_and_an_asker_share_a_study(tmp_path: Path) -> None:
    path = write_study(tmp_path, "slow", stop={"trials": 11})  # too few to make repeats
    flow = start(path)
    wait_for_complete(1)
    ask_all(open_study("study"))
    out, _ = flow.communicate()
    assert flow.returncode == 0, out
    check_nothing_double(11)
    owners = {trial.owner for trial in find_study(connect(), "study").load()}
    assert owners == {str(ownership.Owner.of_this_process())} | {owner for owner in owners if f"/{flow.pid}/" in owner}
    assert len(owners) == 2
