"""What a trial costs beside its training: one of a no-op objective, on one store, step by step.

* bare: MLflow's create_run, log_batch and set_terminated, with the params and metrics that the ledger writes too.
* ledger: look, propose, reserve, report. Taken in turns with bare trials, so that both see the same weather.
* flow: the whole thing, a Prefect task and a worker process a trial.
* Prefect: a task that does nothing, through the same task runner.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from benchmarks.measure import milliseconds, mlflow_server, table
from benchmarks.population import METRICS, finish, reserve, ten_floats
from hpo_core import Float
from hpo_core.ledger.ledger import Ledger
from hpo_core.lineage.opening import open_study
from hpo_core.tracking.connection import connect
from hpo_flows.api import run_study
from hpo_flows.objectives.context import TrialContext

NAMES = [f"x{i}" for i in range(10)]


def bare_trial(client: MlflowClient, experiment: str) -> None:
    run = client.create_run(experiment).info.run_id
    now = int(1000 * time.time())
    metrics = [Metric(key, 0.5, now, 0) for key in [*METRICS, "loss"]]
    client.log_batch(run, metrics, [Param(name, str(0.123456789012)) for name in NAMES])
    client.set_terminated(run)


def ledger_trial(ledger: Ledger) -> None:
    finish(ledger, reserve(ledger, ledger.look()))


def nothing(trial: TrialContext) -> dict[str, float]:
    return {"loss": 0.5} | dict.fromkeys(METRICS, 0.5)


def flow_trial(uri: str, trials: int) -> float:
    """Milliseconds from one trial's start to the next one's, with one slot."""
    result = run_study(
        nothing,
        name="overhead of the flow",
        space={name: Float(low=0.0, high=1.0) for name in NAMES},
        metric="loss",
        strategy="random",
        trials=trials,
        tracking_uri=uri,
        progress=False,
    )
    return median(after.start - before.start for before, after in pairwise(result.history.trials))


def prefect_task(tasks: int) -> float:
    """Milliseconds from a task's submission to its result."""
    from prefect import flow, task
    from prefect.task_runners import ThreadPoolTaskRunner

    empty = task(lambda: None, name="empty", persist_result=False)
    times: list[float] = []

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1), persist_result=False)
    def empty_tasks() -> None:
        times.extend(milliseconds(lambda: empty.submit().result()) for _ in range(tasks))

    empty_tasks()
    return median(times)


def row(store: str, uri: str, trials: int, prefect: float) -> list[object]:
    ledger = open_study(connect(uri), ten_floats("overhead of the ledger"))
    client = MlflowClient(uri)
    bare, ours = [], []
    for _ in range(trials):
        bare.append(milliseconds(lambda: bare_trial(client, ledger.study_run.experiment)))
        ours.append(milliseconds(lambda: ledger_trial(ledger)))
    whole, base = flow_trial(uri, trials), median(bare)
    return [store, base, median(ours), median(ours) / base, whole, whole / base, prefect, prefect / base]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60)
    given = parser.parse_args()
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    with tempfile.TemporaryDirectory() as folder, mlflow_server(Path(folder)) as (uri, _):
        os.environ["HPO_HOME"] = f"{folder}/hpo"
        prefect = prefect_task(given.trials)
        rows = [
            row("sqlite", f"sqlite:///{folder}/direct.db", given.trials, prefect),
            row("server", uri, given.trials, prefect),
        ]
    head = ["store", "bare, ms", "ledger, ms", "/ bare", "flow, ms", "/ bare", "of it Prefect, ms", "/ bare"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
