"""What people see of a study: MLflow's UI over a real study, in a real browser.

With ``HPO_SCREENSHOTS=docs/images`` in the environment the pictures of the README are taken on the way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from hpo_flows.api import run_study
from hpo_flows.reports.links import run_url, trials_url
from hpo_flows.results import StudyResult
from tests.browser import browsing, needs_chromium
from tests.conftest import PATIENCE, MlflowServer

pytestmark = [pytest.mark.slow, needs_chromium]

TRIALS = 30
# Three: of more parameters, MLflow's parallel coordinates show the first three until one asks for the others.
SPACE = {
    "rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
    "alpha": {"type": "float", "low": 1e-4, "high": 3, "log": True},
    "l1_ratio": {"type": "float", "low": 0, "high": 1},
}
DRAWN = "document.querySelectorAll('.plot[data-drawn]').length === document.querySelectorAll('.plot').length"
RUN = ".ag-row a[href*='/runs/']"
"""The name of a run in the table; rows stand in no order among the page's elements."""
DIMENSIONS = (
    "document.querySelector('.js-plotly-plot').data[0].dimensions.map(each => [each.label, each.values.length])"
)


def elastic_net(trial: Any) -> float:
    """R2 of a linear model on held-out rows of scikit-learn's diabetes data, after each of 30 epochs of SGD."""
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import SGDRegressor
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import scale

    X, y = (scale(each) for each in load_diabetes(return_X_y=True))
    X, held_out, y, wanted = train_test_split(X, y, random_state=0)
    config = dict(trial.config)
    model = SGDRegressor(
        penalty="elasticnet", eta0=config.pop("rate"), learning_rate="constant", random_state=0, **config
    )
    for epoch in range(30):
        r2 = float(model.partial_fit(X, y).score(held_out, wanted))
        trial.report(epoch, {"r2": r2})
    return r2


@pytest.fixture(scope="module")
def study(
    mlflow_server: MlflowServer, prefect_server: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StudyResult]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HPO_REPORT")
        patch.setenv("HPO_HOME", str(tmp_path_factory.mktemp("home")))
        yield run_study(
            elastic_net,
            name="diabetes",
            space=SPACE,
            metric="r2",
            direction="maximize",
            trials=TRIALS,
            parallel=2,
            tracking_uri=mlflow_server.uri,
            progress=False,
        )


@pytest.fixture
def page() -> Iterator[Any]:
    with browsing(viewport={"width": 1500, "height": 760}) as page:
        page.set_default_timeout(1000 * PATIENCE)
        yield page


def make_room(page: Any) -> None:
    """Close MLflow's panels at both sides, as people do who look at tables."""
    page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").click()
    page.locator("[data-component-id='mlflow_header.toggle_sidebar_button']").click()


def picture(page: Any, name: str) -> None:
    if folder := os.environ.get("HPO_SCREENSHOTS"):
        page.wait_for_timeout(1_000)  # fonts and animations
        page.screenshot(path=Path(folder) / f"{name}.png")


def show_columns(page: Any, *names: str) -> None:
    """Have the table of runs show these metrics and parameters, and little else."""
    page.get_by_text("Show more columns").click()
    for name in ("Dataset", "Source", "Models", *names):
        page.get_by_placeholder("Search columns").fill(name)
        entry = page.locator("[class*='tree-treenode']").filter(has=page.get_by_text(name, exact=True))
        entry.locator("[class*='tree-checkbox']").first.click()
    page.keyboard.press("Escape")
    page.get_by_placeholder("Search columns").wait_for(state="hidden")
    page.locator(f".ag-header-cell[col-id$='`{names[-1]}`']").wait_for()


def experiment_of(study: StudyResult) -> str:
    from mlflow import MlflowClient

    return str(MlflowClient(study.tracking_uri).get_run(study.run_id).info.experiment_id)


def open_runs(page: Any, study: StudyResult) -> None:
    """The experiment's table of runs."""
    page.goto(f"{study.tracking_uri}/#/experiments/{experiment_of(study)}/runs")
    page.locator(RUN).first.wait_for()


