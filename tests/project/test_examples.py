"""Every example's study file can be read, and its objective gives the metric that the file names."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo_core.base.extras import is_installed
from hpo_core.history.history import History
from hpo_core.selection.evaluation import Fold, Phase
from hpo_core.study.file import load_study
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.messages import Artifact, DatasetUsed
from tests.conftest import PATIENCE

ROOT = Path(__file__).parents[2]
FILES = sorted(path.stem for path in (ROOT / "examples").glob("*.yaml"))
NEEDS = {
    "xgboost_cancer": "xgboost",
    "lightgbm_digits": "lightgbm",
    "catboost_diabetes": "catboost",
    "torch_digits": "torch",
    "torch_ranks": "torch",
    "lightning_digits": "lightning",
    "transformers_numbers": "transformers",
}
SKLEARN = ["cancer_boosting", "diabetes_regression", "wine_tree"]


def call(example: str, folder: Path, phase: Phase = "search", fold: Fold | None = None) -> tuple[dict[str, float], Any]:
    """The objective of an example on its study's first proposal, as a worker calls it; and what it sent."""
    spec = load_study(ROOT / "examples" / f"{example}.yaml")
    config = spec.propose(History(), 1)[0].config
    module, _, name = spec.objective.partition(":")
    sent: list[Any] = []
    (folder / "scratch").mkdir()
    context = {"config": config, "number": 0, "seed": 1, "fidelity": None, "phase": phase, "fold": fold}
    trial = TrialContext(scratch=folder / "scratch", outbox=folder / "outbox", send=sent.append, **context)
    metrics = getattr(importlib.import_module(module), name)(trial)
    assert np.isfinite(metrics[spec.metric])
    if phase == "test":
        trial.finish_best()
    return metrics, sent


@pytest.mark.parametrize("example", FILES)
def test_a_study_file_is_valid(example: str) -> None:
    spec = load_study(ROOT / "examples" / f"{example}.yaml")
    assert (ROOT / f"{spec.objective.partition(':')[0].replace('.', '/')}.py").is_file()
    assert spec.propose(History(), 1)


@pytest.mark.parametrize("example", SKLEARN)
def test_a_scikit_learn_example(example: str, tmp_path: Path) -> None:
    metrics, sent = call(example, tmp_path, "fold", Fold(0, 5))
    assert metrics.get("accuracy", 1) > 0.6
    assert [type(message) for message in sent] == [DatasetUsed]


def write_clothes(folder: Path, rows: int) -> None:
    """Files as Fashion-MNIST's, with bright squares of ten sizes for clothes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", rows), ("t10k", rows // 3)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 40, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[: 2 * label + 4, : 2 * label + 4] += 200
        for kind, head, array in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(bytes(head) + array.tobytes()))


@pytest.mark.slow
@pytest.mark.parametrize("example", FILES)
def test_a_study_of_a_few_trials(example: str, tmp_path: Path) -> None:
    if (package := NEEDS.get(example)) and not is_installed(package):
        pytest.skip(f"{package} is not installed")
    study = ROOT / "examples" / f"{example}.yaml"
    spec = load_study(study)
    few = {"stop.trials": 3, "parallel": 1, "trial_timeout": PATIENCE}
    if spec.final is not None:
        few |= {"final.top": 2, "final.folds": 2}
    (tmp_path / "clothes").mkdir()
    write_clothes(tmp_path / "clothes", 600)
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "FASHION_MNIST": str(tmp_path / "clothes"),
        "PYTHONPATH": str(ROOT),
    }

    def hpo(*arguments: str) -> str:
        command = [sys.executable, "-m", "hpo_flows.cli", *arguments]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stdout + ended.stderr
        return ended.stdout

    hpo("tune", str(study), *(f"--set={key}={value}" for key, value in few.items()))
    status, best = (json.loads(hpo(command, spec.name, "--json")) for command in ("status", "best"))
    assert (status["complete"], status["failed"], status["running"]) == (3, 0, 0)
    assert np.isfinite(best["value"])
    assert (best["final"] is not None) is (spec.final is not None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TensorFlow's and MLflow's own
def test_the_keras_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, clothes = tmp_path / "rows", tmp_path / "clothes"
    rows.mkdir(), clothes.mkdir()
    metrics, sent = call("digit_rows", rows, "test")
    assert metrics["accuracy"] > 0.5
    assert [m.folder for m in sent if isinstance(m, Artifact)] == ["pictures", "pictures", "model"]

    digits = tmp_path / "digits"
    digits.mkdir()
    metrics, sent = call("digits_cnn", digits, "test")
    assert metrics["val_accuracy"] > 0.5
    assert [m.folder for m in sent if isinstance(m, Artifact)] == ["model"]

    from examples import fashion_mnist

    monkeypatch.setenv("FASHION_MNIST", str(clothes))
    with pytest.raises(FileNotFoundError, match=r"is not in .*dataset-fashion-mnist.*FASHION_MNIST"):
        fashion_mnist.clothes()
    write_clothes(clothes, 600)
    metrics, sent = call("fashion_mnist", clothes, "test")
    assert metrics["accuracy"] > 0.5
    dataset = next(m.dataset for m in sent if isinstance(m, DatasetUsed))
    assert dataset.profile == {"features_shape": [800, 28, 28, 1], "targets_shape": [800]}

    import mlflow.pyfunc

    path = next(Path(m.path) for m in sent if isinstance(m, Artifact) and m.folder == "model")
    images, _, _ = fashion_mnist.clothes()
    assert mlflow.pyfunc.load_model(str(path)).predict(images[:3]).shape == (3, 10)
