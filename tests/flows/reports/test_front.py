"""What is shown of a study with several metrics: its front wherever one best trial stands with one metric."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.store import FINISHED, Metric
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.opening import open_study
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.connection import connect, create
from hpo_flows.base.progress import Progress
from hpo_flows.cli.app import app
from hpo_flows.reports.description import study_description
from hpo_flows.reports.ending import Places
from hpo_flows.reports.export import columns, rows
from hpo_flows.reports.html.figures import past_of, plots, plots_by_metric
from hpo_flows.reports.html.publish import Publisher
from hpo_flows.reports.live import LiveProgress
from hpo_flows.reports.news import News, trial_line
from hpo_flows.reports.notify import Notifier
from hpo_flows.reports.terminal import print_summary
from hpo_flows.reports.text import certainty_lines, status_line
from hpo_flows.results import StudyResult, load_study
from tests.flows.reports.test_study_report import SERVER, data_in, write_report
from tests.memory_store import MemoryStore
from tests.studies import make_spec

TWO = {"val_accuracy": "maximize", "latency_ms": "minimize"}
THREE = {**TWO, "size_mb": "minimize"}

POINTS = (
    (0.90, 40.0, 4.0),
    (0.80, 5.0, 5.0),
    (0.85, 10.0, 9.0),
    (0.70, 30.0, 8.0),
    (0.99, 90.0, 9.5),
    (0.70, 6.0, 9.0),
)
"""Accuracy, latency and size of each trial: 3 and 5 are dominated, also with the size."""

FRONT = [4, 0, 2, 1]


def spec_of(metrics: dict[str, str] = TWO, **changes: Any) -> StudySpec:
    space = {"units": {"type": "int", "low": 1, "high": 99}, "rate": {"type": "float", "low": 0, "high": 1}}
    data = {"name": "several", "objective": "nowhere:train", "metrics": metrics, "space": space, "stop": {"trials": 6}}
    return study_from(data | changes)


def trial_of(spec: StudySpec, number: int, values: tuple[float, ...]) -> Trial:
    losses = tuple(each.loss(value) for each, value in zip(spec.objectives, values, strict=False))
    metrics = dict(zip(THREE, values, strict=False))
    notes = {"predicted_mean": str(losses[0] + 0.1), "predicted_mean_2": str(losses[1] + 1), "strategy": "bayesian"}
    return Trial(
        number, {"units": 10 + number, "rate": number / 100}, TrialState.COMPLETE, losses[0], losses=losses,
        metrics=metrics, notes=notes, start=1 + number, end=2 + number, owner="me", run_id=f"r{number}",
    )  # fmt: skip


def history_of(spec: StudySpec, count: int = len(POINTS)) -> History:
    return History(trial_of(spec, number, values) for number, values in enumerate(POINTS[:count]))


def test_a_status_and_each_trial_tell_all_metrics_and_the_front() -> None:
    spec, news = spec_of(), News()
    assert "front of 4, hypervolume " in status_line(spec, history_of(spec), 0.0)
    news.look(history_of(spec, 2))
    lines = [trial_line(spec, ended) for ended in news.look(history_of(spec))]
    assert lines[0].startswith("trial 2  val_accuracy 0.85, latency_ms 10  * front in 0")
    assert [" * front" in line for line in lines] == [True, False, True, False]


def shown(spec: StudySpec, history: History, width: int = 80) -> str:
    console = Console(width=width, force_terminal=False, record=True, file=io.StringIO())
    print_summary(spec, history, "all 6 trials are done", Places("", ""), console)
    return console.export_text()


def test_the_ending_has_the_front_and_how_to_choose_from_it() -> None:
    text = shown(spec_of(), history_of(spec_of()))
    assert "Pareto front of several: 4 trials, hypervolume" in text
    assert [int(line.split("│")[1]) for line in text.splitlines() if line.startswith("│")] == FRONT
    assert "Trial 0, the compromise, nearest to the best value in each metric:" in text
    assert 'hpo best several --prefer "latency_ms <= 40"' in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_front_out_of_the_limits_says_so() -> None:
    spec = spec_of(limits={"size_mb": "<= 1"})
    history = History(
        Trial(t.number, t.config, t.state, t.loss, losses=t.losses, metrics=t.metrics, excess={"size_mb": 8.0})
        for t in history_of(spec)
    )
    assert "# no trial keeps all limits; trial 0 comes closest, and breaks size_mb <= 1 (9)" in shown(spec, history)
    assert "none keeps the limits, closest trial 0" in status_line(spec, history, 0.0)


def test_what_was_trained_less_may_keep_the_limits() -> None:
    fidelity = {"name": "epochs", "min": 1, "max": 9}
    spec = make_spec(limits={"size_mb": "<= 1"}, fidelity=fidelity, strategy="hyperband")
    large, small = {"size_mb": 8.0}, {"size_mb": -0.5}
    history = History(
        Trial(i, {"x": 0.5}, TrialState.COMPLETE, 1.0, epochs, excess=excess)
        for i, (epochs, excess) in enumerate([(3.0, small), (9.0, large)])
    )
    assert certainty_lines(spec, history) == [
        "no trial with 9 epochs keeps all limits; trial 1 comes closest, and breaks size_mb <= 1 (9)"
    ]
    assert "none with 9 epochs keeps the limits, closest trial 1" in status_line(spec, history, 0.0)


def test_the_live_view_has_the_front_and_where_it_reaches() -> None:
    spec = spec_of()
    live = LiveProgress(spec, Console(width=80, file=io.StringIO()))
    live(Progress(history_of(spec), 1.0))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(live._view(80, 24))
    assert "front of 4, hypervolume " in (text := console.export_text())
    assert "val_accuracy 0.99 to 0.8  |  latency_ms 5 to 90" in text


def test_a_description_lists_the_front() -> None:
    text = study_description(spec_of(), history_of(spec_of()))
    assert "maximize `val_accuracy`, minimize `latency_ms`" in text
    assert "| 4 | 0.99 | 90 |" in text and "| 3 |" not in text


def test_a_table_of_trials_says_which_are_on_the_front() -> None:
    spec, history = spec_of(), history_of(spec_of())
    table = rows(spec, history)
    assert all(list(row) == columns(spec, history) for row in table)
    assert [row["number"] for row in table if row["on_front"]] == sorted(FRONT)
    assert "value" not in table[0] and list(table[0]).index("metrics.latency_ms") > 0


def test_messages_tell_each_new_point_of_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, told = spec_of(), list[tuple[str, dict[str, Any]]]()
    notifier = Notifier(spec, owner="me")
    monkeypatch.setattr(notifier, "tell", lambda event, text, history, **facts: told.append((text, facts)))
    for count in (1, 2, 4, 6):
        notifier.observe(Progress(history_of(spec, count), 1.0))
    assert [facts["trial"] for _, facts in told] == [1, 2, 4]
    assert told[0][0] == "new on the front: val_accuracy 0.8, latency_ms 5 (trial 1)"
    payload = notifier._payload("finished", "", history_of(spec))
    assert (payload["metric"], payload["value"], payload["metrics"]) == (None, None, TWO)
    assert [point["trial"] for point in payload["front"]] == FRONT
    assert payload["values"] == {"val_accuracy": 0.9, "latency_ms": 40.0}


def test_a_result_has_each_point_and_the_one_that_is_preferred() -> None:
    spec = spec_of()
    result = StudyResult(spec, history_of(spec), "", "sqlite:///nowhere.db", "run")
    assert [point.best.number for point in result.pareto if point.best] == FRONT
    assert result.best_values == {"val_accuracy": 0.9, "latency_ms": 40.0}
    assert result.prefer("latency_ms <= 5").best_config == {"units": 11, "rate": 0.01}
    assert "front of 4, in its middle val_accuracy 0.9, latency_ms 40 (trial 0)" in repr(result)
    with pytest.raises(ValueError, match="several metrics; read best_values"):
        _ = result.best_value
    with pytest.raises(InputError, match=r"latency_ms <= 1 \(nearest: 5\)"):
        result.prefer("latency_ms <= 1")


def test_a_report_draws_the_front_and_everything_else_by_each_metric(tmp_path: Path) -> None:
    random.seed(1)
    spec = spec_of(THREE)
    points = [*POINTS, *(tuple(random.uniform(0.1, 9) for _ in range(3)) for _ in range(20))]
    history = History(trial_of(spec, number, (v[0], v[1], v[2])) for number, v in enumerate(points))
    data = data_in(write_report(spec, history, tmp_path, SERVER))
    names = [plot["name"] for plot in data["plots"]]
    assert len(set(names)) == len(names)
    assert {"front-0", "front-1", "front-2", "hypervolume", "slice-0", "slice-0-by-1", "slice-0-by-2"} <= set(names)
    assert "history" not in names
    assert data["trials"][0]["v"] == [0.9, 40.0, 4.0]
    assert data["best"] == [trial.number for trial in history.front]
    expected = data["trials"][0]["notes"]
    assert (expected["predicted_mean val_accuracy"], expected["predicted_mean latency_ms"]) == (0.8, 41.0)


def test_a_view_by_one_metric_has_its_values_and_expectations() -> None:
    spec = spec_of()
    past = past_of(spec, history_of(spec))
    by_accuracy, by_latency = past.views
    assert (by_latency.spec.metric, by_latency.spec.sign, by_latency.spec.metrics) == ("latency_ms", 1, {})
    assert by_latency.best[0].number == 1 and by_accuracy.best[0].number == 4
    predicted = [each["predictions"][0].data[1]["x"][0] for _, each in plots_by_metric(past)]
    assert predicted == [0.8, 41.0]
    (front,) = plots(past)["pareto_front"]
    drawn = {trace["name"]: trace["customdata"] for trace in front.data if "customdata" in trace}
    assert drawn == {"dominated": [3, 5], "Pareto front": FRONT, "compromise": [0]}


def test_a_report_of_one_or_no_trial_is_written(tmp_path: Path) -> None:
    for count in (0, 1):
        write_report(spec_of(), history_of(spec_of(), count), tmp_path)


def stored(ledger: Ledger) -> Ledger:
    """A study with the trials of POINTS."""
    for values in POINTS:
        history = ledger.load()
        trial = ledger.reserve(ledger.spec.propose(history, 1)[0], history)
        assert trial is not None
        metrics = [Metric(name, value, 1, 0) for name, value in zip(THREE, values, strict=True)]
        params = ledger.spec.search_space.to_params(trial.config)
        ledger.write(Report(trial.run_id, metrics, params, {Tag.RESULT: "val_accuracy"}, FINISHED))
        ledger.release(trial)
    return ledger


def test_mlflow_gets_the_front_as_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPO_REPORT")
    ledger = stored(open_study(MemoryStore(), spec_of()))
    Publisher(ledger).publish(ledger.load())
    run = ledger.store.get(ledger.study_run.id)
    assert run.tags[Tag.FRONT] == "4 0 2 1"
    assert json.loads(run.tags["mlflow.loggedArtifacts"]) == [{"path": "pareto.json", "type": "table"}]
    table = json.loads(ledger.store.download(run.id, "pareto.json") or b"{}")
    assert table["columns"] == ["trial", "val_accuracy", "latency_ms", "units", "rate", "run_id"]
    text = (ledger.store.download(run.id, "pareto.csv") or b"").decode()
    assert [row[:3] for row in csv.reader(text.splitlines())][1] == ["4", "0.99", "90.0"]


def test_the_commands_show_and_choose_from_the_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    create(tmp_path / "mlflow.db")
    stored(open_study(connect(), spec_of()))
    runner = CliRunner()

    def said(*arguments: str) -> Any:
        done = runner.invoke(app, list(arguments))
        assert done.exit_code == 0, done.output
        return json.loads(done.output) if "--json" in arguments else done.output

    best = said("best", "several", "--json")
    assert (best["trial"], [point["trial"] for point in best["front"]]) == (0, FRONT)
    wish = ("--prefer", "latency_ms <= 50", "--prefer", "val_accuracy >= 0.9")
    assert said("best", "several", *wish, "--json")["trial"] == 0
    assert "Trial 1, preferred by latency_ms=1:" in said("best", "several", "--prefer", "latency_ms=1")
    assert said("best", "several", "--yaml", "--prefer", "latency_ms <= 5").startswith("first:\n  - units: ")
    status = said("status", "several", "--json")
    assert (status["best"], status["metrics"], len(status["front"])) == (None, TWO, 4)
    (listed,) = said("list", "--json")["studies"]
    assert (listed["metric"], len(listed["front"])) == (None, 4)
    assert "front of 4" in said("list")
    assert len(said("export", "several", "--front").splitlines()) == 5
    assert "(val_accuracy 0.85, latency_ms 10)" in said("explain", "several", "2")
    assert [point.best.number for point in load_study("several").pareto if point.best] == FRONT
