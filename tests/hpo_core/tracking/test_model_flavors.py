"""A model of each library, in an environment that has its requirements and nothing else, predicts what it did here."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo_core.tracking.models import save_model
from tests.conftest import ModelServer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the libraries' own; they are users' to see

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
Y = (X[:, 0] > 0).astype(int)

OWN = "import numpy as np\ndef doubled(rows):\n    return 2 * np.asarray(rows)\n"

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)
    def forward(self, rows):
        return self.linear(rows)
"""

LIGHTNING = NET.replace("import torch\n", "import torch, lightning\n").replace(
    "torch.nn.Module", "lightning.LightningModule"
)


def _sklearn(own: Any) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    return make_pipeline(FunctionTransformer(own(OWN).doubled), LogisticRegression()).fit(X, Y)


def _keras(own: Any) -> Any:
    keras = pytest.importorskip("keras")
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


def _xgboost(own: Any) -> Any:
    return pytest.importorskip("xgboost").XGBClassifier(n_estimators=3).fit(X, Y)


def _xgboost_pipeline(own: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), _xgboost(own)).fit(X, Y)


def _xgboost_native(own: Any) -> Any:
    xgboost = pytest.importorskip("xgboost")
    return xgboost.train({"max_depth": 2}, xgboost.DMatrix(X, Y), 3)


def _lightgbm(own: Any) -> Any:
    return pytest.importorskip("lightgbm").LGBMClassifier(n_estimators=3, min_child_samples=2, verbose=-1).fit(X, Y)


def _catboost(own: Any) -> Any:
    catboost = pytest.importorskip("catboost")
    return catboost.CatBoostClassifier(iterations=3, verbose=False, allow_writing_files=False).fit(X, Y)


def _pytorch(own: Any) -> Any:
    pytest.importorskip("torch")
    return own(NET).Net()


def _lightning(own: Any) -> Any:
    pytest.importorskip("lightning")
    return own(LIGHTNING).Net()


def _transformers(own: Any) -> Any:
    hf = pytest.importorskip("transformers")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "forty": 2, "two": 3}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    words = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = hf.BertForSequenceClassification(hf.BertConfig(vocab_size=4, **size))
    return hf.pipeline("text-classification", model=model, tokenizer=words, device="cpu")


MODELS: list[Callable[[Any], Any]] = [
    _sklearn, _keras, _xgboost, _xgboost_pipeline, _xgboost_native, _lightgbm, _catboost, _pytorch, _lightning,
    _transformers,
]  # fmt: skip

SERVED = [_xgboost, _pytorch, _transformers]


def _example(make: Callable[[Any], Any]) -> Any:
    return ["forty two", "two"] if make is _transformers else X[:5]


PREDICT = """
import sys, mlflow.pyfunc, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
assert model.metadata.signature is not None and model.input_example is not None
found = model.predict(model.input_example)
numpy.save(sys.argv[2], numpy.asarray(found["score"] if "label" in found else found))  # of a pipeline for texts
"""


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__.strip("_"))
def test_a_model_predicts_where_nothing_but_its_requirements_is(
    make: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    name = f"of_{make.__name__.strip('_')}"  # each of its own, since a module stays imported

    def own(code: str) -> Any:
        (tmp_path / "own" / f"{name}.py").write_text(code)
        return importlib.import_module(name)

    save_model(make(own), tmp_path / "model", _example(make))
    expected = _predicted(tmp_path, sys.executable, "here")
    shutil.rmtree(tmp_path / "own")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "fresh")], check=True)
    python = str(tmp_path / "fresh" / "bin" / "python")
    install = _installer(python)
    subprocess.run([*install, "-r", str(tmp_path / "model" / "requirements.txt")], check=True)
    found = _predicted(tmp_path, python, "there")
    assert found == pytest.approx(expected, rel=1e-5), json.dumps([*map(float, np.ravel(found))])


@pytest.mark.parametrize("make", SERVED, ids=lambda make: make.__name__.strip("_"))
def test_a_served_model_answers(make: Callable[[Any], Any], tmp_path: Path) -> None:
    def own(code: str) -> Any:
        module = types.ModuleType("__main__")  # as in a notebook
        exec(code, vars(module))
        return module

    rows = _example(make)
    save_model(make(own), tmp_path / "model", rows)
    server = ModelServer(tmp_path, str(tmp_path / "model"))
    server.start()
    try:
        answers = server.predictions(rows if isinstance(rows, list) else rows.tolist())
    finally:
        server.stop()
    found = [answer["score"] if isinstance(answer, dict) else answer for answer in answers]
    assert found == pytest.approx(_predicted(tmp_path, sys.executable, "here"), rel=1e-5)


def _predicted(folder: Path, python: str, name: str) -> np.ndarray:
    """What the model predicts for its example, by an interpreter that sees none of the user's modules."""
    out = folder / f"{name}.npy"
    subprocess.run([python, "-c", PREDICT, str(folder / "model"), str(out)], check=True, cwd=folder)
    return np.load(out)


def _installer(python: str) -> list[str]:
    if (uv := shutil.which("uv")) is not None:
        return [uv, "pip", "install", "-q", "--python", python]
    subprocess.run([python, "-m", "ensurepip"], check=True)
    return [python, "-m", "pip", "install", "-q"]
