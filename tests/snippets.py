"""What the documents' fragments take for granted, and what is done with what they define; by page and heading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpo_flows.objectives.context import TrialContext


def a_trial(folder: Path, **given: Any) -> TrialContext:
    """A trial as a worker hands it to an objective, with what it sends thrown away."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    context: dict[str, Any] = {"config": {}, "number": 0, "seed": 1, "fidelity": None}
    return TrialContext(scratch=scratch, outbox=folder / "outbox", send=lambda message: None, **context | given)


NETWORK = """
import numpy as np, keras, tensorflow as tf
def build_model(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Int("units", 2, 8), activation="relu"),
                              keras.layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")),
                  "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
rng = np.random.default_rng(0)
x, x_val = rng.normal(size=(60, 4)).astype("float32"), rng.normal(size=(30, 4)).astype("float32")
y, y_val = (abs(x).argmax(1) % 3), (abs(x_val).argmax(1) % 3)
"""
BILEVEL = """
import numpy as np, keras, tensorflow as tf
from hpo_flows import hypergradient as hg
rng = np.random.default_rng(0)
n = 60
x, x_val = rng.normal(size=(n, 4)).astype("float32"), rng.normal(size=(30, 4)).astype("float32")
y_one_hot, y_val = (np.eye(3, dtype="float32")[abs(each).argmax(1) % 3] for each in (x, x_val))
def build():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, activation="tanh", name="first"),
                             hg.RelaxedDropout(name="drop"), keras.layers.Dense(3, name="last")])
values = {"learning_rate": 0.1, "l2_first": 1e-3, "dropout": 0.2, "label_smoothing": 0.1}
"""
WINE = """
from sklearn.datasets import load_wine
from sklearn.tree import DecisionTreeClassifier
X, y = load_wine(return_X_y=True)
"""
TREE = WINE + "data = lambda: (X, y)\nbuild = lambda config: DecisionTreeClassifier(**config)\n"

BOOSTING = """
import numpy as np
rng = np.random.default_rng(0)
X, X_valid = rng.normal(size=(100, 3)), rng.normal(size=(50, 3))
y, y_valid = (X[:, 0] > 0).astype(int), (X_valid[:, 0] > 0).astype(int)
"""

TORCH = """
import warnings, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
warnings.filterwarnings("ignore")
EPOCHS = 9
X = torch.randn(64, 3)
y = (X[:, 0] > 0).long()
loader = valid_loader = DataLoader(TensorDataset(X, y), 16)
build = lambda config: nn.Linear(3, 2)
def evaluate(model):
    return {"val_loss": nn.functional.cross_entropy(model(X), y).item()}
def fit(model, loader, optimizer):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(X), y).backward()
    optimizer.step()
"""
LIGHTNING = """
import lightning as L
class Network(L.LightningModule):
    def __init__(self, learning_rate):
        super().__init__()
        self.rate, self.layer = learning_rate, nn.Linear(3, 2)
    def training_step(self, batch):
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
    def validation_step(self, batch):
        self.log("val_loss", nn.functional.cross_entropy(self.layer(batch[0]), batch[1]))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.rate)
"""
TRANSFORMERS = """
import transformers
size = {"vocab_size": 16, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
build = lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, bos_token_id=0, eos_token_id=0))
data = valid = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 8
"""

