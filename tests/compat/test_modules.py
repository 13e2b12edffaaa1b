"""KerasTuner's modules under their own paths."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import hpo_flows.keras as kt
from hpo_core.base.errors import InputError
from hpo_flows.keras import modules

PUBLIC = {  # of KerasTuner 1.4.8, as its documentation and the packages in its wheel name them
    "": "Tuner RandomSearch GridSearch BayesianOptimization Hyperband SklearnTuner Oracle Objective HyperModel "
    "HyperParameters __version__ applications engine errors oracles tuners",
    "tuners": "Tuner RandomSearch GridSearch BayesianOptimization Hyperband SklearnTuner",
    "oracles": "RandomSearchOracle GridSearchOracle BayesianOptimizationOracle HyperbandOracle",
    "errors": "FailedTrialError FatalError FatalRuntimeError FatalTypeError FatalValueError",
    "applications": "HyperEfficientNet HyperImageAugment HyperResNet HyperXception",
    "engine": "base_tuner hypermodel hyperparameters metrics_tracking oracle trial tuner",
    "engine.base_tuner": "BaseTuner",
    "engine.hypermodel": "HyperModel",
    "engine.hyperparameters": "Boolean Choice Fixed Float HyperParameter HyperParameters Int deserialize serialize",
    "engine.metrics_tracking": "infer_metric_direction",
    "engine.oracle": "Objective Oracle",
    "engine.trial": "Trial TrialStatus",
    "engine.tuner": "Tuner",
}

NAMES = [(module, name) for module, names in PUBLIC.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_public_name(module: str, name: str) -> None:
    path = f"hpo_flows.keras.{module}".rstrip(".")
    found = getattr(import_module(path), name)
    assert getattr(import_module(path.replace("keras", "keras.src", 1)), name) is found


def test_one_class_under_all_its_names() -> None:
    import hpo_flows.keras.tuners.randomsearch as file
    from hpo_flows.keras.engine.hypermodel import HyperModel
    from hpo_flows.keras.tuners import RandomSearch

    assert RandomSearch is kt.RandomSearch is file.RandomSearch is kt.tuners.RandomSearch
    assert HyperModel is kt.HyperModel
    assert set(kt.__all__) == set(modules.TOP)


def test_what_is_not_there_says_so() -> None:
    with pytest.raises(InputError, match=r"KerasTuner has it, hpo_flows.keras does not; .* leave the decorator out"):
        kt.synchronized  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'hpo_flows.keras' has no attribute 'nothing'"):
        kt.nothing  # noqa: B018
    with pytest.raises(ImportError, match=r"cannot import name 'nothing' from 'hpo_flows.keras.tuners'"):
        from hpo_flows.keras.tuners import nothing  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        import hpo_flows.keras.nowhere  # noqa: F401


def test_importing_loads_nothing_heavy() -> None:
    names = ", ".join(f"hpo_flows.keras.{name}" for name in modules.MODULES)
    code = f"import sys, hpo_flows.keras, {names}\nfrom hpo_flows.keras.engine.hyperparameters import Choice\n"
    code += "assert not {'keras', 'tensorflow', 'mlflow', 'prefect'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=Path(__file__).parents[2])
