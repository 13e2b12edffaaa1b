"""The report: its plots from a history, its files in MLflow, and Prefect's view."""

from __future__ import annotations

import json
import logging
import math
import random
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hpo_core.history.history import History
from hpo_core.history.spending import spent
from hpo_core.history.trial import Trial, TrialState
from hpo_core.lineage.opening import open_study
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_flows.api import open_ledger, run
from hpo_flows.cli.app import app
from hpo_flows.objectives.reference import Objective
from hpo_flows.reports.html.cards import failures_card, importance_card, space_card
from hpo_flows.reports.html.curves import Curves
from hpo_flows.reports.html.figures import plots, plots_by_metric
from hpo_flows.reports.html.figures.durations import lanes
from hpo_flows.reports.html.figures.importance import Importance, importance
from hpo_flows.reports.html.figures.learning import learning_curves
from hpo_flows.reports.html.figures.parameters import interplay
from hpo_flows.reports.html.figures.past import Past, Plot, incumbents
from hpo_flows.reports.html.figures.progress import best_by_cost, fidelity_spent, optimisation_history
from hpo_flows.reports.html.findings import WIDER, edges, failures, remarks, status, time_spent
from hpo_flows.reports.html.place import Place
from hpo_flows.reports.html.publish import Publisher, best_so_far, write_report
from tests.conftest import wait_until
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.memory_store import MemoryStore

ROOT = Path(__file__).parents[3]
LARGEST = sys.float_info.max
ALL = {
    "history", "rungs", "parallel", "slice-0", "slice-1", "slice-2", "slice-3", "pair-0", "pair-1", "pair-2",
    "timeline", "durations", "fidelity", "metric-0", "predictions", "edf",
}  # fmt: skip
SERVER = Place("http://me:secret@mlflow.test:5000/", "7", "study")


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
                metrics={"accuracy": -loss, "<i>seconds": rng.random()},
            )
        )
    return History(made)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of a study that has everything."""
    folder = tmp_path_factory.mktemp("report")
    write_report(spec_of(), drawn_history(spec_of()), folder, SERVER)
    return folder


def data_in(report: Path) -> dict[str, Any]:
    """What a report holds for its script."""
    page = report.read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    return found


def plots_in(report: Path) -> list[dict[str, Any]]:
    """The figures that a report holds."""
    found: list[dict[str, Any]] = data_in(report)["plots"]
    return found


def painted(thing: Any) -> Any:
    """A figure with plain colours, as the page's script makes it."""
    if isinstance(thing, list):
        return [painted(each) for each in thing]
    if not isinstance(thing, dict):
        return "#123456" if isinstance(thing, str) and thing.startswith("--") else thing
    return {key: "Blues" if key == "colorscale" else painted(value) for key, value in thing.items() if key != "whose"}


def only(plots: list[Plot]) -> Plot:
    assert len(plots) == 1
    return plots[0]


def test_the_best_so_far_ends_with_the_incumbent_and_with_what_was_spent() -> None:
    """Of a configuration that was trained again the mean counts; trials outside a changed space have cost as much."""
    losses = [(0.5, {}), (0.3, {}), (0.1, {}), (0.9, {"repeat_of": "2", "purpose": "confirm"})]
    trials = [
        Trial(n, {"x": min(n, 2) / 4}, TrialState.COMPLETE, loss, notes=notes, cost=2.0, start=n, end=n + 1)
        for n, (loss, notes) in enumerate(losses)
    ]
    outside = Trial(4, {"x": 9.0}, TrialState.COMPLETE, 0.0, cost=4.0, start=4, end=5, outside={"x": "far"})
    past = Past(make_spec(direction="minimize", cost="euros"), History([*trials, outside]), None)
    best = past.history.incumbent
    assert best is not None and (best.number, best.loss) == (2, 0.5)  # the only one that was confirmed
    by_number, by_cost = (
        next(each for each in only(draw(past)).data if each["name"] == "best so far")
        for draw in (optimisation_history, best_by_cost)
    )
    assert by_number["y"][-1] == by_cost["y"][-1] == 0.5
    assert by_cost["x"][-1] == spent(past.history) == 12.0


