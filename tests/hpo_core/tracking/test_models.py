"""Models as MLflow's artifacts: what they ask for is what is installed here."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from hpo_core.ledger.store import Dataset, Metric
from hpo_core.tracking.connection import connect
from hpo_core.tracking.models import check_kind, flavors, load_model, requirement_of, save_model

pytestmark = pytest.mark.filterwarnings("ignore")
"""TensorFlow and MLflow warn of themselves; users see it in a worker's output."""


@pytest.mark.parametrize("module", ["tensorflow", "sklearn", "numpy"])
def test_a_requirement_names_what_is_installed(module: str) -> None:
    """TensorFlow, for one, is installed as tensorflow or as tensorflow-cpu."""
    pytest.importorskip(module)
    name, _, release = requirement_of(module).partition("==")
    assert version(name) == release


def test_a_keras_model_is_saved_with_whatever_tensorflow_there_is(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    save_model(model, tmp_path / "model", np.zeros((3, 2), dtype="float32"))
    asked = (tmp_path / "model" / "requirements.txt").read_text()
    assert requirement_of("tensorflow") in asked and (tmp_path / "model" / "MLmodel").exists()


def test_the_users_own_modules_travel_inside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a pipeline from a module that is nowhere else, and what that one calls in another of them."""
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    (tmp_path / "own_steps.py").write_text("import own_deep\ndef double(x):\n    return own_deep.twice(x)\n")
    (tmp_path / "own_deep.py").write_text("import scipy.special\ndef twice(x):\n    return 2 * scipy.special.expit(x)")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = importlib.import_module("own_steps")
    rows = np.arange(6.0).reshape(3, 2)
    model = make_pipeline(FunctionTransformer(own.double), LinearRegression()).fit(rows, [0.0, 1.0, 2.0])
    save_model(model, tmp_path / "model", rows)
    asked = {line.partition("==")[0] for line in (tmp_path / "model" / "requirements.txt").read_text().split()}
    assert asked == {"mlflow", "cloudpickle", "numpy", "scipy", "scikit-learn"}
    expected = model.predict(rows)
    for name in ("own_steps", "own_deep"):
        monkeypatch.delitem(sys.modules, name)
        (tmp_path / f"{name}.py").unlink()
    assert load_model(tmp_path / "model").predict(rows) == pytest.approx(expected)


class _Like(type):
    """Makes a class that looks as if it came from somewhere else."""

    def __new__(cls, name: str, bases: tuple[type, ...], module: str) -> type:
        return type(name, bases, {"__module__": module})


MODULE = _Like("Module", (), "torch.nn.modules.module")
ESTIMATOR = _Like("BaseEstimator", (), "sklearn.base")
XGB = _Like("XGBClassifier", (ESTIMATOR,), "xgboost.sklearn")


@pytest.mark.parametrize(
    ("kind", "package"),
    [
        (ESTIMATOR, "sklearn"),
        (XGB, "xgboost"),
        (_Like("Mine", (XGB,), "my.models"), "sklearn"),  # XGBoost's own format would not know the class
        (_Like("LGBMRegressor", (ESTIMATOR,), "lightgbm.sklearn"), "lightgbm"),
        (_Like("Net", (MODULE,), "my.models"), "torch"),
        (_Like("Lit", (_Like("LightningModule", (MODULE,), "lightning.pytorch.core.module"),), "my.models"), "torch"),
        (_Like("Model", (_Like("Layer", (MODULE,), "keras.src.layers.layer"),), "my.models"), "keras"),
    ],
)
def test_which_flavour_saves_a_model(kind: type, package: str) -> None:
    assert flavors._package_of(kind()) == package


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (object(), "'object' is not a model of"),
        (_Like("BertModel", (MODULE,), "transformers.models.bert")(), "has no tokenizer"),
    ],
)
def test_a_model_without_a_flavour_is_named(model: object, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        check_kind(model)


def test_why_a_model_has_no_signature_is_not_hidden(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(Exception, match="features"):
        save_model(model, tmp_path / "model", [[0.0, 1.0]])


def test_the_best_model_becomes_a_logged_model(tmp_path: Path) -> None:
    """With its run's params, metrics and data; a version registered from it is one of it."""
    from mlflow import MlflowClient
    from sklearn.linear_model import LinearRegression

    store = connect(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = store.experiment("models", create=True)
    assert experiment is not None
    study, run = (store.create_run(experiment, name, {}).id for name in ("study", "trial"))
    store.log(run, [Metric("loss", 0.5, 5, 3)], {"x": "1"}, {})
    store.log_dataset(run, Dataset("rows", "abc", {}, {}), "here")
    assert store.publish(run, study, "a.study", {}) is None  # there is no model
    save_model(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]), tmp_path / "model", [[0.5]])
    store.upload(run, tmp_path / "model", "model")
    id = store.publish(run, study, "a.study", {"hpo.trial": "0"})
    client = MlflowClient(store.uri)
    [model] = client.search_logged_models([experiment], filter_string="tags.`hpo.trial` = '0'")
    assert (model.model_id, model.name, model.source_run_id, model.params) == (id, "a-study", run, {"x": "1"})
    [metric] = model.metrics
    assert (metric.key, metric.value, metric.step, metric.dataset_name) == ("loss", 0.5, 3, "rows")
    assert client.get_run(run).data.metrics == {"loss": 0.5}
    for each in (run, study):
        assert [output.model_id for output in client.get_run(each).outputs.model_outputs] == [id]
    version = store.register("served", run, "model", {}, "", id)
    linked = json.loads(client.get_logged_model(id).tags["mlflow.modelVersions"])
    assert linked == [{"name": "served", "version": 1}] and version.run == run
    fetched = store.fetch_version("served", 1, tmp_path)
    assert fetched is not None and load_model(fetched).predict([[0.25]]) == pytest.approx([0.25])