BEFORE: dict[str, str] = {
    "docs/how-to/torch.md: A loop of your own": TORCH,
    "docs/how-to/torch.md: Lightning": TORCH + LIGHTNING,
    "docs/how-to/torch.md: Transformers": TORCH + TRANSFORMERS,
    "docs/how-to/boosting.md: XGBoost": BOOSTING
    + "import xgboost as xgb\ndata, valid = xgb.DMatrix(X, y), xgb.DMatrix(X_valid, y_valid)",
    "docs/how-to/boosting.md: LightGBM": BOOSTING
    + "import lightgbm as lgb\ndata = lgb.Dataset(X, y)\nvalid = data.create_valid(X_valid, y_valid)",
    "docs/how-to/boosting.md: CatBoost": BOOSTING + "from catboost import CatBoostClassifier",
    "README.md: A study file (2)": """
loss, accuracy, test = 0.5, 0.8, 0.7
def build(filters, momentum):
    trial_folder.joinpath("model.keras").write_text("weights")
trial = a_trial(config={"filters": 8})
trial_folder = trial.scratch
""",
    "README.md: A Keras script": NETWORK,
    "docs/tutorial/keras.md: Write it": """
import numpy as np
from sklearn.datasets import load_digits
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
x, y, x_val, y_val = x[:300], y[:300], x[300:400], y[300:400]
""",
    "docs/how-to/keras.md: A study file (2)": NETWORK,
    "docs/how-to/keras.md: The final choice by cross-validation": NETWORK
    + "from hpo_flows.keras import keras_objective\n",
    "docs/how-to/keras.md: Where a script's trials train": NETWORK
    + """
import hpo_flows.keras as kt
augment = lambda image, label: (image + tf.random.normal([4]), label)
""",
    "docs/how-to/keras.md: A run_trial of your own": "import hpo_flows.keras as kt",
    "docs/how-to/keras.md: A run_trial of your own (2)": """
import keras
import hpo_flows.keras as kt
def build_model(hp):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model
hp, train = kt.HyperParameters(), lambda hp: hp.get("x")
hp.Float("x", 0.0, 1.0)
""",
    "docs/how-to/final-choice.md: In the objective": TREE,
    "docs/how-to/folds.md: Cross-validation in each trial": TREE,
    "docs/how-to/limits.md: Keep to limits on results (2)": """
fit, latency, size = lambda config: ("a model", 0.8, 0.01), lambda model: 12.0, lambda model: 3.0
""",
    "docs/how-to/objectives.md: Two or three objectives (2)": """
fit, latency = lambda config: ("a model", 0.8), lambda model: 12.0
""",
    "docs/how-to/cost.md: Tune where trainings differ in cost (2)": "fit = lambda config: (0.8, 2.0)",
    "docs/reference/python.md: Python": """
from hpo_core.lineage.opening import open_study
from hpo_core.study.file import study_from
from hpo_core.tracking.connection import connect
space = {"x": {"type": "float", "low": 0, "high": 1}}
given = {"objective": "digits:train", "metric": "loss", "direction": "minimize", "space": space, "stop": {"trials": 1}}
open_study(connect(), study_from({"name": "digits"} | given))
""",
    "docs/how-to/running-study.md: From Python": """
from hpo_flows import open_study
space = {"learning_rate": {"type": "float", "low": 1e-4, "high": 1, "log": True}}
open_study(name="digits", space=space, metric="loss", trials=3)
""",
    "docs/how-to/models.md: scikit-learn": WINE,
    "docs/how-to/models.md: Keep the model of the best trials (2)": "experiment_id = '0'",
    "docs/how-to/models.md: MLflow's own calls and autologging": """
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
X, y = load_wine(return_X_y=True)
X_test, y_test = X, y
""",
    "docs/how-to/models.md: Keep the model of the best trials": WINE
    + """
from hpo_flows.objectives.metrics import log_pictures
model = DecisionTreeClassifier(max_depth=2).fit(X, y)
predicted, probabilities, trial = model.predict(X), model.predict_proba(X), a_trial()
""",
    "docs/how-to/multi-fidelity.md: The objective": """
accuracy = 0.5
build = dict
def save(model, folder):
    (folder / "done").write_text("3")
def load(folder):
    return {}, int((folder / "done").read_text())
""",
    "docs/how-to/champion.md: In the objective": TREE,
    "docs/how-to/notifications.md: From Prefect (2)": "import os",
    "docs/how-to/notifications.md: From Prefect (3)": "import os",
    "docs/how-to/schedules.md: Data that change (2)": "features, targets = [[1.0], [2.0]], [0, 1]",
    "docs/how-to/gradient.md: Gradients (2)": "loss_and_slope = lambda config: (config['l2'], 1.0)",
    "docs/how-to/gradient.md: Keras models": BILEVEL,
    "docs/how-to/gradient.md: Keras models (2)": BILEVEL + "found = {",
    "docs/how-to/gradient.md: Thousands of hyperparameters": BILEVEL
    + """
trial = a_trial(config={"learning_rate": 0.1})
problem = hg.Bilevel(build, loss=hg.cross_entropy, train=(x, y_one_hot), validation=(x_val, y_val), batch=20,
                     hyperparameters={"learning_rate": hg.learning_rate(),
                                      "example_weights": hg.example_weights(np.arange(n))})
""",
}

