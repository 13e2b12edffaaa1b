"""What a Keras training of about ten seconds pays for being a trial, against the same training without any of it.

    python -m benchmarks.keras_overhead [--epochs 100] [--repeats 5]

One study over sqlite trains the same network in turns: *bare* is ``model.fit`` alone, *logged* is
:func:`hpo_flows.keras.keras_objective` with the curve, learning rate, best epoch and weights of the best epoch. Both
are timed in the worker, around build and training; what MLflow costs is paid by the flow's process meanwhile, and
stands beside. The first of each is not counted, since it imports TensorFlow.

    python -m benchmarks.keras_overhead --script [--repeats 5]

A whole script instead, as users of KerasTuner have it (:mod:`benchmarks.keras_ten_trials`): with KerasTuner, with
trials in worker processes, and with trials in the script's own process, in turns, each in a fresh process. Processor
time is that of all processes that it started, servers included.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import keras_ten_trials
from benchmarks.keras_digits import bare, build_model, digits
from hpo_core import Boolean, Fixed, Int
from hpo_flows.api import run_study
from hpo_flows.keras.training.objective import keras_objective
from hpo_flows.objectives.context import TrialContext


def timed(trial: TrialContext) -> dict[str, float]:
    """Train one way or the other; returns processor and wall time in seconds."""
    epochs = int(trial.config["epochs"])  # type: ignore[arg-type]
    cpu, wall = time.process_time(), time.perf_counter()
    if trial.config["logged"]:
        keras_objective(build_model, digits, epochs=epochs, objective="val_accuracy", keep_model=True)(trial)
    else:
        bare(trial, epochs)
    return {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}


WAYS = ("kerastuner", "process", "none")


def _measured(way: str) -> tuple[float, float]:
    """The processor time and the wall time of a script, in seconds."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    with tempfile.TemporaryDirectory() as folder:
        before, began = spent(), time.perf_counter()
        command = [sys.executable, "-m", keras_ten_trials.__name__, way, folder]
        subprocess.run(command, check=True, capture_output=True)
        return spent() - before, time.perf_counter() - began


def compare_scripts(repeats: int) -> None:
    """Print the times of a script in each way, and their ratios to KerasTuner's, round by round."""
    rounds = [{way: _measured(way) for way in WAYS} for _ in range(repeats)]
    for unit, place in (("cpu_seconds", 0), ("wall_seconds", 1)):
        for way in WAYS:
            times = [each[way][place] for each in rounds]
            ratios = [each[way][place] / each[WAYS[0]][place] for each in rounds]
            spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{unit}: {way} {median(times):.1f}; ratio to {WAYS[0]} {spread}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--script", action="store_true", help="compare whole scripts instead")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    if given.script:
        compare_scripts(given.repeats)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HPO_HOME"] = f"{folder}/home"
        began = time.process_time()
        space: dict[str, Any] = {
            "repeat": Int(low=0, high=given.repeats),
            "logged": Boolean(),
            "epochs": Fixed(value=given.epochs),
            "filters": Fixed(value=16),
        }
        result = run_study(
            timed,
            name="overhead",
            space=space,
            metric="cpu_seconds",
            strategy={"name": "grid", "steps": given.repeats + 1},
            trials=2 * (given.repeats + 1),
            tracking_uri=f"sqlite:///{Path(folder)}/mlflow.db",
            progress=False,
        )
        flow = (time.process_time() - began) / len(result.history.complete)
    for unit in ("cpu_seconds", "wall_seconds"):
        times = {
            logged: [
                trial.metrics[unit]
                for trial in result.history.complete
                if trial.config["logged"] is logged and trial.config["repeat"] != 0
            ]
            for logged in (False, True)
        }
        pairs = [with_ / without for without, with_ in zip(times[False], times[True], strict=True)]
        print(
            f"{unit}: bare {median(times[False]):.2f}, logged {median(times[True]):.2f}; "
            f"ratio of pairs {median(pairs):.3f} ({min(pairs):.3f} to {max(pairs):.3f})"
        )
    print(f"processor time of the flow's process, start included: {flow:.2f} s a trial")


if __name__ == "__main__":
    main()
