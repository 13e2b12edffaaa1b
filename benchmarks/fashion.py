"""How long until a real network is as good as random search makes it with 30 full trainings: Fashion-MNIST, in Keras.

    FASHION_MNIST=folder python -m benchmarks.fashion hyperband:sampler=tpe

Every strategy tunes the same network (10,000 images to train on, 2,000 to be scored on, 9 epochs in full) on two worker
processes, MLflow on sqlite. Told are the accuracy that random search has after 30 full trainings, and for each strategy
the time and the full trainings' worth until a trial has it (or until it ends, if none has), beside random search's.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.contenders import settings_of
from benchmarks.measure import table
from hpo_core.fidelity import Fidelity
from hpo_core.history import History

FIDELITY = {"name": "epochs", "min": 1, "max": 9, "eta": 3}
TRAININGS = 30


def images() -> dict[str, Any]:
    from examples.fashion_mnist import clothes

    x, y, _ = clothes()
    return {
        "x": x[:10_000],
        "y": y[:10_000],
        "validation_data": (x[10_000:12_000], y[10_000:12_000]),
        "batch_size": 128,
    }


def build_model(hp: Any) -> Any:
    import keras

    filters = hp.Int("filters", 8, 32, step=8)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(filters, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(2 * filters, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dropout(hp.Float("dropout", 0.0, 0.6)),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    rate = hp.Float("learning_rate", 1e-5, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def objective(trial: Any) -> dict[str, float]:
    from flows.keras import keras_objective

    trained: dict[str, float] = keras_objective(build_model, images, epochs=9, objective="val_accuracy")(trial)
    return trained


def tuned(name: str) -> History:
    """A whole study of a strategy."""
    from flows.api import open_ledger, run
    from flows.objective import Objective
    from hpo_core.study import study_from

    label, settings = settings_of(name)
    spec = study_from(
        {
            "name": name.replace(":", "-"),
            "objective": "benchmarks.fashion:objective",
            "metric": "val_accuracy",
            "direction": "maximize",
            "space": {
                "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
                "filters": {"type": "int", "low": 8, "high": 32, "step": 8},
                "dropout": {"type": "float", "low": 0.0, "high": 0.6},
            },
            "strategy": {"name": label, **settings},
            "fidelity": FIDELITY,
            "stop": {"full_trainings": TRAININGS},
            "parallel": 2,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        ledger = open_ledger(spec, f"sqlite:///{folder}/mlflow.db")
        return run(ledger, Objective(spec.objective, [str(Path.cwd())])).history


def reached(history: History, accuracy: float) -> tuple[float, float, float]:
    """Seconds and full trainings' worth until a trial has the accuracy (all of them if none has), and the best."""
    start = min(trial.start for trial in history)
    ended = sorted(history.complete, key=lambda trial: trial.end or 0)
    best = 0.0
    for i, trial in enumerate(ended):
        best = max(best, -(trial.loss or 0.0))
        if best >= accuracy:
            return ((trial.end or 0) - start) / 1000, History(ended[: i + 1]).spent(_scale()), best
    return ((ended[-1].end or 0) - start) / 1000, history.spent(_scale()), best


def _scale() -> Fidelity:
    return Fidelity(**FIDELITY)  # type: ignore[arg-type]


def command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("strategies", nargs="+")
    strategies = parser.parse_args().strategies
    os.environ["HPO_REPORT"] = "off"
    random = tuned("random")
    whole, spent, goal = reached(random, 2.0)
    rows = [["random, all of it", f"{whole:.0f}", f"{spent:.1f}", f"{goal:.4f}", "1"]]
    for name in strategies:
        seconds, spent, best = reached(tuned(name), goal)
        rows.append([name, f"{seconds:.0f}", f"{spent:.1f}", f"{best:.4f}", f"{seconds / whole:.2f}"])
    print(table(["strategy", "s", "full trainings", "accuracy", "time / random's"], rows))


if __name__ == "__main__":
    command_line()
