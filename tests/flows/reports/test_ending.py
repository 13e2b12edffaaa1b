"""Where the outcome of a study is said to be, and that it is there."""

from __future__ import annotations

import html
import importlib
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo_core.base.errors import InputError, StudyFailed
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal
from hpo_core.ledger.ledger import Report
from hpo_core.ledger.store import FINISHED, Metric, Store
from hpo_core.ledger.study_run import why_ended
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.opening import find_study
from hpo_core.study.yaml import parse_yaml
from hpo_core.tracking.connection import connect
from hpo_flows.api import open_ledger
from hpo_flows.api.running import break_off
from hpo_flows.base.stopping import Stopped
from hpo_flows.loop import tune as loop
from hpo_flows.loop.stages import Stages
from hpo_flows.reports.ending import as_yaml, model_lines, places_of, serve_line, write_best
from hpo_flows.reports.html import publish
from hpo_flows.reports.html.curves import CurveReader
from hpo_flows.reports.html.publish import SWITCH, Publisher, place_of, write_report
from tests.conftest import PATIENCE
from tests.flows.reports.test_report import study_of
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import called, make_spec, start, tune, wait_for_complete, write_study

ODD = ["yes", "null", "1e3", "~", "a: b", "# c", "-", "01", "No", "1:30", ".5", "\u2028", "\x85"]
texts = st.text(max_size=12) | st.sampled_from(ODD)
values = texts | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(texts, values, max_size=4))
@settings(max_examples=300)
def test_a_configuration_reads_back_from_yaml_of_either_version(config: dict[str, object]) -> None:
    text = "\n".join(as_yaml(config)) or "{}"
    assert yaml.safe_load(text) == config  # version 1.1
    assert parse_yaml(text) == config
    assert list(map(type, parse_yaml(text).values())) == list(map(type, config.values()))


def test_the_best_configuration_is_a_file() -> None:
    spec, history, _ = study_of("relu")
    best = history.complete[0]
    assert write_best(spec, best, None) == f"best-{spec.name}.yaml"
    text = Path(f"best-{spec.name}.yaml").read_text()
    assert text.startswith(f"# study {spec.name}, trial 0: {spec.metric} ")
    assert parse_yaml(text) == best.config


def test_a_folder_that_cannot_be_written_is_a_warning() -> None:
    spec, history, _ = study_of("relu")
    Path(f"best-{spec.name}.yaml").mkdir()
    said = write_best(spec, history.complete[0], None)
    assert said == f"warning: best-{spec.name}.yaml cannot be written: Is a directory"


def told(store: Store, folder: Path) -> tuple[str, str]:
    """The status of the run of the study called study, and why it ended, as its run and a new report say."""
    ledger = find_study(store, "study")
    history, run = ledger.load(), ledger.study_run
    why = why_ended(run, history)
    curves = CurveReader(store, ledger.spec).read(history)
    report = write_report(ledger.spec, history, folder, place_of(ledger), curves, None, None, why)
    assert f"It ended: {why}." in html.unescape(report.read_text())
    return run.status, why


