"""``python -m hpo_flows.keras script.py``: KerasTuner's name in an unchanged script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hpo_flows.keras", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_a_script_is_main_and_finds_us_under_keras_tuners_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/beside.py").write_text("from keras_tuner import HyperModel\n")
    script = """
import sys
import keras_tuner as kt
import kerastuner.tuners
import keras_tuner.engine.hyperparameters as hp_module
from keras_tuner import errors
from keras_tuner.src.tuners.randomsearch import RandomSearch
import beside
import hpo_flows.keras as ours

assert __name__ == "__main__" and sys.modules["__main__"].kt is kt is ours
assert __file__.endswith("sub/script.py") and sys.argv == ["sub/script.py", "--a", "b"]
assert RandomSearch is kerastuner.tuners.RandomSearch is ours.RandomSearch
assert beside.HyperModel is ours.HyperModel and errors is ours.errors
assert hp_module.Choice("c", [1]).default == 1 and "keras_tuner.applications" not in sys.modules
import keras_tuner.applications
assert keras_tuner.applications is ours.applications
print("done")

def fails():
    raise KeyError("mine")

fails()
"""
    (tmp_path / "sub/script.py").write_text(script)
    ran = run(tmp_path, "sub/script.py", "--a", "b")
    assert (ran.stdout, ran.returncode) == ("done\n", 1), ran.stderr
    assert "KeyError: 'mine'" in ran.stderr and "    fails()\n" in ran.stderr
    assert "hpo_flows" not in ran.stderr


@pytest.mark.parametrize("arguments", [[], ["absent.py"], ["."]])
def test_no_script(tmp_path: Path, arguments: list[str]) -> None:
    ran = run(tmp_path, *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: script: ") and ran.stderr.count("\n") == 1


@pytest.mark.slow
def test_what_a_script_defines_travels_to_the_workers(tmp_path: Path) -> None:
    script = """
import keras, numpy as np
import keras_tuner

class Scaled(keras.layers.Layer):
    def call(self, x):
        return x * 2.0

class Hyper(keras_tuner.HyperModel):
    def build(self, hp):
        import keras_tuner as again
        assert again.HyperModel is keras_tuner.HyperModel
        units = hp.Int("units (1)", 1, 4)
        model = keras.Sequential([keras.Input((2,)), Scaled(), keras.layers.Dense(units), keras.layers.Dense(1)])
        model.compile(loss="mse")
        return model

x = np.random.default_rng(0).random((32, 2))
tuner = keras_tuner.RandomSearch(Hyper(), "val_loss", max_trials=2, directory="out", project_name="mine/first")
tuner.search(x, x.sum(1), validation_data=(x, x.sum(1)), epochs=1)
print("best", tuner.get_best_hyperparameters()[0].values)
"""
    (tmp_path / "script.py").write_text(script)
    ran = run(tmp_path, "script.py")
    assert ran.returncode == 0, ran.stderr
    assert "best {'units (1)': " in ran.stdout
