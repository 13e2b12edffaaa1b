"""Models as MLflow's artifacts: what they ask for is what is installed here."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from hpo_core.tracking.models import requirement_of, save_model


@pytest.mark.parametrize("module", ["tensorflow", "sklearn", "numpy"])
def test_a_requirement_names_what_is_installed(module: str) -> None:
    """TensorFlow, for one, is installed as tensorflow or as tensorflow-cpu."""
    pytest.importorskip(module)
    name, _, release = requirement_of(module).partition("==")
    assert version(name) == release


@pytest.mark.filterwarnings("ignore")  # TensorFlow and MLflow warn of themselves; users see it in a worker's output
def test_a_keras_model_is_saved_with_whatever_tensorflow_there_is(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    save_model(model, tmp_path / "model", np.zeros((3, 2), dtype="float32"))
    asked = (tmp_path / "model" / "requirements.txt").read_text()
    assert requirement_of("tensorflow") in asked and (tmp_path / "model" / "MLmodel").exists()
