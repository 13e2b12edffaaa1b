"""The oracle of KerasTuner's BayesianOptimization, with its conditional scopes; nothing is trained."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"  # read as keras is imported

import keras_tuner
from keras_tuner.oracles import BayesianOptimizationOracle, HyperbandOracle
from spaces import Parameter, Scale, Space, bounds, config_of, is_log, options


def _add(hp: Any, key: str, p: Parameter) -> None:
    if (listed := options(p)) is not None:
        hp.Choice(key, listed)
        return
    kind = hp.Float if p["type"] == "float" else hp.Int
    kind(key, *bounds(p), sampling="log" if is_log(p) else "linear")


def _described(space: Space) -> Any:
    hp = keras_tuner.HyperParameters()
    for key, p in space.items():
        with ExitStack() as scopes:
            for parent, values in p["when"].items():
                if space[parent]["type"] == "ordinal":
                    values = [space[parent]["choices"].index(v) for v in values]
                scopes.enter_context(hp.conditional_scope(parent, values))
            _add(hp, key, p)
    return hp


LOSS = keras_tuner.Objective("loss", "min")


class Peer:
    def __init__(self, name: str, space: Space, seed: int, trials: int) -> None:
        self.space, self.folder = space, tempfile.TemporaryDirectory()
        self.oracle = BayesianOptimizationOracle(
            objective=LOSS, max_trials=trials, seed=seed, hyperparameters=_described(space)
        )
        self.oracle.verbose = 0
        self.oracle._set_project_dir(self.folder.name, "study")

    def ask(self, n: int) -> list[dict[str, Any]]:
        trials = [self.oracle.create_trial(f"tuner{i}") for i in range(n)]
        # In a small space its random draws may find nothing new, and it ends.
        self.trials = [trial for trial in trials if trial.status == "RUNNING"]
        return [config_of(self.space, trial.hyperparameters.values) for trial in self.trials]

    def tell(self, losses: list[float]) -> None:
        for trial, loss in zip(self.trials, losses, strict=True):
            self.oracle.update_trial(trial.trial_id, {"loss": loss})
            trial.status = "COMPLETED"
            self.oracle.end_trial(trial)


class FidelityPeer:
    """Hyperband, which goes on from checkpoints; its epochs are steps of the least fidelity where that is a share."""

    def __init__(self, name: str, space: Space, seed: int, fidelity: dict[str, Any]) -> None:
        self.space, self.folder, self.scale = space, tempfile.TemporaryDirectory(), Scale(fidelity)
        self.oracle = HyperbandOracle(
            objective=LOSS,
            max_epochs=self.scale.most,
            factor=fidelity["eta"],
            hyperband_iterations=1000,
            seed=seed,
            hyperparameters=_described(space),
        )
        self.oracle.verbose = 0
        self.oracle._set_project_dir(self.folder.name, "study")
        self.running: dict[int, Any] = {}
        self.count = 0

    def job(self, _: None) -> dict[str, Any] | None:
        trial = self.oracle.create_trial(f"tuner{self.count}")
        if trial.status != "RUNNING":
            return None
        values = trial.hyperparameters.values
        self.running[self.count] = trial
        self.count += 1
        return {
            "id": self.count - 1,
            "config": config_of(self.space, values),
            "start": self.scale.fidelity(values["tuner/initial_epoch"]),
            "end": self.scale.fidelity(values["tuner/epochs"]),
        }

    def end(self, ended: tuple[int, float, float]) -> None:
        id, _, loss = ended
        trial = self.running.pop(id)
        self.oracle.update_trial(trial.trial_id, {"loss": loss})
        trial.status = "COMPLETED"
        self.oracle.end_trial(trial)