def test_every_plot_is_drawn_where_the_history_has_it(written: Path) -> None:
    assert {plot["name"] for plot in plots_in(written / "report.html")} == ALL
    plain = Past(spec_of(), drawn_history(spec_of(), fidelities=(None,)), None)
    drawn = [plots(plain), *(each for _, each in plots_by_metric(plain))]
    assert {plot.name for each in drawn for found in each.values() for plot in found} == ALL - {
        "rungs",
        "fidelity",
        "pair-0",
        "pair-1",
        "pair-2",
    }


def test_plotly_knows_every_property_of_the_plots(written: Path) -> None:
    import plotly.graph_objects as go

    for plot in plots_in(written / "report.html"):
        if plot["name"] == "parallel":  # which the page draws itself
            continue
        go.Figure(painted(plot["data"]), painted(plot["layout"]))


def test_a_report_of_a_thousand_trials_is_small(tmp_path: Path) -> None:
    history = drawn_history(spec_of(), 1_000)
    rng = random.Random(1)
    curves = Curves("accuracy", {n: [(step, rng.random()) for step in range(100)] for n in range(1_000)})
    assert write_report(spec_of(), history, tmp_path, SERVER, curves).stat().st_size < 4_000_000


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
    assert [trial["v"] for trial in data_in(path)["trials"][:2]] == [[-LARGEST], [LARGEST]]
    figures = plots_in(path)
    assert {plot["name"] for plot in figures} >= ALL - {"pair-0", "pair-1", "pair-2", "metric-0"}
    drawn = [v for figure in figures for trace in figure["data"] for v in trace.get("y") or [] if isinstance(v, float)]
    assert max(map(abs, drawn)) <= 1e100


def test_nothing_that_people_wrote_is_run_or_fetched(written: Path) -> None:
    text = (written / "report.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 3 and "<script>window.broken" not in text and "<b>adam" not in text
    assert "&lt;b&gt;adam" in text and "&lt;/script&gt;&lt;script&gt;window.broken" in text
    figures = json.dumps([plot for plot in plots_in(written / "report.html") if plot["name"] != "parallel"])
    assert "<b>adam" not in figures and "<i>seconds" not in figures, "plotly reads a few tags wherever it writes"
    assert "secret" not in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"(?!data:)", text)


def test_importance_finds_what_matters_and_says_its_spread() -> None:
    spec = spec_of()
    found = importance(spec.search_space, drawn_history(spec))
    assert found is not None
    assert found.names[0] == "rate"
    assert found.mean[0] > 3 * abs(found.mean[1]) and (found.spread >= 0).all() and found.spread[0] > 0
    assert importance(spec.search_space, drawn_history(spec, 8)) is None


def test_what_cannot_be_relied_on_is_not_shown() -> None:
    spec, history = spec_of(), drawn_history(spec_of())
    names = spec.search_space.free
    noise = Importance(names, np.array([0.3, 0.1, -0.1, -0.2]), np.full(4, 0.1), explained=0.1)
    past = Past(spec, history, noise)
    assert past.names == names and interplay(past) == []
    assert "Not known yet" in importance_card(past) and 'class="bars"' not in importance_card(past)
    negative = Importance(names, np.array([0.3, 0.1, -0.1, -0.2]), np.full(4, 0.1), explained=0.8)
    card = importance_card(Past(spec, history, negative))
    assert "No effect seen: kind, momentum." in card and card.count('class="bars"') == 2 and "width:-" not in card


def test_nothing_is_drawn_between_options_nor_where_a_parameter_is_inactive() -> None:
    spec, history = spec_of(), drawn_history(spec_of())
    order = Importance(("kind", "momentum", "rate", "units"), np.full(4, 0.5), np.zeros(4), explained=0.9)
    kinds, rates, numbers = (plot.data[0] for plot in interplay(Past(spec, history, order)))
    assert (kinds["type"], rates["type"], numbers["type"]) == ("heatmap", "heatmap", "contour")
    assert kinds["x"] == [0.0, 1.0, 2.0]
    assert [value is None for value in kinds["z"][0]] == [True, False, True], "only one kind has a momentum"


def test_a_few_poor_trials_do_not_squash_the_others() -> None:
    spec = spec_of(direction="minimize")
    losses = [5_000.0, 300.0, *(1.0 + i / 50 for i in range(30))]
    trials = [Trial(n, {"rate": 0.1}, TrialState.COMPLETE, loss, start=1, end=2) for n, loss in enumerate(losses)]
    plot = only(optimisation_history(Past(spec, History(trials), None)))
    assert max(value for trace in plot.data for value in trace["y"]) < 3
    assert "2 trials are poorer than 2.2" in plot.caption
    assert "triangle-up" in plot.data[0]["marker"]["symbol"] and plot.data[0]["marker"]["symbol"][0] == "circle"