TRAIN = "assert 0 <= objective(a_trial(config={'units': 4, 'learning_rate': 0.01}))['val_accuracy'] <= 1"

DESCRIBE = "from hpo_flows.objectives.datasets import describe\ndescribe(*load())"

BOOSTED = "found = train(a_trial(config={'learning_rate': 0.3}, fidelity=3.0))\nassert 0 < found["

AFTER: dict[str, str] = {
    "docs/how-to/torch.md: A loop of your own": BOOSTED + "'val_loss'] < 2",
    "docs/how-to/torch.md: Lightning": BOOSTED + "'val_loss'] < 2",
    "docs/how-to/torch.md: Transformers": BOOSTED + "'eval_loss'] < 5",
    "docs/how-to/boosting.md: XGBoost": BOOSTED + "'valid-logloss'] < 0.6",
    "docs/how-to/boosting.md: LightGBM": BOOSTED + "'valid_0-binary_logloss'] < 0.6",
    "docs/how-to/boosting.md: CatBoost": BOOSTED + "'validation-Logloss'] < 0.6",
    "docs/how-to/champion.md: In the objective": "assert train(a_trial(config={'max_depth': 3}))['accuracy'] > 0.6",
    "docs/how-to/schedules.md: Data that change (2)": DESCRIBE,
    "README.md: A study file (2)": "assert train(trial)['val_accuracy'] == 0.8",
    "README.md: A function": "assert len(result.history.trials) == 20 and result.best_value < 0.1",
    "README.md: A Keras script": "assert model.predict(x, verbose=0).shape == (60, 3)",
    "docs/tutorial/keras.md: Write it": "assert model.predict(x, verbose=0).shape == (300, 10) and best['layers'] < 4",
    "docs/how-to/keras.md: A study file (2)": TRAIN,
    "docs/how-to/keras.md: The final choice by cross-validation": TRAIN,
    "docs/how-to/keras.md: Where a script's trials train": "assert len(tuner.oracle.trials) == 4",
    "docs/how-to/keras.md: A run_trial of your own (2)": """
assert tuner.remaining_trials == 0 and tuner.results_["best_score"] < 1
""",
    "docs/how-to/final-choice.md: In the objective": "assert train(a_trial(config={'max_depth': 3}))['accuracy'] > 0.6",
    "docs/how-to/folds.md: Cross-validation in each trial": """
assert train(a_trial(config={'max_depth': 3}, answer=lambda: True))['accuracy'] > 0.6
""",
    "docs/how-to/limits.md: Keep to limits on results (2)": "assert train(a_trial())['size_mb'] == 3.0",
    "docs/how-to/objectives.md: Two or three objectives (2)": "assert train(a_trial())['latency_ms'] == 12.0",
    "docs/how-to/objectives.md: Two or three objectives (3)": "assert len(result.pareto) > 1",
    "docs/how-to/limits.md: From Python and the command line": "assert result.best.feasible",
    "docs/how-to/cost.md: Tune where trainings differ in cost (2)": "assert train(a_trial())['dollars'] == 5.0",
    "docs/how-to/cost.md: Tune where trainings differ in cost (3)": "assert 'cost of' in result.reason",
    "docs/how-to/prior.md: Say what you believe is good (2)": """
assert abs(result.history.trials[0].config["learning_rate"] - 1e-3) < 1e-9
""",
    "docs/how-to/models.md: scikit-learn": "assert train(a_trial(config={'max_depth': 3}))['accuracy'] > 0.6",
    "docs/how-to/models.md: Keep the model of the best trials": "trial.finish_best()",
    "docs/how-to/models.md: MLflow's own calls and autologging": """
try:
    assert train(a_trial(config={"C": 1.0})) > 0.9
finally:
    mlflow.autolog(disable=True)
    mlflow.end_run()
""",
    "docs/how-to/multi-fidelity.md: The objective": "assert train(a_trial(fidelity=3.0)) == 0.5",
    "docs/how-to/own-strategy.md: Your own (2)": """
from hpo_core import Float
assert len(Narrow().propose(SearchSpace({"x": Float(low=0, high=1)}), History(), 2, seed=0)) == 2
""",
    "docs/how-to/gradient.md: Gradients (2)": "assert train(a_trial(config={'l2': 0.5})) == 0.5",
    "docs/how-to/gradient.md: Keras models": "assert train(a_trial(config=values))['val_loss'] > 0",
    "docs/how-to/gradient.md: Keras models (2)": """
}
del found["width"]  # of a layer that this model lacks
problem = hg.Bilevel(build, loss=hg.cross_entropy, train=(x, y_one_hot), validation=(x_val, y_val), batch=20,
                     hyperparameters={"learning_rate": hg.learning_rate(), **found})
slopes = hg.reverse(problem, {"learning_rate": 0.1, "spread": 0.1, "flip": 0.1, "tint": 0.0}, steps=5).hypergradient
assert all(slopes[name] != 0 for name in found)
""",
}

