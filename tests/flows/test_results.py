"""What a study came to, from Python: in scripts, in notebooks, and where it ran elsewhere."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

import hpo_flows
import hpo_flows.results
from hpo_core.base.errors import InputError, StudyUnknown
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.tags import MODEL
from hpo_core.lineage.opening import open_study
from hpo_core.lineage.replay import explain
from hpo_core.tracking.connection import connect
from hpo_core.tracking.models import save_model
from tests.conftest import MlflowServer
from tests.flows.loop.test_final import wine_spec
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import tune

NASTY = "<script>alert('x')</script>"
VOID = {"br", "hr", "img"}


def stored(uri: str | None = None, **changes: Any) -> Ledger:
    """A study with three trials: the second is the best, the third failed."""
    ledger = open_study(connect(uri), make_spec(**changes))
    for value in (0.2, 0.9, math.nan):
        finish(ledger, reserve(ledger), value)
    return ledger


class Page(HTMLParser):
    """Reads a card: its text, its tags, and whether each is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name == "href"]
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.usefixtures("prefect_server")
def test_a_study_is_loaded_as_it_was_returned() -> None:
    result = tune(wine_spec())
    loaded = hpo_flows.load_study("study")
    assert loaded == replace(result, reason=loaded.reason)
    assert loaded.choice is not None and loaded.choice.done and loaded.test_metrics == result.test_metrics
    assert loaded.reason == "all 3 trials are done"
    assert f"over its folds (trial {result.best.number}), on the test set " in str(loaded)  # type: ignore[union-attr]
    assert isinstance(result, hpo_flows.StudyResult)
    model = loaded.best_model()
    assert model.get_params()["max_depth"] == result.best_config["max_depth"]


def test_all_trials_are_rows_of_a_table(mlflow_server: MlflowServer) -> None:
    ledger = stored(mlflow_server.uri)
    frame = hpo_flows.load_study(ledger.spec.name, mlflow_server.uri).trials_dataframe()
    assert list(frame["number"]) == [0, 1, 2] and list(frame["state"]) == ["complete", "complete", "failed"]
    assert frame["value"].to_list()[:2] == [0.2, 0.9] and math.isnan(frame["value"][2])
    assert frame["metrics.score"].dtype == frame["fidelity"].dtype == float
    assert str(frame["start"].dtype.tz) == str(frame["end"].dtype.tz) == "UTC"
    assert frame["params.rate"].dtype == float
    assert frame.loc[frame["value"].idxmax(), "run_id"] == ledger.history().trials[1].run_id


def test_a_study_without_trials_has_the_columns(mlflow_server: MlflowServer) -> None:
    ledger = open_study(connect(mlflow_server.uri), make_spec())
    result = hpo_flows.load_study(ledger.spec.name, mlflow_server.uri)
    frame = result.trials_dataframe()
    assert frame.empty and {"number", "value", "params.rate", "metrics.score", "start"} <= set(frame)
    assert result.reason == "not yet; its run in MLflow is running"
    assert str(result).count("\n") == 5 and "no trial is complete" in str(result)
    with pytest.raises(ValueError, match="has no complete trial"):
        result.best_model()


@pytest.mark.filterwarnings("ignore:.*Any type hint")  # MLflow's own, as it is imported
def test_the_best_trials_model_is_loaded(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    ledger = stored(mlflow_server.uri)
    result = hpo_flows.load_study(ledger.spec.name, mlflow_server.uri)
    with pytest.raises(InputError, match=r"trial 1, the best, has no artifact 'model' .* call trial.log_model"):
        result.best_model()
    X = np.arange(6.0)[:, None]
    save_model(LinearRegression().fit(X, 2 * X[:, 0]), tmp_path / "saved", X)
    assert result.best is not None
    ledger.store.upload(result.best.run_id, tmp_path / "saved", MODEL)
    model = result.best_model()
    assert isinstance(model, LinearRegression)
    assert model.predict([[10.0]]) == pytest.approx(20.0)


def test_the_report_is_written(tmp_path: Path) -> None:
    ledger = stored()
    result = hpo_flows.load_study(ledger.spec.name)
    assert result.report() == Path(f"report-{ledger.spec.name}") / "report.html"
    path = result.report(tmp_path / "there")
    assert path == tmp_path / "there" / "report.html" and ledger.spec.name in path.read_text()


def test_it_is_six_lines_and_a_short_repr() -> None:
    result = hpo_flows.load_study(stored(stop={"trials": 3}).spec.name)
    lines = str(result).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["Study", "Best", "With", "Trials", "Ended", "MLflow"]
    assert "0.9 (trial 1)" in lines[1] and "rate=" in lines[2] and "2 complete, 1 failed" in lines[3]
    assert len(repr(result)) < 200 and result.spec.name in repr(result)


def test_it_says_whether_the_best_trial_keeps_the_limits() -> None:
    ledger = open_study(connect(), make_spec(limits={"ms": "<= 20"}))
    for ms in (30.0, 25.0, 10.0):
        finish(ledger, reserve(ledger), ms)  # in all metrics
        result = hpo_flows.load_study(ledger.spec.name)
        says = "keeps ms <= 20 (10)" if ms < 20 else f"comes closest, and breaks ms <= 20 ({ms:g})"
        (line,) = (line for line in str(result).splitlines() if line.startswith("Limits:"))
        assert says in line and says in " ".join(Page(result._repr_html_()).words)


def test_cards_escape_all_and_send_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = stored(
        metric="score",
        space={"rate": {"type": "float", "low": 0, "high": 1}, "kind": {"type": "choice", "choices": [NASTY, "&b"]}},
    )
    result = replace(hpo_flows.load_study(ledger.spec.name), reason=NASTY)
    found = explain(ledger, 1)

    def refuse(*_: object) -> None:
        raise AssertionError("a card sends a request")

    monkeypatch.setattr(hpo_flows.results, "connect", refuse)
    monkeypatch.setattr("mlflow.MlflowClient.get_run", refuse)
    for shown in (result, result.spec, found):
        html = shown._repr_html_()
        page = Page(html)
        assert set(page.tags) <= {"div", "table", "tr", "th", "td", "a"} and "<script" not in html
        assert not page.links  # no server, no page
        assert not re.search(r"(?<!-)color:|background:(?!none)", html)  # the page's own colours
    assert NASTY in Page(result._repr_html_()).words


def test_a_card_links_to_the_server_without_credentials(mlflow_server: MlflowServer) -> None:
    ledger = stored(mlflow_server.uri)
    uri = mlflow_server.uri.replace("http://", "http://me:secret@")
    result = replace(hpo_flows.load_study(ledger.spec.name, mlflow_server.uri), tracking_uri=uri)
    (address,) = Page(result._repr_html_()).links
    where = f"experiments/{ledger.study_run.experiment}/runs/{ledger.study_run.id}"
    assert address == f"{mlflow_server.uri}/#/{where}?workflowType=machine_learning"
    assert "secret" not in str(result) + repr(result) + result._repr_html_()


def test_an_unknown_study_is_told_with_those_near_to_it() -> None:
    name = stored(name="digits-of-wine").spec.name
    with pytest.raises(StudyUnknown, match=f"did you mean '{name}'"):
        hpo_flows.load_study("digits-of-wind")
    with pytest.raises(StudyUnknown, match="hpo tune"):
        hpo_flows.load_study("nothing like it")