def test_the_learning_curves_hold_rungs_and_what_a_promotion_added() -> None:
    def trial(number: int, config: dict[str, float], **rest: Any) -> Trial:
        return Trial(number, config, TrialState.COMPLETE, -0.5 - number / 10, start=1, end=number + 2, **rest)

    trials = [
        trial(0, {"rate": 0.1}, fidelity=3.0, rungs={1: -0.2}),
        trial(1, {"rate": 0.1}, fidelity=9.0, parent=0, notes={"continued": "yes"}),
        trial(2, {"rate": 0.2}, fidelity=3.0),
    ]
    past = Past(spec_of(), History(trials), None)
    others, second, best = only(learning_curves(past)).data
    assert (others["x"], best["name"], second["name"]) == ([], "trial 1, the best", "next 1")
    assert (best["x"], best["y"]) == ([1.0, 3.0, 9.0], [0.2, 0.5, 0.6])
    assert (second["x"], second["y"]) == ([3.0], [0.7])
    assert only(fidelity_spent(past)).data[0]["y"] == [3.0, 9.0, 12.0]


def test_curves_that_were_read_are_drawn_thinned_and_without_what_is_not_finite() -> None:
    trials = [Trial(n, {"rate": 0.1 / (n + 1)}, TrialState.COMPLETE, -float(n), start=1, end=2) for n in range(9)]
    curves = {n: [(step, n - 1 / (step + 1)) for step in range(1_000)] for n in range(8)} | {8: [(0, math.nan)]}
    plot = only(learning_curves(Past(spec_of(), History(trials), None, Curves("accuracy", curves))))
    others, *best = plot.data
    assert [trace["whose"] for trace in best] == [[[n, 200]] for n in (3, 4, 5, 6, 7)]
    assert others["whose"] == [[n, 200] for n in (0, 1, 2)] and len(others["x"]) == 3 * 201
    assert len(best[0]["x"]) == 200 and (best[0]["x"][0], best[0]["x"][-1]) == (0, 999)
    other = Past(spec_of(), History(trials), None, Curves("loss", curves))
    assert "accuracy is known only at the end; this is loss" in only(learning_curves(other)).caption


def test_a_curve_begins_with_that_of_the_trial_it_goes_on_from() -> None:
    def trial(number: int, **rest: Any) -> Trial:
        return Trial(number, {"rate": 0.1}, TrialState.COMPLETE, -0.5 - number, start=1, end=2, **rest)

    history = History([trial(0), trial(1, parent=0, notes={"continued": "yes: trial 0"}), trial(2, parent=0)])
    curves = Curves("accuracy", {0: [(0, 0.1), (1, 0.2), (2, 0.3)], 1: [(2, 0.4), (3, 0.5)], 2: [(0, 0.6), (1, 0.7)]})
    best = {
        trace["whose"][0][0]: trace for trace in only(learning_curves(Past(spec_of(), history, None, curves))).data[1:]
    }
    assert (best[1]["x"], best[1]["y"]) == ([0, 1, 2, 3], [0.1, 0.2, 0.4, 0.5])
    assert best[2]["x"] == [0, 1]


def test_the_range_of_a_parameter_whose_best_value_is_at_its_end_should_be_wider() -> None:
    spec = spec_of()

    def past(**config: Any) -> Past:
        return Past(spec, History([Trial(0, config, TrialState.COMPLETE, 0.0, start=1, end=2)]), None)

    inside = past(rate=0.003, units=32, kind="<b>adam</b>")
    assert edges(inside) == [] and "<mark>" not in space_card(inside)
    outside = past(rate=0.0999, units=8, kind=None)
    assert [(edge.name, edge.side, edge.bound) for edge in edges(outside)] == [
        ("rate", "high", 0.1),
        ("units", "low", 8),
    ]
    told = f"The best rate (0.0999) is at the upper end of its range: {WIDER}"
    assert remarks(outside)[0] == ("warn", told)
    assert space_card(outside).count("<mark>widen") == 2
    few = [Trial(n, {"rate": 0.0999, "units": 8}, TrialState.COMPLETE, n, start=1, end=2) for n in range(3)]
    assert ", as in 2 of the next 2 best: " in remarks(Past(spec, History(few), None))[0][1]


