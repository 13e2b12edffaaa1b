"""How soon a real network is as good as random search makes it with 30 full trainings: Fashion-MNIST, in Keras.

    python -m benchmarks.fashion run hyperband hyperband:sampler=tpe peer:kerastuner --seeds 2
    python -m benchmarks.fashion table

Every study tunes the same small network (5,000 images to train on, 2,000 to be scored on, at most 9 epochs), one
training at a time. Random search comes first and trains to the end always; its best accuracy of a seed is the goal for
the others of that seed, which end once a training has it, or with 30 full trainings' worth. ``run`` writes a line a
study and passes over those that its file has. Needs Fashion-MNIST, as ``examples/fashion_mnist.py`` does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.contenders import settings_of
from benchmarks.measure import table as markdown

EPOCHS, TRAININGS = 9, 30
FIDELITY = {"name": "epochs", "min": 1, "max": EPOCHS, "eta": 3}
OUT = Path("fashion.jsonl")

Curve = list[tuple[float, int, float]]
"""Seconds, epochs trained and the best accuracy so far, each time that a training has ended."""


@cache
def images() -> dict[str, Any]:
    """The arguments of ``fit``."""
    from examples.fashion_mnist import clothes

    x, y, _ = clothes()
    return {"x": x[:5000], "y": y[:5000], "validation_data": (x[5000:7000], y[5000:7000]), "batch_size": 64}


def build_model(hp: Any) -> Any:
    """Two convolutions; a quarter of the learning rates is good for nothing."""
    import keras

    filters = hp.Int("filters", 4, 16, step=4)
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
    """One training of a study of ours."""
    from hpo_flows.keras.training.objective import keras_objective

    return dict(keras_objective(build_model, images, epochs=EPOCHS, objective="val_accuracy")(trial))


def ours(name: str, seed: int, goal: float | None) -> Curve:
    """A study of a strategy, with MLflow on sqlite and Prefect's temporary server."""
    from hpo_core.study.file import study_from
    from hpo_flows.api import open_ledger, run
    from hpo_flows.objectives.reference import Objective

    label, settings = settings_of(name)
    spec = study_from(
        {
            "name": name.replace(":", "-"),
            "objective": "benchmarks.fashion:objective",
            "metric": "val_accuracy",
            "direction": "maximize",
            "space": {
                "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
                "filters": {"type": "int", "low": 4, "high": 16, "step": 4},
                "dropout": {"type": "float", "low": 0.0, "high": 0.6},
            },
            "strategy": {"name": label, **settings},
            "fidelity": FIDELITY,
            "stop": {"full_trainings": TRAININGS} | ({} if goal is None else {"target": goal}),
            "seed": seed,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HPO_HOME"] = f"{folder}/home"
        ledger = open_ledger(spec, f"sqlite:///{folder}/mlflow.db")
        history = run(ledger, Objective(spec.objective, [str(Path.cwd())])).history
    ended = sorted(history.complete, key=lambda trial: trial.end or 0)
    start = min(trial.start or 0 for trial in ended)
    curve, epochs, best = Curve(), 0, 0.0
    done = {trial.number: round(trial.fidelity or 0) for trial in ended}
    for trial in ended:
        epochs += done[trial.number] - (0 if trial.resumed is None else done[trial.resumed])
        best = max(best, -(trial.loss or 0.0))
        curve.append((((trial.end or 0) - start) / 1000, epochs, best))
    return curve


def keras_tuner(seed: int, goal: float | None) -> Curve:
    """KerasTuner's Hyperband, brackets over again until it has the goal."""
    import keras_tuner as kt

    began, curve, epochs = time.monotonic(), Curve(), 0

    class Watched(kt.Hyperband):  # type: ignore[misc]
        def on_trial_end(self, trial: Any) -> None:
            nonlocal epochs
            super().on_trial_end(trial)
            values = trial.hyperparameters.values
            epochs += values["tuner/epochs"] - values["tuner/initial_epoch"]
            best = max(trial.score, curve[-1][2] if curve else 0.0)
            curve.append((time.monotonic() - began, epochs, best))
            if best >= (goal or 2.0) or epochs >= TRAININGS * EPOCHS:
                raise StopIteration

    with tempfile.TemporaryDirectory() as folder:
        tuner = Watched(
            build_model,
            "val_accuracy",
            max_epochs=EPOCHS,
            factor=FIDELITY["eta"],
            hyperband_iterations=TRAININGS,
            seed=seed + 1,  # of 0 it makes a random one
            directory=folder,
        )
        try:
            tuner.search(**images(), verbose=0)
        except StopIteration:
            pass
    return curve


def run(names: list[str], seeds: int, out: Path) -> None:
    """Every study that the file does not have yet."""
    done = {(line["strategy"], line["seed"]): line["curve"] for line in _lines(out)}
    for seed in range(seeds):
        for name in ["random", *names]:
            if (name, seed) in done:
                continue
            goal = None if name == "random" else done["random", seed][-1][2]
            curve = keras_tuner(seed, goal) if name == "peer:kerastuner" else ours(name, seed, goal)
            done[name, seed] = curve
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"strategy": name, "seed": seed, "curve": curve}) + "\n")
            print(name, seed, curve[-1], file=sys.stderr)


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []


def table(out: Path) -> str:
    """For each study what it took to the goal, beside what random search took in all."""
    curves = {(line["strategy"], line["seed"]): line["curve"] for line in _lines(out)}
    rows: list[list[Any]] = []
    for name in dict.fromkeys(name for name, _ in curves):
        ratios: list[tuple[float, float]] = []
        for seed in sorted(seed for other, seed in curves if other == name):
            whole, spent, goal = curves["random", seed][-1]
            curve = curves[name, seed]
            seconds, epochs, best = next((point for point in curve if point[2] >= goal), curve[-1])
            ratios.append((epochs / spent, seconds / whole))
            rows.append([name, seed, len(curve), f"{best:.3f}", epochs, f"{seconds:.0f}", *map(_ratio, ratios[-1])])
        if name != "random":
            averages = [_ratio(mean(column)) for column in zip(*ratios, strict=True)]
            rows.append([name, "mean", "", "", "", "", *averages])
    return markdown(
        ["strategy", "seed", "trainings", "accuracy", "epochs", "s", "epochs / random's", "s / random's"], rows
    )


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("strategies", nargs="+")
    running.add_argument("--seeds", type=int, default=3)
    commands.add_parser("table")
    for each in commands.choices.values():
        each.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    os.environ["HPO_REPORT"] = "off"
    if given.command == "run":
        run(given.strategies, given.seeds, given.out)
    else:
        print(table(given.out))


if __name__ == "__main__":
    main()
