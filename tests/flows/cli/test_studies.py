"""hpo list, export and delete, and what status and best say beyond a table, over real stores."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.errors import StudyUnknown
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.ownership import now_ms
from hpo_core.ledger.store import FAILED, FINISHED, KILLED, Metric
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.opening import open_study
from hpo_core.study.yaml import parse_yaml
from hpo_core.tracking.connection import connect
from hpo_flows import load_study
from hpo_flows.cli.studies import ago
from tests.conftest import MlflowServer
from tests.flows.cli.test_cli import HPO, called
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.studies import _somewhere_else as _somewhere_else

SPACE = {
    "value": {"type": "float", "low": 0, "high": 1},
    "score": {"type": "choice", "choices": ["one\ntwo", 'x, "y"', "on", 1, None]},
    "depth": {"type": "int", "low": 1, "high": 9, "when": {"score": ["on"]}},
}


@pytest.fixture(params=["sqlite", "server"])
def ledger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A study of four trials: two complete, one failed, one running in this process."""
    if request.param == "server":
        server: MlflowServer = request.getfixturevalue("mlflow_server")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    first = [{"value": 0.5, "score": "on", "depth": 3}, {"value": 0.25, "score": "one\ntwo"}]
    ledger = open_study(connect(), make_spec(space=SPACE, first=first, stop={"trials": 9}))
    finish(ledger, reserve(ledger), 0.5)
    finish(ledger, reserve(ledger), 0.75)
    failed = reserve(ledger)
    ledger.write(Report(failed.run_id, tags={Tag.REASON: 'it, "broke"\nbadly'}, status=FAILED))
    ledger.release(failed)
    reserve(ledger)
    return ledger


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_list(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    long = open_study(ledger.store, make_spec(name=f"{ledger.spec.name}-{'long' * 30}"))
    long.study.set_status(KILLED)
    assert called(["list", "--json"], monkeypatch) == 0
    studies = {study["study"]: study for study in told(capsys)["studies"]}
    study = studies[ledger.spec.name]
    assert {key: study[key] for key in ("state", "complete", "running", "failed", "trials", "best", "best_trial")} == {
        "state": "running", "complete": 2, "running": 1, "failed": 1, "trials": 9, "best": 0.75, "best_trial": 1,
    }  # fmt: skip
    assert study["run_id"] == ledger.study_run.id and study["active"].endswith("+00:00")
    assert studies[long.spec.name]["state"] == "stopped"
    monkeypatch.setenv("COLUMNS", "80")
    assert called(["list"], monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["study", "state", "done", "failed", "best", "active"]
    assert max(map(len, lines)) <= 80
    (line,) = (line for line in lines if line.startswith(f"{ledger.spec.name} "))
    assert line.split()[1:] == ["running", "3/9", "1", "0.75", "score", "now"]
    assert any("…" in line and "stopped" in line for line in lines)
    assert called(["status", ledger.spec.name], monkeypatch) == 0
    assert "3 of 9 trials done" in capsys.readouterr().out


def test_list_names_the_winner_of_a_final_choice_until_more_trials_begin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = open_study(connect(), make_spec(final={"top": 2, "folds": 2}))
    for score in (0.5, 0.25):
        finish(ledger, reserve(ledger), score)

    def winner() -> int | None:
        assert called(["list"], monkeypatch) == 0
        shown = capsys.readouterr().out
        assert called(["list", "--json"], monkeypatch) == 0
        (found,) = told(capsys)["studies"]
        assert ("0.375" in shown) == (found["winner"] is not None)
        return None if found["winner"] is None else int(found["winner"])

    assert winner() is None
    ledger.study.end(ledger.load(), "all 2 trials are done")
    mean = Metric(f"final/{ledger.spec.metric}", 0.375, now_ms())
    ledger.store.log(ledger.study_run.id, [mean], {}, {Tag.WINNER: "1"})
    assert winner() == 1
    reserve(ledger)
    assert winner() is None


def test_list_says_where_no_trial_keeps_the_limits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = open_study(connect(), make_spec(limits={"ms": "<= 0.1"}))
    finish(ledger, reserve(ledger), 0.5)
    assert called(["list"], monkeypatch) == 0
    assert "none keeps the limits" in capsys.readouterr().out


def test_list_of_an_empty_store(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(["list"], monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("no study in the MLflow store sqlite:///")
    assert called(["list", "--json"], monkeypatch) == 0
    assert told(capsys) == {"studies": []}


@pytest.mark.parametrize("line", ["list", "status it", "best it", "ask it", "set it parallel=2", "export it"])
def test_who_looks_in_the_wrong_folder_is_told_so_and_leaves_no_store_there(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (here := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(here)
    assert called(line.split(), monkeypatch) == (0 if line == "list" else 2)
    assert f"{here}/mlflow.db" in capsys.readouterr().err
    with pytest.raises(StudyUnknown, match=r"no study 'it': the MLflow store .*/mlflow.db does not exist; run this in"):
        load_study("it")
    assert not list(here.iterdir())


def test_a_store_of_an_unknown_kind_is_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "redis://me:secret@host/1")
    assert called(["list"], monkeypatch) == 2
    assert "error: MLFLOW_TRACKING_URI: MLflow knows no store of the kind 'redis://***@host/1'; write" in (
        capsys.readouterr().err
    )


def test_studies_of_one_name_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for experiment in ("one", "other"):
        open_study(connect(), make_spec(name="twin", experiment=experiment))
    assert called(["list"], monkeypatch) == 0
    said = capsys.readouterr().out
    assert "twin (in one)" in said and "twin (in other)" in said


def test_ago_never_looks_ahead() -> None:
    assert ago(-5000) == "now"  # the clock of another machine


def test_export_as_csv(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(["export", ledger.spec.name], monkeypatch) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["state"] for row in rows] == ["complete", "complete", "failed", "running"]
    assert [row["value"] for row in rows] == ["0.5", "0.75", "", ""]
    assert rows[0]["params.value"] == "0.5" and rows[0]["params.depth"] == "3" and rows[0]["metrics.score"] == "0.5"
    assert rows[1]["params.score"] == "one\ntwo" and rows[1]["params.depth"] == ""
    assert rows[2]["reason"] == 'it, "broke"\nbadly' and rows[3]["end"] == ""
    assert [row["run_id"] for row in rows] == [trial.run_id for trial in ledger.history()]


def test_export_as_json_to_a_file(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(["export", ledger.spec.name, "--format", "json", "--out", "trials.json"], monkeypatch) == 0
    assert capsys.readouterr().out == f"4 trials of {ledger.spec.name} are in trials.json\n"
    rows = json.loads((tmp_path / "trials.json").read_text())
    assert [row["number"] for row in rows] == [0, 1, 2, 3]
    assert rows[1]["params.score"] == "one\ntwo" and rows[1]["params.depth"] is None and rows[1]["value"] == 0.75


def test_export_as_parquet(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet

    assert called(["export", ledger.spec.name, "--format", "parquet", "--out", "t.parquet"], monkeypatch) == 0
    table = parquet.read_table(tmp_path / "t.parquet")
    rows = table.to_pylist()
    assert [row["value"] for row in rows] == [0.5, 0.75, None, None] and rows[0]["params.depth"] == 3
    assert [str(table.schema.field(name).type) for name in ("fidelity", "end")] == ["double", "timestamp[us, tz=UTC]"]
    assert rows[1]["params.score"] in ("one\ntwo", '"one\\ntwo"')  # JSON if the others are of other types


def test_export_of_a_study_without_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_study(connect(), make_spec(name="empty"))
    assert called(["export", "empty"], monkeypatch) == 0
    assert capsys.readouterr().out.startswith("number,state,value,repeat_of,mean,standard_error,trainings,fidelity,")
    assert called(["export", "empty", "--format", "json"], monkeypatch) == 0
    assert told(capsys) == []
    assert called(["export", "empty", "--format", "parquet", "--out", "e.parquet"], monkeypatch) == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("export empty --format parquet", "--out: it is missing, and Parquet cannot be printed; name a file"),
        ("export empty --out absent/x.csv", "--out: absent/x.csv cannot be written (No such file or directory); name"),
        ("export absent", "study: no study named 'absent'"),
        ("delete empty", "--yes: it is missing, and there is no terminal to ask on; hpo delete empty --yes"),
        ("delete absent --yes", "study: no study named 'absent'"),
        ("best empty --json --yaml", "--yaml: it is given together with --json"),
    ],
)
def test_bad_input_is_one_line(
    line: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_study(connect(), make_spec(name="empty"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert called(line.split(), monkeypatch) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {said}") and err.count("\n") == 1


# -- delete -----------------------------------------------------------------------------------------------------


def ended(**changes: Any) -> Ledger:
    ledger = open_study(connect(), make_spec(name="study", **changes))
    finish(ledger, reserve(ledger), 0.5)
    ledger.study.set_status(FINISHED)
    return ledger


def test_delete_says_how_to_restore(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, other = ended(experiment="both"), open_study(connect(), make_spec(name="other", experiment="both"))
    assert called(["delete", "study", "--yes"], monkeypatch) == 0
    out = capsys.readouterr().out
    assert "study: deleted, with 1 trial" in out
    assert "the experiment both, State: Deleted" in out
    assert f"mlflow runs restore --run-id {ledger.study_run.id}" in out
    assert ledger.store.get(ledger.study_run.id).deleted and not ledger.store.get(other.study_run.id).deleted
    assert called(["status", "study"], monkeypatch) == 2


def test_delete_refuses_while_a_flow_works_on_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = ended()
    reserve(ledger)
    assert called(["delete", "study", "--yes"], monkeypatch) == 2
    assert capsys.readouterr().err.endswith("a flow works on it now; end that first (hpo stop)\n")
    assert not ledger.store.get(ledger.study_run.id).deleted


def test_delete_refuses_while_a_flow_may_be_starting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = open_study(connect(), make_spec(name="study"))
    assert called(["delete", "study", "--yes"], monkeypatch) == 2
    said = "study 'study': a flow was at work within the last four minutes; end that first (hpo stop), or wait"
    assert capsys.readouterr().err == f"error: {said}\n"
    assert not ledger.store.get(ledger.study_run.id).deleted


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_delete_asks_on_a_terminal(answer: str, code: int, tmp_path: Path) -> None:
    ledger = ended(champion={"model": "wine"})
    ours, theirs = pty.openpty()
    child = subprocess.Popen([HPO, "delete", "study"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    said = all_of(ours)
    assert child.wait() == code
    assert "1 trial and its claims go to MLflow's trash" in said and "the registered model wine stays" in said
    assert ledger.store.get(ledger.study_run.id).deleted == (answer == "y")


def all_of(terminal: int) -> str:
    """All that is written to a terminal until nobody has it open any more."""
    said = b""
    try:
        while more := os.read(terminal, 1000):
            said += more
    except OSError:  # how Linux says so
        pass
    return said.decode()


# -- status --watch, best --yaml --------------------------------------------------------------------------------


def test_watch_ends_with_the_study(tmp_path: Path) -> None:
    ledger = ended(stop={"trials": 2})
    trial = reserve(ledger)
    ledger.study.set_status("RUNNING")
    command = [HPO, "status", "study", "--watch", "0.5"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert child.stdout is not None
    first = child.stdout.readline()
    assert first.startswith("study: running  |  1 of 2 trials done  |  1 running")
    finish(ledger, trial, 0.75)
    ledger.study.set_status(FINISHED)
    rest = child.stdout.read().splitlines()
    assert child.wait() == 0 and rest[-1].startswith(
        "study: finished  |  2 of 2 trials done  |  0 running  |  best score 0.75"
    )
    child.stdout.close()


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_ends_on_ctrl_c(terminal: bool, tmp_path: Path) -> None:
    ledger = ended()
    reserve(ledger)
    ours, theirs = pty.openpty()
    output = theirs if terminal else subprocess.PIPE
    command = [HPO, "status", "study", "--watch"]
    child = subprocess.Popen(
        command, stdout=output, stderr=subprocess.PIPE, cwd=tmp_path, env=os.environ | {"TERM": "xterm"}
    )
    os.close(theirs)
    timer = threading.Timer(600, child.kill)
    timer.start()
    said = b""
    while b"1 running" not in said:
        said += os.read(ours, 1000) if terminal else child.stdout.read1()  # type: ignore[union-attr]
    child.send_signal(signal.SIGINT)
    _, error = child.communicate()
    timer.cancel()
    assert (child.returncode, error) == (130, b"")
    assert (b"\x1b[" in said) == terminal  # in place there, plain lines elsewhere
    os.close(ours)


def test_watch_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ended(stop={"trials": 1})
    for line in ("status study --json --watch", "status --watch --json study", "status --watch=7 study --json"):
        assert called(line.split(), monkeypatch) == 0
        said = told(capsys)
        assert (said["state"], said["complete"]) == ("finished", 1)


def test_best_as_yaml_is_a_first_configuration(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(["best", ledger.spec.name, "--yaml"], monkeypatch) == 0
    pasted = parse_yaml(capsys.readouterr().out)
    assert pasted == {"first": [{"value": 0.25, "score": "one\ntwo"}]}
    assert make_spec(space=SPACE, **pasted).first == pasted["first"]