def test_failures_stand_by_reason_with_what_they_have_in_common() -> None:
    def trial(number: int, kind: str | None, reason: str = "") -> Trial:
        state = TrialState.FAILED if reason else TrialState.COMPLETE
        return Trial(number, {"kind": kind}, state, None if reason else 0.0, reason=reason, start=1, end=2)

    trials = [trial(n, "$sgd$", f"nan at step {n}<") for n in range(3)] + [trial(3, None, "no memory")]
    past = Past(spec_of(), History([*trials, *(trial(n, "<b>adam</b>") for n in range(4, 9))]), None)
    first, second = failures(past)
    assert ([t.number for t in first.trials], first.shared) == ([0, 1, 2], {"kind": "$sgd$"})
    assert (second.reason, second.shared) == ("no memory", {})
    assert "nan at step 0&lt;" in failures_card(past) and "all with kind = $sgd$" in failures_card(past)
    assert remarks(past)[0][1] == "4 of 9 ended trials failed; the 3 most alike all have kind = $sgd$."


def test_the_report_says_why_the_study_ended_as_far_as_its_trials_tell() -> None:
    def told(states: list[TrialState], **changes: Any) -> tuple[str, str]:
        trials = [
            Trial(n, {"rate": 0.1}, state, 0.0 if state is TrialState.COMPLETE else None, reason="no", start=1, end=2)
            for n, state in enumerate(states)
        ]
        return status(Past(spec_of(**changes), History(trials), None))

    done, failed, running = TrialState.COMPLETE, TrialState.FAILED, TrialState.RUNNING
    assert told([]) == ("empty", "It has no trial yet")
    assert told([done, running]) == ("running", "1 trial is running")
    assert told([done, running], stop={"trials": 2})[1].endswith("no other will start: all 2 trials are started")
    assert told([done, done], stop={"trials": 2}) == ("ended", "It ended: all 2 trials are done")
    assert told([failed] * 3) == ("ended", "It ended: every trial failed with the same error")
    assert told([done], stop={"minutes": 5})[0] == "paused"
    exhausted = Past(spec_of(), History([Trial(0, {"rate": 0.1}, done, 0.0, start=1, end=2)]), None, ended="no more")
    assert status(exhausted) == ("ended", "It ended: no more")


def test_the_time_of_all_slots_is_divided_without_rest() -> None:
    def trial(number: int, start: int, end: int, loss: float | None, **rest: Any) -> Trial:
        state = TrialState.FAILED if loss is None else TrialState.COMPLETE
        return Trial(number, {}, state, loss, start=1_000 * start, end=1_000 * end, owner="a", **rest)

    trials = [
        trial(0, 1, 11, 0.0),
        trial(1, 1, 5, None),
        trial(2, 6, 8, 0.0, stopped_early=True),
        trial(3, 11, 21, 0.0),
    ]
    spent = time_spent(Past(spec_of(), History(trials), None))
    assert spent is not None
    assert spent.shares == {"trained to the end": 20.0, "stopped early": 2.0, "failed": 4.0, "idle": 14.0}
    assert (spent.elapsed, spent.most, spent.trained, spent.durations) == (20.0, 2, 26.0, (2.0, 10.0, 10.0))
    later = [replace(trial(4 + i, 30, 40, 0.0), owner="b") for i in range(2)]  # the study goes on with another flow
    again = time_spent(Past(spec_of(), History([*trials, *later]), None))
    assert again is not None and again.most == 2


def test_every_trial_leads_to_its_run(tmp_path: Path, written: Path) -> None:
    data = data_in(written / "report.html")
    assert (data["address"], data["trials"][3]["run"]) == ("http://mlflow.test:5000/#/experiments/7/runs/", "r3")
    text = (written / "report.html").read_text(encoding="utf-8")
    assert 'href="http://mlflow.test:5000/#/experiments/7/runs/study?workflowType=machine_learning"' in text
    local = write_report(spec_of(), drawn_history(spec_of()), tmp_path, Place("sqlite:///mlflow.db", "7", "study"))
    assert data_in(local)["address"] == ""
    assert 'data-text="study">copy</button>' in local.read_text(encoding="utf-8")


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
    assert store.requests[before:] == ["log", "metric_history", "upload", "log"]


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
