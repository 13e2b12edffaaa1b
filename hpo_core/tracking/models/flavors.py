"""Saves trained models in MLflow's format, each by the flavour that MLflow has for its library, and loads them."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from hpo_core.tracking.models.requirements import requirement_of, self_contained

FLAVORS = {
    "keras": "keras",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "transformers": "transformers",
    "torch": "pytorch",
    "sklearn": "sklearn",
    "mlflow": "pyfunc",
}
"""MLflow's flavour for the models of a package, by the first of these packages that has one of the model's classes. So
LightGBM's scikit-learn estimators are LightGBM's, and Lightning's modules are PyTorch's."""

OWN_FORMAT = ("keras", "xgboost", "catboost", "transformers")
"""Saved in the format of their library, which knows its own classes only; the others are pickled."""

KINDS = "of scikit-learn, Keras, XGBoost, LightGBM, CatBoost, PyTorch, Lightning or transformers"


def check_kind(model: Any) -> None:
    """Check that there is a flavour for a model. Imports nothing.

    Raises:
        TypeError: There is none.
    """
    _package_of(model)


def save_model(model: Any, path: Path, example: Any) -> None:
    """Write a model in MLflow's format, with signature and input example, ready for ``mlflow models serve``.

    Args:
        model: A model of one of the libraries in :data:`FLAVORS`, or MLflow's own ``PythonModel``.
        path: The folder to write.
        example: A few rows of input, as the served model will get them.

    Raises:
        TypeError: There is no flavour for the model.
        Exception: Whatever library or MLflow raise if the model cannot be saved, or cannot predict the example.
    """
    package = _package_of(model)
    example = _as_data(example)
    path.mkdir(parents=True)  # for Keras, MLflow writes the example before creating the folder
    flavor = import_module(f"mlflow.{FLAVORS[package]}")
    settings: dict[str, Any] = {"input_example": example}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet(flavor.__name__))
        if package in OWN_FORMAT:
            needed = _needed(package, model)
        else:
            needed = {package, "cloudpickle", *stack.enter_context(self_contained(model))}
        settings["pip_requirements"] = [requirement_of(module) for module in sorted(needed - {"mlflow"})]
        if package == "keras":  # the one flavour that infers no signature
            from mlflow.models import infer_signature

            settings["signature"] = infer_signature(example, model.predict(example, verbose=0))
        if package in ("sklearn", "lightgbm"):
            settings["serialization_format"] = "cloudpickle"
        if package == "torch":
            settings["serialization_format"] = "pickle"
        if package == "mlflow":
            flavor.save_model(str(path), python_model=model, **settings)
        else:
            flavor.save_model(model, str(path), **settings)
        _check_signature(path, example)


def _needed(package: str, model: Any) -> set[str]:
    """The modules that load a model which is not pickled."""
    modules = {package, "numpy"}
    if package == "keras":
        modules.add(sys.modules["keras"].backend.backend())
    if package == "xgboost" and _has_class_of(model, "sklearn"):
        modules.add("sklearn")
    if package == "transformers":
        modules.add("torch")
    return modules


def _check_signature(path: Path, example: Any) -> None:
    """Give the model its signature if MLflow did not: it only logs why a model cannot predict the example."""
    from mlflow.models import Model, infer_signature, set_signature
    from mlflow.pyfunc import load_model as load_pyfunc

    if Model.load(str(path)).signature is None:
        set_signature(str(path), infer_signature(example, load_pyfunc(str(path)).predict(example)))


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Without MLflow's remarks on each model: that it is a pickle, and that its integers cannot be missing."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Inferred schema contains integer column", UserWarning)
            yield
    finally:
        log.setLevel(level)


def _as_data(example: Any) -> Any:
    """An example as MLflow takes it: a tensor or nested lists as an array, and anything else as it is."""
    if hasattr(example, "detach"):  # a tensor of PyTorch
        return example.detach().cpu().numpy()
    if isinstance(example, list | tuple) and not any(isinstance(row, str | dict) for row in example):
        import numpy as np

        return np.asarray(example)
    return example


def load_model(path: Path) -> Any:
    """Load a model in MLflow's format: as it was logged where its library is known, else as MLflow's pyfunc.

    A pickled model (scikit-learn, LightGBM, PyTorch) runs code of whoever wrote it as it is loaded.
    """
    from mlflow.models import Model

    flavors = Model.load(str(path)).flavors
    known = [name for name in ("keras", *FLAVORS.values()) if name in flavors]
    name = "keras" if "tensorflow" in flavors else known[0] if known else "pyfunc"
    return import_module(f"mlflow.{name}").load_model(str(path))


def _package_of(model: Any) -> str:
    """The package in :data:`FLAVORS` that saves a model; without importing any.

    Raises:
        TypeError: There is none.
    """
    packages = [_top(base) for base in type(model).__mro__]
    package = next((each for each in packages if each in FLAVORS), None)
    name = type(model).__name__
    if package is None:
        raise TypeError(f"{name!r} is not a model {KINDS}; MLflow's PythonModel wraps any other")
    if package == "transformers" and "torch" in packages:
        raise TypeError(f"{name!r} has no tokenizer; log transformers.pipeline(task, model=..., tokenizer=...)")
    if package in OWN_FORMAT and package != packages[0] and "sklearn" in packages:
        return "sklearn"  # a class of the user's, which the library's own format cannot load
    return package


def _has_class_of(model: Any, package: str) -> bool:
    return any(_top(base) == package for base in type(model).__mro__)


def _top(kind: type) -> str:
    return kind.__module__.partition(".")[0]
