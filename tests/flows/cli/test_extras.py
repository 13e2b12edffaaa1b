"""A package that an extra brings and that is not installed: one line names the extra, wherever it is missed."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import make_url

import hpo_flows.catboost
import hpo_flows.hypergradient
import hpo_flows.keras
import hpo_flows.lightgbm
import hpo_flows.lightning
import hpo_flows.torch
import hpo_flows.transformers
import hpo_flows.xgboost
from hpo_core.base.errors import InputError
from hpo_core.base.extras import EXTRAS, missing_extra
from hpo_core.tracking.mlflow_store import MlflowStore
from hpo_flows.cli import app as cli
from hpo_flows.objectives.reference import Objective
from hpo_flows.trials.remote.engines import make_runner
from mlflow_server.artifacts import _client
from mlflow_server.database import Postgresql
from tests.flows.cli.test_cli import called
from tests.studies import ROOT, make_spec, write_study
from tests.studies import _somewhere_else as _somewhere_else


def runner(engine: str) -> Callable[[], object]:
    return lambda: make_runner(make_spec(runner={"type": engine, "address": "head:1"}))


NO_TRIAL: Any = None
PLACES: dict[str, tuple[str, str, Callable[[], object]]] = {
    "keras": ("keras", "keras", lambda: hpo_flows.keras.Tuner),
    "hypergradient": ("tensorflow", "keras", lambda: hpo_flows.hypergradient.reverse),
    "xgboost": ("xgboost", "xgboost", lambda: hpo_flows.xgboost.callback(NO_TRIAL)),
    "lightgbm": ("lightgbm", "lightgbm", lambda: hpo_flows.lightgbm.callback(NO_TRIAL)),
    "catboost": ("catboost", "catboost", lambda: hpo_flows.catboost.callback(NO_TRIAL)),
    "torch": ("torch", "torch", lambda: hpo_flows.torch.epochs(NO_TRIAL)),
    "lightning": ("lightning", "lightning", lambda: hpo_flows.lightning.callback(NO_TRIAL)),
    "transformers": ("transformers", "transformers", lambda: hpo_flows.transformers.callback(NO_TRIAL)),
    "ray": ("ray", "ray", runner("ray")),
    "ray by prefect": ("prefect_ray", "ray", runner("ray")),
    "dask": ("distributed", "dask", runner("dask")),
    "dask by prefect": ("prefect_dask", "dask", runner("dask")),
    "S3": ("boto3", "team", lambda: _client({})),
    "the server's database": ("psycopg", "postgres", lambda: Postgresql(make_url("postgresql://u@h/d"), "p").engine()),
    "the store": ("psycopg", "postgres", lambda: MlflowStore("postgresql://u:p@127.0.0.1:1/d", patience=0.1)),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_missing_package_names_its_extra(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, extra, use = PLACES[place]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as raised:
        use()
    said = str(raised.value)
    assert said.endswith(f'; pip install "hpo-flows[{extra}]"') and said.count("pip install") == 1
    assert f"the package {package.replace('_', '-')} is not installed" in said and "\n" not in said
    assert isinstance(raised.value, ModuleNotFoundError)


@pytest.mark.parametrize("package", EXTRAS)
def test_the_command_line_tells_it_in_one_line(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def use() -> None:
        __import__(f"{package}.absent")

    app = typer.Typer()
    app.command()(use)
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setitem(sys.modules, package, None)
    assert called([], monkeypatch) == 2
    assert capsys.readouterr().err.endswith(f'is not installed; pip install "hpo-flows[{EXTRAS[package]}]"\n')


def test_an_extra_that_is_named_is_one_that_brings_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(EXTRAS.values()) <= set(extras)
    named = ("tensorboard", "tensorflow", "prefect_dask", "prefect_ray", "boto3", "psycopg")  # they bring the others
    for package, extra in EXTRAS.items():
        if package in named:
            assert any(line.startswith(package.replace("_", "-")) for line in extras[extra]), package


def test_another_failed_import_is_not_told_as_one() -> None:
    assert missing_extra(ModuleNotFoundError("No module named 'absent'", name="absent")) is None
    assert missing_extra(ImportError("cannot import name 'x' from 'sklearn'", name="sklearn")) is None
    assert missing_extra(ModuleNotFoundError("No module named 'boto3.old'", name="boto3.old")) is None  # boto3 is there
    assert missing_extra(ValueError("no import")) is None


@pytest.mark.parametrize("line", ["import keras", "from hpo_flows.keras import keras_objective"])
def test_an_objective_that_lacks_it_is_told(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking.py").write_text(f"{line}\ndef train(trial): ...\n")
    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(InputError) as raised:
        Objective("lacking:train", (str(tmp_path),)).load()
    assert str(raised.value).startswith("objective: 'lacking:train' cannot be imported (")
    assert str(raised.value).endswith('; pip install "hpo-flows[keras]"') and str(raised.value).count("pip") == 1


def test_an_objective_that_lacks_another_package_is_told_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking_another.py").write_text("import absent_package\ndef train(trial): ...\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(InputError, match=r"No module named 'absent_package'\); 'lacking_another' needs it: install it"):
        Objective("lacking_another:train", (str(tmp_path),)).load()
    with pytest.raises(InputError, match=r"run from the folder that 'absent_package' is in"):
        Objective("absent_package:train", (str(tmp_path),)).load()


@pytest.mark.usefixtures("prefect_server")
def test_a_training_that_lacks_it_ends_the_study_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "import sys\ndef train(trial):\n    sys.modules['ray'] = None\n    import ray\n"
    (tmp_path / "lacking_later.py").write_text(body)
    path = write_study(tmp_path)
    path.write_text(path.read_text().replace("tests.objectives:slow", "lacking_later:train"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert called(["tune", str(path)], monkeypatch) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == 'error: objective: the package ray is not installed; pip install "hpo-flows[ray]"'