NEEDS = {
    **{f"docs/how-to/boosting.md: {name}": name.lower() for name in ("XGBoost", "LightGBM", "CatBoost")},
    **{f"docs/how-to/torch.md: {name}": name.lower() for name in ("Lightning", "Transformers")},
    "docs/how-to/torch.md: A loop of your own": "torch",
}
"""The package of a block that is skipped where it is not installed."""

ENVIRONMENT = {"HOOK": "http://127.0.0.1:9/", "SLACK_WEBHOOK": "http://127.0.0.1:9/", "SENDGRID_API_KEY": "key"}

SLOW = {
    "docs/how-to/torch.md: A loop of your own", "docs/how-to/torch.md: Lightning", "docs/how-to/torch.md: Transformers",
    "README.md: A Keras script", "docs/tutorial/keras.md: Write it", "docs/how-to/keras.md: A study file (2)",
    "docs/how-to/keras.md: The final choice by cross-validation",
    "docs/how-to/keras.md: Where a script's trials train", "docs/how-to/gradient.md: Keras models",
    "docs/how-to/gradient.md: Keras models (2)", "docs/how-to/gradient.md: Thousands of hyperparameters",
    "docs/how-to/models.md: Keep the model of the best trials", "docs/reference/coming-from.md: Optuna",
    "docs/how-to/keras.md: A run_trial of your own (2)",
    "docs/how-to/models.md: Keep the model of the best trials (2)",
    "docs/how-to/models.md: MLflow's own calls and autologging",
    "docs/how-to/limits.md: From Python and the command line",
    "docs/how-to/cost.md: Tune where trainings differ in cost (3)",
    "docs/how-to/prior.md: Say what you believe is good (2)",
}  # fmt: skip
"""Blocks that import TensorFlow, write a model, or run a study as others do already."""

NOT_RUN: dict[str, str] = {
    "docs/explanation/architecture.md: Architecture": "a drawing",
    "docs/explanation/architecture.md: The round": "a drawing",
    "docs/explanation/comparisons.md: The champion": "a formula",
    "docs/explanation/noise.md: What you see": "an output",
    "docs/how-to/own-strategy.md: Your own (3)": "of a package; tests/hpo_core/strategies/test_own.py registers one",
    "docs/how-to/debugging.md: Debugging a trial (2)": "a terminal",
    "docs/how-to/running-study.md: Another space (2)": "an output",
    "docs/how-to/prefect.md: Deploy a new champion": "waits for runs; test_docs_prefect.py runs it",
    "docs/how-to/prefect.md: Deploy a new champion (2)": "test_docs_prefect.py runs it",
}
"""Blocks that nothing runs, each with the reason."""
