"""Where the outcome of a study is said to be, and that it is there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo_core.study.yaml import parse_yaml
from hpo_flows.reports.ending import as_yaml, model_lines, places_of, serve_line, write_best
from tests.flows.reports.test_report import study_of
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import make_spec, tune

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


@pytest.mark.filterwarnings("ignore")  # MLflow's own
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.slow
def test_the_best_trials_model_is_named_and_loads() -> None:
    from hpo_core.lineage.opening import find_study
    from hpo_core.tracking.connection import connect

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
    from hpo_core.lineage.opening import find_study
    from hpo_core.tracking.connection import connect

    result = tune(make_spec(stop={"trials": 1}))
    assert places_of(find_study(connect(), "study"), result.history, result.best, None).model is None
