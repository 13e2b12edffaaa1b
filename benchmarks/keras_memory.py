"""What a worker process holds after each of 200 Keras trials, if it is not replaced.

    python -m benchmarks.keras_memory [--trials 200] [--bare]

Each trial builds a network of another size, trains it for two epochs with all that :mod:`hpo_flows.keras` does for a
trial, and keeps its weights. A flow replaces its workers after ``hpo_flows.workers.worker.MAX_TRIALS`` trials; here it
is not done. With ``--bare`` a trial is ``model.fit`` and ``clear_session`` alone.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import table
from hpo_flows.objectives.reference import Objective
from hpo_flows.workers.job import Job
from hpo_flows.workers.worker import Worker


def sizes(trials: int, objective: str) -> list[float]:
    """MiB held by one worker after each trial of an objective of :mod:`benchmarks.keras_digits`."""
    import sys

    found: list[float] = []
    worker = Worker([*sys.path])
    reference = Objective(f"benchmarks.keras_digits:{objective}", (".",))
    folder = Path(tempfile.mkdtemp())
    try:
        for number in range(trials):
            job = Job(
                reference, "val_accuracy", {"filters": 8 + number % 8}, number, number, None, folder / str(number)
            )
            worker.run(job, timeout=None, on_message=lambda message: None)
            shutil.rmtree(folder / str(number), ignore_errors=True)
            found.append(worker.size / 2**20)
    finally:
        worker.kill()
        shutil.rmtree(folder, ignore_errors=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--bare", action="store_true")
    given = parser.parse_args()
    found = sizes(given.trials, "bare" if given.bare else "objective")
    marks = [n for n in (1, 10, 25, 50, 100, 150, 200, 300, 400) if n <= len(found)]
    print(table(["trials", "MiB held"], [[n, found[n - 1]] for n in marks]))
    half = len(found) // 2
    slope = float(np.polyfit(np.arange(half), found[half : half * 2], 1)[0])
    print(f"growth in the second half: {slope:.3f} MiB a trial")


if __name__ == "__main__":
    main()
