"""Optuna over mlflow's ``MlflowStorage``: the trials of ``benchmarks/ledger.py``, in an environment of its own."""

from __future__ import annotations

import json
import logging
import os
import sys

from benchmarks.measure import growth


def main(uri: str, seconds: str) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    import mlflow
    import optuna
    from mlflow.optuna.storage import MlflowStorage

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = MlflowStorage(experiment_id=mlflow.create_experiment("optuna"))
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))

    def one_trial() -> None:
        trial = study.ask()
        study.tell(trial, sum(trial.suggest_float(f"x{i}", 0, 1) for i in range(10)))

    print(json.dumps(growth(one_trial, float(seconds))))


if __name__ == "__main__":
    main(*sys.argv[1:])