def names(page: Any) -> list[str]:
    """The names of the runs in the table, from top to bottom."""
    rows = page.locator(RUN).evaluate_all(
        "links => links.map(link => [+link.closest('.ag-row').getAttribute('row-index'), link.innerText])"
    )
    return [name.strip() for _, name in sorted(rows)]


def test_trials_are_nested_below_their_study(page: Any, study: StudyResult) -> None:
    open_runs(page, study)
    assert names(page) == ["diabetes"]
    page.locator(".ag-row button[data-component-id*='runnamecellrenderer']").first.click()
    page.locator(RUN, has_text="diabetes-0029").wait_for()
    assert names(page)[:4] == ["diabetes", "diabetes-0029", "diabetes-0028", "diabetes-0027"]
    make_room(page)
    show_columns(page, "r2", *SPACE)
    assert page.locator(".ag-header-cell[col-id='metrics.`r2`']").is_visible()
    picture(page, "mlflow-study")


def test_sorted_by_the_metric_the_incumbent_comes_first(page: Any, study: StudyResult) -> None:
    assert study.best is not None
    open_runs(page, study)
    page.get_by_test_id("sort-select-dropdown").click()
    page.get_by_test_id("sort-select-r2").click()
    page.wait_for_url("**orderByKey=metrics*")
    page.locator(RUN, has_text=f"diabetes-{study.best.number:04}").wait_for(state="attached")
    assert names(page)[0] == f"diabetes-{study.best.number:04}"


def test_the_link_to_the_trials_shows_them_best_first(page: Any, study: StudyResult) -> None:
    page.goto(trials_url(study.tracking_uri, experiment_of(study), "r2", ascending=False))
    page.locator(RUN).first.wait_for()
    order = sorted(study.history.complete, key=lambda trial: trial.metrics["r2"], reverse=True)
    assert names(page)[:5] == [f"diabetes-{trial.number:04}" for trial in order[:5]]


def test_the_link_to_a_run_opens_its_page(page: Any, study: StudyResult) -> None:
    page.goto(run_url(study.tracking_uri, experiment_of(study), study.run_id))
    page.get_by_text(study.run_id).first.wait_for()
    page.get_by_role("heading", name="diabetes").first.wait_for()


def test_comparing_ten_trials_draws_their_parallel_coordinates(page: Any, study: StudyResult) -> None:
    runs = [trial.run_id for trial in study.history.trials[:10]]
    query = urlencode({"runs": json.dumps(runs), "experiments": json.dumps([experiment_of(study)])})
    page.goto(f"{study.tracking_uri}/#/compare-runs?{query}")
    page.wait_for_function("document.querySelector('.js-plotly-plot')?.data?.[0]?.type === 'parcoords'")
    page.locator(".js-plotly-plot .parcoords-line-layers, .js-plotly-plot .parcoords").first.wait_for()
    assert dict(page.evaluate(DIMENSIONS)) == dict.fromkeys([*SPACE, "r2"], 10)
    make_room(page)
    picture(page, "mlflow-compare")


def test_the_report_opens_inside_mlflow(page: Any, study: StudyResult) -> None:
    page.goto(f"{study.tracking_uri}/#/experiments/{experiment_of(study)}/runs/{study.run_id}/artifacts/report.html")
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="Optimization history").wait_for()
    frame.locator("#history .scatterlayer .point").first.wait_for()
    assert frame.locator("#history .scatterlayer .point").count() >= TRIALS
    frame.get_by_text("Open in MLflow").click()
    frame.get_by_text("address copied").wait_for()  # the frame may not open pages
    make_room(page)
    picture(page, "report-mlflow")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 1420), (375, 900)], ids=["wide", "narrow"])
def test_the_report_of_the_study_works_without_a_network(
    scheme: str, width: int, height: int, study: StudyResult, tmp_path: Path
) -> None:
    from mlflow.artifacts import download_artifacts

    report = download_artifacts(
        run_id=study.run_id, artifact_path="report.html", dst_path=str(tmp_path), tracking_uri=study.tracking_uri
    )
    with browsing(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True) as page:
        page.goto(Path(report).as_uri())
        page.wait_for_function(DRAWN)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert study.best is not None
        assert page.get_by_text(f"trial {study.best.number}", exact=True).first.is_visible()
        picture(page, f"report-{scheme}" if width > 400 else f"report-{scheme}-narrow")
