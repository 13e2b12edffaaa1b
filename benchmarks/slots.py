"""How busy the slots are: training time / (slots x wall time), with trials of unequal length around five seconds.

Wall time is from the first trial's start to the last one's end, so that the start of Prefect and of the workers,
paid once a run, is told apart; it is printed too.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from hpo_core import Float
from hpo_flows.api import run_study
from hpo_flows.objectives.context import TrialContext

PARALLEL, TRIALS = 2, 16


def sleep(trial: TrialContext) -> float:
    """Stands for a training that keeps one core busy elsewhere."""
    started = time.monotonic()
    time.sleep(float(trial.config["seconds"]))  # type: ignore[arg-type]
    return time.monotonic() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        result = run_study(
            sleep,
            name="slots",
            space={"seconds": Float(low=3.0, high=7.0)},
            metric="seconds",
            strategy="random",
            trials=TRIALS,
            parallel=PARALLEL,
            tracking_uri=f"sqlite:///{Path(folder)}/mlflow.db",
            progress=False,
        )
    trials = result.history.complete
    start = min(trial.start for trial in trials) / 1000
    wall = max(trial.end or 0 for trial in trials) / 1000 - start
    training = sum(trial.metrics["seconds"] for trial in trials)
    print(f"{len(trials)} trials of {training / len(trials):.1f} s on {PARALLEL} slots")
    print(f"training / (slots x wall): {training / PARALLEL / wall:.3f}")
    print(f"from the call to the first trial's start: {start - began:.1f} s")


if __name__ == "__main__":
    main()
