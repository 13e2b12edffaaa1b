"""The report: its plots from a history, its files in MLflow, Prefect's view, and the page in a real browser."""

from __future__ import annotations

import json
import logging
import math
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.lineage.opening import open_study
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_flows.api import open_ledger, run
from hpo_flows.cli.app import app
from hpo_flows.objectives.reference import Objective
from hpo_flows.reports.html.figures import DRAWN, Past, fidelity_spent, incumbents, lanes, rungs
from hpo_flows.reports.html.importance import importance
from hpo_flows.reports.html.publish import Publisher, best_so_far, write_report
from tests.browser import browsing, needs_chromium
from tests.conftest import PATIENCE, wait_until
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.memory_store import MemoryStore

ROOT = Path(__file__).parents[3]
LARGEST = sys.float_info.max
ALL = {
    "history", "importance", "parallel", "slices", "contour", "edf", "timeline", "rungs", "predictions", "fidelity",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPO_REPORT")


def spec_of(**changes: Any) -> StudySpec:
    data = {
        "name": "drawn",
        "objective": "nowhere:train",
        "metric": "accuracy",
        "direction": "maximize",
        "space": {
            "rate": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
            "units": {"type": "int", "low": 8, "high": 64, "step": 8},
            "kind": {"type": "choice", "choices": ["<b>adam</b>", "$sgd$", None]},
            "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"kind": ["$sgd$"]}},
        },
        "stop": {"trials": 40},
    }
    return study_from(data | changes)


def drawn_history(spec: StudySpec, trials: int = 40, fidelities: tuple[float | None, ...] = (1.0, 3.0)) -> History:
    """A study in two slots in which the rate matters most, with failures, a gap and a trial that still runs."""
    rng, made, free = random.Random(1), [], [1_700_000_000_000] * 2
    for number in range(trials):
        config = spec.search_space.decode(np.array([rng.random() for _ in spec.search_space.free]))
        rate = config["rate"]
        assert isinstance(rate, float)
        loss = (math.log10(rate) + 2.5) ** 2 + 0.2 * rng.random()
        slot = free.index(min(free))
        start, end = free[slot], free[slot] + rng.randint(1_000, 9_000)
        free[slot] = end + (60_000 if number == 20 else 50)
        state = TrialState.COMPLETE if number % 9 != 5 else TrialState.FAILED
        if number == trials - 1:
            state = TrialState.RUNNING
        made.append(
            Trial(
                number,
                config,
                state,
                loss if state is TrialState.COMPLETE else None,
                fidelity=fidelities[number % len(fidelities)],
                notes={"predicted_mean": str(loss + 0.1)},
                reason="</script><script>window.broken = 1</script>" if state is TrialState.FAILED else "",
                start=start,
                end=None if state is TrialState.RUNNING else end,
                owner="host/1/1",
                run_id=f"r{number}",
            )
        )
    return History(made)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of a study that has everything."""
    folder = tmp_path_factory.mktemp("report")
    write_report(spec_of(), drawn_history(spec_of()), folder)
    return folder


def plots_in(report: Path) -> list[dict[str, Any]]:
    """The figures that a report holds."""
    page = report.read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(page.partition('id="plots">')[2].partition("</script>")[0])
    return found


def test_every_plot_is_drawn_where_the_history_has_it(written: Path) -> None:
    assert {plot["name"] for plot in plots_in(written / "report.html")} == ALL
    plain = Past(spec_of(), drawn_history(spec_of(), fidelities=(None,)), None)
    assert {plot.name for draw in DRAWN if (plot := draw(plain))} == ALL - {
        "rungs",
        "fidelity",
        "importance",
        "contour",
    }


@pytest.mark.parametrize("trials", [0, 2])
def test_a_young_study_has_a_report_too(trials: int, tmp_path: Path) -> None:
    spec = spec_of()
    assert write_report(spec, drawn_history(spec, trials), tmp_path).stat().st_size > 1_000_000
    nothing = History(Trial(n, {"rate": 0.1}, TrialState.FAILED, reason="no", start=1, end=2) for n in range(trials))
    write_report(spec, nothing, tmp_path)


def test_losses_near_the_largest_float_are_drawn(tmp_path: Path) -> None:
    spec = spec_of(space=spec_of().space | {"rate": {"type": "float", "low": -1e299, "high": 9e299}})
    rng = np.random.default_rng(1)
    losses = [LARGEST, -LARGEST, 0.0, 1.0, 1e200, 5e-324] * 4
    history = History(
        Trial(
            number,
            spec.search_space.decode(rng.random(spec.search_space.dimensions)),
            TrialState.COMPLETE,
            loss,
            fidelity=float(1 + number % 2),
            notes={"predicted_mean": str(-loss), "predicted_std": "1e308"},
            start=1 + number,
            end=2 + number,
            run_id=f"r{number}",
        )
        for number, loss in enumerate(losses)
    )
    path = write_report(spec, history, tmp_path)
    assert "accuracy = -1.79769e+308" in path.read_text(encoding="utf-8")
    figures = plots_in(path)
    assert {plot["name"] for plot in figures} == ALL
    drawn = [v for figure in figures for trace in figure["data"] for v in trace.get("y") or [] if isinstance(v, float)]
    assert max(map(abs, drawn)) <= 1e100


def test_nothing_that_people_wrote_is_run_or_fetched(written: Path) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    assert "<script>window.broken" not in text and "<td><b>adam</b>" not in text
    assert "&lt;b&gt;adam" in text
    figures = json.loads(text.partition('id="plots">')[2].partition("</script>")[0])
    assert "<b>adam" not in json.dumps(figures), "plotly reads a few tags wherever it writes"
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"(?!data:)", text)


def test_importance_finds_what_matters_and_says_its_spread() -> None:
    spec = spec_of()
    found = importance(spec.search_space, drawn_history(spec))
    assert found is not None
    assert found.names[0] == "rate"
    assert found.mean[0] > 3 * abs(found.mean[1]) and (found.spread >= 0).all() and found.spread[0] > 0
    assert importance(spec.search_space, drawn_history(spec, 8)) is None


def test_the_learning_curves_hold_rungs_and_what_a_promotion_added() -> None:
    def trial(number: int, config: dict[str, float], **rest: Any) -> Trial:
        return Trial(number, config, TrialState.COMPLETE, -0.5 - number / 10, start=1, end=number + 2, **rest)

    trials = [
        trial(0, {"rate": 0.1}, fidelity=3.0, rungs={1: -0.2}),
        trial(1, {"rate": 0.1}, fidelity=9.0, parent=0, notes={"continued": "yes"}),
        trial(2, {"rate": 0.2}, fidelity=3.0),
    ]
    past = Past(spec_of(), History(trials), None)
    curves, spent = rungs(past), fidelity_spent(past)
    assert curves is not None and spent is not None
    assert curves.figure.data[0].x == (1.0, 3.0, 9.0, None, 3.0, None)
    assert curves.figure.data[0].y == (0.2, 0.5, 0.6, None, 0.7, None)
    assert list(spent.figure.data[0].y) == [3.0, 9.0, 12.0]


def test_a_trial_stands_in_the_slot_that_was_free() -> None:
    def trial(number: int, start: int, end: int, owner: str) -> Trial:
        return Trial(number, {}, TrialState.COMPLETE, 0.0, start=start, end=end, owner=owner)

    trials = [trial(0, 10, 30, "a"), trial(1, 12, 20, "a"), trial(2, 25, 40, "a"), trial(3, 26, 28, "b")]
    assert lanes(trials) == {0: (1, 1), 1: (1, 2), 2: (1, 2), 3: (2, 1)}


def test_the_curve_of_the_incumbent_ends_where_a_trial_still_runs() -> None:
    spec = spec_of()

    def trial(number: int, loss: float | None) -> Trial:
        state = TrialState.RUNNING if loss is None else TrialState.COMPLETE
        return Trial(number, {"rate": 0.1}, state, loss, start=1, end=None if loss is None else 100 + number)

    history = History([trial(0, -0.5), trial(1, -0.7), trial(2, -0.6), trial(3, None), trial(4, -0.9)])
    points = best_so_far(spec, history)
    assert [(point.step, point.value, point.timestamp) for point in points] == [
        (0, 0.5, 100),
        (1, 0.7, 101),
        (2, 0.7, 102),
    ]
    assert incumbents(history)[-1] == history.incumbent


def test_the_report_is_published_once_for_each_state_of_the_study() -> None:
    store = MemoryStore()
    ledger = open_study(store, make_spec(strategy="random"))
    publisher = Publisher(ledger)
    publisher.finish(ledger.load())
    assert not store.artifacts
    for score in (0.1, 0.4, 0.3):
        finish(ledger, reserve(ledger), score)
    publisher.finish(ledger.load())
    study = ledger.study_run.id
    assert (study, "report.html") in store.artifacts
    assert store.runs[study].metrics["best_so_far"] == 0.4
    before = len(store.requests)
    publisher.finish(ledger.history())
    assert len(store.requests) == before
    finish(ledger, reserve(ledger), 0.2)
    history = ledger.load()
    before = len(store.requests)
    publisher.finish(history)
    assert store.requests[before:] == ["log", "upload", "log"]


def test_a_report_that_cannot_be_written_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(operation: str) -> None:
        if operation == "upload":
            raise PermissionError("full")

    store = MemoryStore(before=refuse)
    ledger = open_study(store, make_spec(strategy="random"))
    publisher = Publisher(ledger)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            finish(ledger, reserve(ledger), 0.5)
            publisher.finish(ledger.load())
    told = [record.message for record in caplog.records if record.name == "hpo"]  # other threads may warn, too
    assert [message.endswith("PermissionError: full") for message in told] == [True]


def told_in_prefect(flow_run: str) -> list[str]:
    """The log of a flow run, once it has the end of the study; before that, nothing."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as prefect:
        mine = {"logs": {"flow_run_id": {"any_": [flow_run]}}}
        lines = [log["message"] for log in prefect.request("POST", "/logs/filter", json=mine).json()]
    return lines if any("ends: all 4 trials are done" in line for line in lines) else []


@pytest.mark.usefixtures("prefect_server")
def test_a_study_leaves_its_report_in_mlflow_and_its_view_in_prefect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_UI_URL, temporary_settings

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr("hpo_flows.reports.html.publish.EVERY_SECONDS", 0.0)  # in the background, too
    spec = study_from(
        {
            "name": "Shown_1",
            "objective": "tests.objectives:quick",
            "metric": "loss",
            "direction": "minimize",
            "space": {"x": {"type": "float", "low": 0, "high": 1}},
            "stop": {"trials": 4},
            "parallel": 2,
        }
    )
    with temporary_settings({PREFECT_UI_URL: "http://prefect.test"}):
        result = run(open_ledger(spec), Objective(spec.objective, (str(ROOT),)))
    client = MlflowClient(result.tracking_uri)
    assert "report.html" in {file.path for file in client.list_artifacts(result.run_id)}
    curve = sorted((point.step, point.value) for point in client.get_metric_history(result.run_id, "best_so_far"))
    assert [step for step, _ in curve] == [0, 1, 2, 3]
    assert curve[-1][1] == result.best_value
    study, trial = client.get_run(result.run_id), client.get_run(result.history.trials[0].run_id)
    assert study.data.tags["hpo.flow_run_url"].startswith("http://prefect.test/runs/flow-run/")
    assert trial.data.tags["hpo.task_run_url"] == f"http://prefect.test/runs/task-run/{trial.data.tags['hpo.task_run']}"
    with get_client(sync_client=True) as prefect:  # its own read_artifacts sends nulls that its server refuses
        artifacts = {each["key"]: each for each in prefect.request("POST", "/artifacts/filter", json={}).json()}
    assert artifacts["shown-1-progress"]["data"] == 100.0
    table = artifacts["shown-1-best"]["data"]
    assert all(artifacts[key]["description"] for key in ("shown-1-progress", "shown-1-best"))
    flow_run = study.data.tags["hpo.flow_run_url"].rpartition("/")[2]
    assert {artifacts[key]["flow_run_id"] for key in ("shown-1-progress", "shown-1-best")} == {flow_run}
    assert result.best is not None and result.best.run_id[:8] in table
    story = wait_until(lambda: told_in_prefect(flow_run), "the end of the study is not in the flow run's log")
    for number in range(4):
        assert any(f"trial {number}  loss" in line for line in story)
    assert any(f"trial {result.best.number} " in line and "* best" in line for line in story)

    out = CliRunner().invoke(app, ["report", "Shown_1", "--out", str(tmp_path / "here")])
    assert (out.exit_code, (tmp_path / "here" / "report.html").exists()) == (0, True), out.output


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_the_report_opens_in_a_browser_without_a_network(scheme: str, width: int, written: Path) -> None:
    wrong: list[str] = []
    drawn = "document.querySelectorAll('.plot[data-drawn]').length === document.querySelectorAll('.plot').length"
    viewport = {"width": width, "height": 800}
    with browsing(viewport=viewport, color_scheme=scheme, offline=True) as page:
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(r.url))
        page.goto((written / "report.html").as_uri())
        page.wait_for_function(drawn, timeout=1000 * PATIENCE)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#history .scatterlayer .point").count() > 20
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert wrong == []
    assert (sum(json.loads(back.replace("rgb(", "[").replace(")", "]"))) > 380) == (scheme == "light")
