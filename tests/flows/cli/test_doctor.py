"""Every check of `hpo doctor`, seen failing and passing, over real stores."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml

from hpo_core.base.errors import StudyUnknown
from hpo_core.ledger import ownership
from hpo_core.ledger.evaluations import FoldLedger, evaluation_name
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.spool import Spool
from hpo_core.ledger.store import FAILED, FINISHED, RUNNING, Store
from hpo_core.lineage import opening
from hpo_core.lineage.opening import open_study
from hpo_core.lineage.series import open_current
from hpo_core.space.search_space import SearchSpace
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.connection import connect
from hpo_core.tracking.mlflow_store import MlflowStore
from hpo_flows.cli.app import main
from hpo_flows.cli.doctor import machine as machine_checks
from hpo_flows.cli.doctor import store as store_checks
from hpo_flows.cli.doctor import study as study_checks
from hpo_flows.cli.doctor.checks import examine
from hpo_flows.cli.doctor.findings import Finding, Level
from hpo_flows.cli.doctor.machine import prefect
from hpo_flows.objectives.datasets import describe
from hpo_flows.objectives.reference import Objective
from hpo_flows.reports.text import skipped_line
from tests.conftest import MlflowServer, free_port
from tests.hpo_core.ledger.test_folds import studied, wanted
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path) -> MlflowStore:
    return connect(f"sqlite:///{tmp_path}/mlflow.db", patience=2)


@pytest.fixture
def ledger(store: MlflowStore) -> Ledger:
    return open_study(store, make_spec(objective="tests.objectives:quick"))


def seen(findings: Iterator[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.level.value) for finding in findings]


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def runs_of(store: Store, experiment: str) -> set[str]:
    return {run.id for run in store.search([experiment], {})}


def test_a_healthy_study_has_no_problem_and_nothing_is_left_behind(ledger: Ledger, tmp_path: Path) -> None:
    finish(ledger, reserve(ledger), 0.5)
    before = runs_of(ledger.store, ledger.study_run.experiment)
    for spec in (ledger.spec, None):
        findings = list(examine(lambda: ledger.store, spec, ledger.spec.name, (str(ROOT),), tmp_path))
        assert {finding.level for finding in findings} == {Level.OK}, findings
        assert {finding.check for finding in findings} == {
            "packages", "GPUs", "prefect", "limits", "objective", "tracking store", "clock", "study", "artifact store",
            "schema", "claims", "flows", "stale trials", "stale folds", "other runs", "spool",
        }  # fmt: skip
    assert runs_of(ledger.store, ledger.study_run.experiment) == before


def test_a_prefect_server_that_is_named_and_not_there_is_a_problem() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"http://me:secret@127.0.0.1:{free_port()}/api"}):
        finding = only(prefect())
    assert finding.level is Level.PROBLEM and "ConnectError" in finding.found and "secret" not in str(finding)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert only(prefect()).level is Level.OK


def test_a_study_that_is_not_started_is_checked_as_far_as_it_goes(store: MlflowStore) -> None:
    spec = make_spec(objective="tests.objectives:quick")
    findings = list(examine(lambda: store, spec, spec.name, (str(ROOT),)))
    assert {finding.level for finding in findings} == {Level.OK}
    assert "not started" in next(finding.found for finding in findings if finding.check == "study")
    assert store.experiment(spec.experiment, create=False) is None
    with pytest.raises(StudyUnknown, match="no study named 'absent'"):
        list(examine(lambda: store, None, "absent"))


def test_of_a_series_its_current_study_is_checked(store: MlflowStore) -> None:
    spec = make_spec(objective="tests.objectives:quick", data="rows:load")
    for version in (1, 2):
        current = open_current(store, spec, describe("rows", np.full(3, version)))
    assert current.spec.name != spec.name
    findings = list(examine(lambda: store, spec, spec.name, (str(ROOT),)))
    assert current.study_run.id in next(finding.found for finding in findings if finding.check == "study")


def test_a_server_is_checked_over_http(mlflow_server: MlflowServer) -> None:
    spec = make_spec()
    open_study(connect(mlflow_server.uri), spec)
    findings = list(examine(lambda: connect(mlflow_server.uri), None, spec.name))
    by_check = {finding.check: finding for finding in findings}
    assert by_check["clock"].found.startswith("within")
    assert by_check["artifact store"].level is Level.OK
    assert by_check["objective"].level is Level.PROBLEM  # nowhere:train
    assert "No module named 'nowhere'" in by_check["objective"].found


def test_a_store_that_does_not_answer_is_a_problem_and_ends_the_checks() -> None:
    findings = list(examine(lambda: MlflowStore("http://127.0.0.1:9", patience=0.1).ping() or pytest.fail("answered")))
    assert seen(iter(findings))[-1] == ("tracking store", "problem")
    assert "does not respond" in findings[-1].found and "MLFLOW_TRACKING_URI" in str(findings[-1])


def test_a_database_that_cannot_be_opened_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    findings = list(examine(lambda: connect(f"sqlite:///{tmp_path}/file/mlflow.db", patience=0.1)))
    assert seen(iter(findings))[-1] == ("tracking store", "problem")
    assert "cannot be opened" in findings[-1].found and findings[-1].remedy


def test_an_artifact_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "mlartifacts").write_text("a file where the folder should be")
    store = connect(f"sqlite:///{tmp_path}/mlflow.db", patience=0.5)
    findings = list(store_checks.scratch(store, None))
    assert seen(iter(findings)) == [("tracking store", "ok"), ("artifact store", "problem")]
    assert "Error" in findings[1].found and "writable" in findings[1].remedy


def test_a_metric_that_mlflow_does_not_take_is_found_before_any_training(store: MlflowStore) -> None:
    spec = make_spec()
    spec = spec.model_copy(update={"objectives": (replace(spec.objectives[0], metric="what?!"),)})
    findings = list(store_checks.scratch(store, spec))
    assert seen(iter(findings)) == [("tracking store", "problem"), ("artifact store", "ok")]
    assert "what?!" in findings[0].found


# -- this machine -----------------------------------------------------------------------------------------------

NEEDED = ["mlflow<3.18,>=3.17", "prefect>=3.9.1", "numpy>=2", 'boto3>=1; extra == "team"']

GOOD = {"mlflow": "3.17.2", "prefect": "3.9.1", "numpy": "2.4.0"}


@pytest.mark.parametrize(
    ("versions", "level", "word"),
    [
        (GOOD, "ok", "mlflow 3.17.2"),
        (GOOD | {"tensorflow": "2.21.0"}, "ok", "tensorflow 2.21.0"),
        (GOOD | {"numpy": "3.0.0rc1"}, "ok", "numpy 3.0.0rc1"),
        (GOOD | {"mlflow": "3.18.0"}, "problem", "mlflow 3.18.0 is installed, and <3.18,>=3.17 is needed"),
        (GOOD | {"prefect": "3.8.8"}, "problem", "pip install 'prefect>=3.9.1'"),
        ({name: found for name, found in GOOD.items() if name != "numpy"}, "problem", "pip install 'numpy>=2'"),
    ],
)
def test_versions(versions: Mapping[str, str], level: str, word: str) -> None:
    finding = only(machine_checks.packages(versions.get, NEEDED))
    assert finding.level == level
    assert word in str(finding)


def test_the_versions_of_this_installation_are_good() -> None:
    assert only(machine_checks.packages()).level is Level.OK


@pytest.mark.parametrize(
    ("source", "level", "word"),
    [
        ("def f(trial): ...", "ok", "can be imported"),
        ("raise RuntimeError('on purpose')", "problem", "on purpose"),
        ("import absent_package", "problem", "absent_package"),
        ("import os; os._exit(4)", "problem", "exit code 4"),
        ("import ctypes; ctypes.string_at(0)", "problem", "SIGSEGV"),
        ("import time; time.sleep(600)", "problem", "longer than 1 s"),
        ("f = 3", "problem", "is not a function but 3"),
    ],
)
def test_objectives_are_imported_where_a_crash_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, level: str, word: str
) -> None:
    if "sleep" in source:
        monkeypatch.setattr(machine_checks, "IMPORT_SECONDS", 1.0)
    (tmp_path / "doctored.py").write_text(source)
    finding = only(machine_checks.objective(Objective("doctored:f", (str(tmp_path),))))
    assert (finding.level, word in finding.found) == (level, True), finding
    assert "doctored" not in sys.modules
    assert "\n" not in finding.found


def test_a_function_of_a_script_is_no_problem() -> None:
    assert only(machine_checks.objective(Objective("__main__:objective"))).level is Level.OK


def space(count: int = 1, **parameters: object) -> SearchSpace:
    numbered = {f"p{i}": {"type": "float", "low": 0, "high": 1} for i in range(count)}
    return make_spec(space=numbered | parameters, strategy="random").search_space


def test_the_longest_configuration_is_tried_on_the_store(store: MlflowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(space={"text": {"type": "choice", "choices": ["short", "x" * 5_900]}})
    assert seen(store_checks.scratch(store, spec)) == [("tracking store", "ok"), ("artifact store", "ok")]
    monkeypatch.setattr(store_checks, "longest_config", lambda space: {"text": "x" * 9_000})
    problem, _ = store_checks.scratch(store, spec)
    assert (problem.level, "cuts the longest values of text" in problem.found) == (Level.PROBLEM, True), problem


def test_limits() -> None:
    assert only(machine_checks.limits(space())).level is Level.OK
    many = only(machine_checks.limits(space(machine_checks.MANY_PARAMS + 1)))
    assert (many.level, "1001 params" in many.found) == (Level.WARNING, True)
    text = only(machine_checks.limits(space(text={"type": "choice", "choices": ["short", "x" * 5_900]})))
    assert (text.level, text.found) == (Level.OK, "2 params a trial, of at most 5900 characters")


class _Clock(BaseHTTPRequestHandler):
    shift: float | None = 0.0

    def do_HEAD(self) -> None:
        self.send_response_only(200)
        if self.shift is not None:
            self.send_header("Date", formatdate(time.time() + self.shift, usegmt=True))
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.parametrize(
    ("shift", "level", "word"),
    [
        (0.0, "ok", "within 5 s"),
        (60.0, "warning", "60 s ahead of"),
        (-60.0, "warning", "behind"),
        (None, "warning", "not tell the time"),
    ],
)
def test_clocks(monkeypatch: pytest.MonkeyPatch, shift: float | None, level: str, word: str) -> None:
    monkeypatch.setattr(_Clock, "shift", shift)
    with HTTPServer(("127.0.0.1", 0), _Clock) as server:
        threading.Thread(target=server.handle_request).start()
        finding = only(store_checks.clock(f"http://127.0.0.1:{server.server_port}"))
    assert (finding.level, word in finding.found) == (level, True), finding


def test_a_database_has_no_clock() -> None:
    assert "not applicable" in only(store_checks.clock("sqlite:///mlflow.db")).found
    assert only(store_checks.clock("http://me:secret@127.0.0.1:9")).level is Level.WARNING


# -- the study --------------------------------------------------------------------------------------------------


def test_another_schema_is_a_problem(ledger: Ledger) -> None:
    assert only(study_checks.schema(ledger)).level is Level.OK
    ledger.study.log({"hpo.schema": "0"})
    again = opening.find_study(ledger.store, ledger.spec.name)
    finding = only(study_checks.schema(again))
    assert (finding.level, "'0'" in finding.found) == (Level.PROBLEM, True)


def test_a_deleted_claims_run_is_a_problem(ledger: Ledger) -> None:
    assert only(study_checks.claims(ledger)).level is Level.OK
    ledger.store.delete_run(ledger.claims_run)
    finding = only(study_checks.claims(ledger))
    assert (finding.level, f"restore --run-id {ledger.claims_run}" in finding.remedy) == (Level.PROBLEM, True)


def test_a_damaged_study_is_a_problem(ledger: Ledger, tmp_path: Path) -> None:
    ledger.study.log({"hpo.spec": "{"})
    findings = list(examine(lambda: ledger.store, None, ledger.spec.name))
    (study,) = [finding for finding in findings if finding.check == "study"]
    assert (study.level, "stored specification" in study.found) == (Level.PROBLEM, True)


def test_several_flows_on_sqlite_are_warned_of(ledger: Ledger, mlflow_server: MlflowServer) -> None:
    for uri, level in ((ledger.store.uri, "warning"), (mlflow_server.uri, "ok")):
        store = connect(uri)
        flows = [open_study(store, ledger.spec) for _ in range(2)]
        reserve(flows[0])
        flows[1].owner = "another/1/2"  # on another machine, so that nobody here can say that it is gone
        flows[1].load()
        assert only(study_checks.parallel_flows(flows[1])).level is Level.OK
        reserve(flows[1])
        flows[0].load()
        finding = only(study_checks.parallel_flows(flows[0]))
        assert finding.level == level
        assert finding.found.startswith("2 flows")


def test_stale_trials_are_told_and_then_reaped(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = open_study(ledger.store, ledger.spec)
    gone.owner = f"{ownership._host()}/999999999/1"
    finish(gone, reserve(gone), 0.5)
    reserve(gone)
    slow = open_study(ledger.store, ledger.spec)
    slow.owner = "another/1/2"
    with monkeypatch.context() as patch:
        patch.setattr(ownership, "new_lease", lambda *_: "1")
        reserve(slow)
    alive = reserve(open_study(ledger.store, ledger.spec))

    ledger.load()
    told = list(study_checks.stale(ledger, repair=False))
    assert [(finding.level, finding.found) for finding in told] == [
        (Level.PROBLEM, "trial 1 does not run: its process is gone"),
        (Level.PROBLEM, "trial 2 does not run: its lease ran out"),
    ]
    assert len(ledger.load().running) == 3
    done = list(study_checks.stale(ledger, repair=True))
    assert [(finding.level, finding.found) for finding in done] == [
        (Level.OK, "trial 1 is ended as failed: its process is gone"),
        (Level.OK, "trial 2 is ended as failed: its lease ran out"),
    ]
    assert [trial.number for trial in ledger.load().running] == [alive.number]
    assert only(study_checks.stale(ledger, repair=True)).found == "none"


def test_repair_says_what_became_of_the_other_cases(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = {"mlflow.parentRunId": ledger.study_run.id, "hpo.role": "trial", "hpo.schema": "1", "hpo.lease": "1"}
    experiment = ledger.study_run.experiment
    finish(ledger, reserve(ledger), 0.5)
    loser = ledger.store.create_run(experiment, "loser", tags | {"hpo.number": "0"})
    damaged = ledger.store.create_run(experiment, "damaged", tags | {"hpo.number": "1", "hpo.config": "{"})
    late = open_study(ledger.store, ledger.spec)
    with monkeypatch.context() as patch:
        patch.setattr(ownership, "new_lease", lambda *_: "1")
        trial = reserve(late)
    ledger.load()
    finish(late, trial, 0.9)  # between load and reap
    assert {finding.found for finding in study_checks.stale(ledger, repair=True)} == {
        f"trial 0 had a second run, {loser.id}, which is deleted: its lease ran out",
        "trial 1 is ended as failed: its lease ran out",
        f"trial {trial.number} had ended in this very moment; its result stands",
    }
    assert ledger.store.get(damaged.id).status == FAILED


def test_dead_folds_of_the_final_choice_are_told_and_ended(store: MlflowStore) -> None:
    ledger = studied(store)
    (first, trial), (second, other), *_ = wanted(ledger, [])
    gone = open_study(store, ledger.spec)
    gone.owner = f"{ownership._host()}/999999999/1"
    held = FoldLedger(gone).reserve(first, trial)
    alive = FoldLedger(open_study(store, ledger.spec)).reserve(second, other)
    assert held is not None and alive is not None
    name = f"{evaluation_name(first)} of trial {trial.number}"
    for repair, level, found in (
        (False, Level.PROBLEM, f"{name} does not run: its process is gone"),
        (True, Level.OK, f"{name} is ended as failed: its process is gone"),
        (True, Level.OK, "none"),
    ):
        finding = only(study_checks.stale_folds(ledger, repair=repair))
        assert (finding.level, finding.found) == (level, found)
        assert store.get(held.run_id).status == (FAILED if repair else RUNNING)
    assert store.get(alive.run_id).status == RUNNING


def test_other_runs_are_counted_by_reason(ledger: Ledger) -> None:
    finish(ledger, reserve(ledger), 0.5)
    tags = {"mlflow.parentRunId": ledger.study_run.id}
    for name in ("one", "two"):
        ledger.store.create_run(ledger.study_run.experiment, name, tags)
    *_, finding = study_checks.trials(ledger, repair=False)
    assert finding.level is Level.WARNING
    assert finding.found == "2 runs are not trials and are skipped: 2 x it has no trial number"


def test_many_reasons_are_cut() -> None:
    line = skipped_line({str(i): f"reason {i}\n\x1b[31m" for i in range(10)})
    assert line.startswith("10 runs are not trials") and line.endswith("7 for other reasons") and line.isprintable()
    assert skipped_line({"a": "it has no trial number"}).startswith("1 run is not a trial and is skipped")


def test_results_on_disk_are_told(ledger: Ledger, tmp_path: Path) -> None:
    assert only(study_checks.waiting(ledger, tmp_path)).level is Level.OK
    Spool(tmp_path / "spool" / ledger.study_run.id).put(Report("run", status=FINISHED))
    assert only(study_checks.waiting(ledger, tmp_path)).level is Level.WARNING


# -- the command ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def hpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """The command line as a user calls it, but in this process: importing mlflow takes seconds."""

    def call(*arguments: str, uri: str = f"sqlite:///{tmp_path}/mlflow.db") -> Answer:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setattr(sys, "argv", ["hpo", *arguments])
        monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return Answer(int(end.value.code or 0), printed.out, printed.err)

    return call


def write(spec: StudySpec, folder: Path) -> str:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True), sort_keys=False))
    return str(path)


def test_the_command_answers_people_and_scripts(ledger: Ledger, tmp_path: Path, hpo: Callable[..., Answer]) -> None:
    gone = open_study(ledger.store, ledger.spec)
    gone.owner = f"{ownership._host()}/999999999/1"
    reserve(gone)
    ledger.store.create_run(ledger.study_run.experiment, "by hand", {"mlflow.parentRunId": ledger.study_run.id})

    path, name = write(ledger.spec, tmp_path), ledger.spec.name
    sick = hpo("doctor", path)
    assert sick.code == 1, sick.err
    assert "problem  stale trials    trial 0 does not run: its process is gone; hpo doctor" in sick.out
    repaired = hpo("doctor", name, "--repair", "--json")
    assert repaired.code == 0, repaired.out + repaired.err
    answer = json.loads(repaired.out)
    assert answer["healthy"] is True
    assert {"check", "level", "found", "remedy"} == set(answer["findings"][0])
    assert any(finding["found"].startswith("trial 0 is ended as failed") for finding in answer["findings"])

    status = hpo("status", name, "--json")
    assert json.loads(status.out)["skipped"] == 1
    status = hpo("status", name)
    assert status.err == "1 run is not a trial and is skipped: 1 x it has no trial number\n"
    for wrong in (["doctor", "absent"], ["doctor", "absent.yaml"]):
        refused = hpo(*wrong)
        assert refused.code == 2 and refused.err.startswith("error: "), refused.err


def test_the_command_needs_no_study_and_survives_a_store_that_is_down(hpo: Callable[..., Answer]) -> None:
    assert hpo("doctor").code == 0
    down = hpo("doctor", "study", uri="http://127.0.0.1:9")
    assert down.code == 1
    assert down.out.splitlines()[-1].startswith("problem  tracking store")
    assert "Traceback" not in down.err


def test_tune_says_once_what_it_skips(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from hpo_flows.api import running

    ledger.store.create_run(ledger.study_run.experiment, "by hand", {"mlflow.parentRunId": ledger.study_run.id})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "_run_flow", lambda *arguments: "nothing is run here")
    running.run(ledger, Objective(ledger.spec.objective))
    assert [record.getMessage() for record in caplog.records if record.name == "hpo"] == [
        f"{ledger.spec.name}: 1 run is not a trial and is skipped: 1 x it has no trial number"
    ]
    assert RUNNING not in {
        run.status for run in ledger.store.search([ledger.study_run.experiment], {"hpo.role": "study"})
    }


def test_results_that_mlflow_refused_are_told(ledger: Ledger, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool" / ledger.study_run.id)
    spool.put(Report("0" * 32, status=FINISHED))
    assert spool.deliver(ledger) == 0
    finding = only(study_checks.waiting(ledger, tmp_path))
    assert finding.level is Level.WARNING and "MLflow refused 1 results" in finding.found