ENDS = {
    "Ctrl-C": (KeyboardInterrupt(), "KILLED", "it was interrupted"),
    "SIGTERM": (Stopped(signal.SIGTERM), "KILLED", "it was interrupted"),
    "an error": (InputError("limits.ms", "it's missing", "return it"), "FAILED", "limits.ms: it's missing; return it"),
    "failures": (StudyFailed("the first 3 trials all failed\n  Traceback"), "FAILED", "the first 3 trials all failed"),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_broke_a_study_off_stands_in_its_run_and_its_report(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(publish, "SOON_SECONDS", PATIENCE)
    error, *expected = ENDS[end]
    ledger = open_ledger(make_spec("slow"))
    running = ledger.reserve(Proposal({"x": 0.5}), History())
    broken_off = partial(break_off, ledger, Stages(ledger), Publisher(ledger), error)
    broken_off()
    assert find_study(connect(), "study").study_run.tags.get(Tag.ENDED) is None, "another flow works on it"
    assert running is not None
    ledger.write(Report(running.run_id, [Metric("loss", 1.0, 1)], {"x": "0.5"}, {Tag.RESULT: "loss"}, FINISHED))
    ledger.release(running)
    broken_off()
    assert told(connect(), tmp_path) == tuple(expected)
    stored = connect().download(ledger.study_run.id, "report.html")
    assert stored is not None and expected[1] in html.unescape(stored.decode())


@pytest.mark.parametrize("trouble", ["it hangs", "it raises"])
def test_a_last_report_after_ctrl_c_neither_holds_up_nor_raises(
    trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(publish, "SOON_SECONDS", 0.2)
    ledger, over = open_ledger(make_spec("slow")), threading.Event()
    running = ledger.reserve(Proposal({"x": 0.5}), History())
    assert running is not None
    ledger.write(Report(running.run_id, [Metric("loss", 1.0, 1)], {"x": "0.5"}, {Tag.RESULT: "loss"}, FINISHED))
    ledger.release(running)

    def write(*given: object) -> None:
        if trouble == "it raises":
            raise SystemError("no more threads")
        over.wait(PATIENCE)

    monkeypatch.setattr(Publisher, "publish", write)
    began = time.monotonic()
    break_off(ledger, Stages(ledger), Publisher(ledger), KeyboardInterrupt())
    assert (time.monotonic() - began < PATIENCE / 2) and not caplog.records
    over.set()
    assert find_study(connect(), "study").study_run.status == "KILLED"


def test_an_error_of_any_kind_stands_in_the_study_that_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(session: object) -> None:
        raise KeyError("ms")

    monkeypatch.setattr(loop, "run_loop", fail)
    with pytest.raises(KeyError):
        tune(make_spec(parallel=1, isolation="none"))
    run = find_study(connect(), "study").study_run
    assert (run.status, run.tags[Tag.ENDED]) == ("FAILED", "0: KeyError: 'ms'")


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code", "status", "why"),
    [
        ("stop", 0, "FINISHED", "hpo stop was called"),
        ("minutes", 0, "FINISHED", "0.05 minutes are over"),
        ("Ctrl-C", 130, "KILLED", "it was interrupted"),
        ("SIGTERM", 143, "KILLED", "it was interrupted"),
        ("error", 1, "FAILED", "the first "),
    ],
)
def test_a_flow_that_ends_says_why(
    end: str, code: int, status: str, why: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rules = {"minutes": 0.05} if end == "minutes" else {"trials": 500}
    flow = start(write_study(tmp_path, "broken" if end == "error" else "slow", stop=rules, repeats="off"))
    if end in ("stop", "Ctrl-C", "SIGTERM"):
        wait_for_complete(2)
    if end == "stop":
        assert called(["stop", "study"], monkeypatch, capsys)[0] == 0
    elif end in ("Ctrl-C", "SIGTERM"):
        flow.send_signal(signal.SIGINT if end == "Ctrl-C" else signal.SIGTERM)
    output, _ = flow.communicate(timeout=PATIENCE)
    assert flow.returncode == code, output
    ledger = find_study(connect(), "study")
    said = why_ended(ledger.study_run, ledger.load())
    assert ledger.study_run.status == status and said.startswith(why)
    assert called(["status", "study"], monkeypatch, capsys)[1].endswith(f"  |  ended: {said}\n")
    assert called(["report", "study", "--out", "here"], monkeypatch, capsys)[0] == 0
    shown = "It ended: every trial failed with the same error." if end == "error" else f"It ended: {said}."
    assert shown in html.unescape(Path("here/report.html").read_text())


@pytest.mark.filterwarnings("ignore")  # MLflow's own
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.slow
def test_the_best_trials_model_is_named_and_loads() -> None:
    spec = make_spec("wine", metric="accuracy", direction="maximize", stop={"trials": 2}, space={
        "max_depth": {"type": "int", "low": 1, "high": 8},
    })  # fmt: skip
    result = tune(spec)
    ledger = find_study(connect(), spec.name)
    assert result.best is not None
    places = places_of(ledger, result.history, result.best, None)
    assert places.ui == "hpo ui study" and places.file == "best-study.yaml"
    assert places.model is not None and places.model.uri == f"runs:/{result.best.run_id}/model"
    assert places.model.uri in serve_line(places.model)
    first, second = model_lines(places.model)
    assert first == "import mlflow.sklearn" and second.startswith("model = mlflow.sklearn.load_model(")
    model = importlib.import_module("mlflow.sklearn").load_model(places.model.uri)
    assert model.get_params()["max_depth"] == result.best.config["max_depth"]


@pytest.mark.usefixtures("prefect_server")
def test_without_a_model_none_is_named() -> None:
    result = tune(make_spec(stop={"trials": 1}))
    assert places_of(find_study(connect(), "study"), result.history, result.best, None).model is None
