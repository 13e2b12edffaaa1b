"""Saves and loads trained Keras and scikit-learn models in MLflow's model format."""

from __future__ import annotations

import logging
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any


def save_model(model: Any, path: Path, example: Any) -> None:
    """Write a model in MLflow's format, with signature and input example, ready for ``mlflow models serve``.

    Args:
        model: A Keras model or a scikit-learn estimator.
        path: The folder to write.
        example: A few rows of input.

    Raises:
        TypeError: The model is neither.
    """
    package = _package_of(model)
    if package is None:
        raise TypeError(f"{type(model).__name__!r} is neither a Keras model nor a scikit-learn estimator")
    from mlflow.models import infer_signature  # slow import, not needed by code that only reads runs

    path.mkdir(parents=True)  # for Keras, MLflow writes the example before creating the folder
    # Without this, MLflow infers the requirements by loading the model in a subprocess and watching its imports.
    needed = [requirement_of(module) for module in ("tensorflow" if package == "keras" else "sklearn", "numpy")]
    settings: dict[str, Any] = {"input_example": example, "pip_requirements": needed}
    if package == "keras":
        import mlflow.keras

        settings["signature"] = infer_signature(example, model.predict(example, verbose=0))
        mlflow.keras.save_model(model, str(path), **settings)
    else:
        import mlflow.sklearn

        logging.getLogger("mlflow.sklearn").setLevel(logging.ERROR)  # it warns about pickle for every model
        settings["signature"] = infer_signature(example, model.predict(example))
        mlflow.sklearn.save_model(model, str(path), serialization_format="cloudpickle", **settings)


def requirement_of(module: str) -> str:
    """The requirement that installs a module as it is installed here.

    A module may come from packages of several names: ``tensorflow`` from ``tensorflow`` or ``tensorflow-cpu``.

    >>> requirement_of("numpy")  # doctest: +ELLIPSIS
    'numpy==...'
    """
    package = packages_distributions()[module][0]
    return f"{package.replace('_', '-')}=={version(package)}"


def load_model(path: Path) -> Any:
    """Load a model in MLflow's format: scikit-learn and Keras models natively, others as MLflow's pyfunc.

    A scikit-learn model is a pickle: loading it runs code from whoever wrote it.
    """
    from mlflow.models import Model

    flavors = Model.load(str(path)).flavors
    if "keras" in flavors or "tensorflow" in flavors:
        import mlflow.keras as flavor
    elif "sklearn" in flavors:
        import mlflow.sklearn as flavor
    else:
        import mlflow.pyfunc as flavor
    return flavor.load_model(str(path))


def _package_of(model: Any) -> str | None:
    """``keras`` or ``sklearn``, whose class the model's class descends from; without importing either."""
    packages = [base.__module__.partition(".")[0] for base in type(model).__mro__]
    return next((package for package in packages if package in ("keras", "sklearn")), None)
