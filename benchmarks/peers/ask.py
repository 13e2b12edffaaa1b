"""A peer as a process: JSON lines in, JSON lines out. It runs under an interpreter that has the peer, and knows no more
of this repository than the shape of a space in JSON.

    {"peer": "optuna_tpe", "space": {...}, "seed": 0}   once
    {"ask": 8}          -> [{...}, ...]                 configurations of active parameters
    {"tell": [0.1, ...]} -> true                        their losses, in the same order
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from typing import Any

Space = dict[str, dict[str, Any]]


def options(parameter: dict[str, Any]) -> list[Any] | None:
    """The values of a listed parameter."""
    if parameter["type"] == "boolean":
        return [False, True]
    return parameter.get("choices")


def active(parameter: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether a parameter is active beside those declared before it."""
    return all(parent in config and config[parent] in values for parent, values in parameter["when"].items())


class Optuna:
    """Optuna's samplers by define-by-run, conditions as plain Python ones."""

    def __init__(self, name: str, space: Space, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        samplers = {
            "optuna": lambda: None,
            "optuna_random": lambda: optuna.samplers.RandomSampler(seed=seed),
            "optuna_tpe": lambda: optuna.samplers.TPESampler(seed=seed),
            "optuna_tpe_multivariate": lambda: optuna.samplers.TPESampler(
                seed=seed, multivariate=True, group=True, constant_liar=True
            ),
            "optuna_gp": lambda: optuna.samplers.GPSampler(seed=seed),
        }
        self.space, self.trials = space, []
        self.study = optuna.create_study(sampler=samplers[name]())

    def _suggest(self, trial: Any) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for name, p in self.space.items():
            if not active(p, config):
                continue
            if p["type"] == "ordinal":
                # A listed number is an index to the peer: it learns the order, as it would from a user who cares.
                config[name] = p["choices"][trial.suggest_int(name, 0, len(p["choices"]) - 1)]
            elif (values := options(p)) is not None:
                config[name] = trial.suggest_categorical(name, values)
            elif p["type"] == "int":
                config[name] = trial.suggest_int(name, p["low"], p["high"], log=p["log"])
            else:
                config[name] = trial.suggest_float(name, p["low"], p["high"], log=p["log"])
        return config

    def ask(self, n: int) -> list[dict[str, Any]]:
        self.trials = [self.study.ask() for _ in range(n)]
        return [self._suggest(trial) for trial in self.trials]

    def tell(self, losses: list[float]) -> None:
        for trial, loss in zip(self.trials, losses, strict=True):
            self.study.tell(trial, loss)


class Hyperopt:
    """Hyperopt's TPE; conditions are left to the objective, which is told of active parameters alone."""

    def __init__(self, name: str, space: Space, seed: int) -> None:
        import numpy as np
        from hyperopt import JOB_STATE_DONE, Domain, Trials, hp, tpe

        self.space, self.np, self.done, self.suggest = space, np, JOB_STATE_DONE, tpe.suggest
        self.trials, self.seed = Trials(), np.random.default_rng(seed)
        described = {}
        for key, p in space.items():
            if p["type"] == "ordinal":
                described[key] = hp.quniform(key, -0.5, len(p["choices"]) - 0.5, 1)
            elif (values := options(p)) is not None:
                described[key] = hp.choice(key, values)
            elif p["type"] == "int" and p["log"]:
                described[key] = hp.qloguniform(key, math.log(p["low"] - 0.5), math.log(p["high"] + 0.5), 1)
            elif p["type"] == "int":
                described[key] = hp.quniform(key, p["low"] - 0.5, p["high"] + 0.5, 1)
            elif p["log"]:
                described[key] = hp.loguniform(key, math.log(p["low"]), math.log(p["high"]))
            else:
                described[key] = hp.uniform(key, p["low"], p["high"])
        self.domain = Domain(lambda config: 0.0, described)

    def ask(self, n: int) -> list[dict[str, Any]]:
        ids = self.trials.new_trial_ids(n)
        self.trials.refresh()
        self.docs = [
            doc for i in ids for doc in self.suggest([i], self.domain, self.trials, int(self.seed.integers(2**31 - 1)))
        ]
        return [self._config(doc) for doc in self.docs]

    def _config(self, doc: Any) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for key, p in self.space.items():
            raw = doc["misc"]["vals"][key][0]
            if not active(p, config):
                continue
            if p["type"] == "ordinal":
                config[key] = p["choices"][min(max(int(raw), 0), len(p["choices"]) - 1)]
            elif (values := options(p)) is not None:
                config[key] = values[int(raw)]
            else:
                value = min(max(raw, p["low"]), p["high"])
                config[key] = int(value) if p["type"] == "int" else float(value)
        return config

    def tell(self, losses: list[float]) -> None:
        for doc, loss in zip(self.docs, losses, strict=True):
            doc["state"], doc["result"] = self.done, {"loss": loss, "status": "ok"}
        self.trials.insert_trial_docs(self.docs)
        self.trials.refresh()


class Skopt:
    """scikit-optimize's Gaussian process, told of inactive parameters by their defaults."""

    def __init__(self, name: str, space: Space, seed: int) -> None:
        from skopt import Optimizer
        from skopt.space import Categorical, Integer, Real

        self.space = space
        dimensions: list[Any] = []
        for p in space.values():
            if p["type"] == "ordinal":
                dimensions.append(Integer(0, len(p["choices"]) - 1))
            elif (values := options(p)) is not None:
                dimensions.append(Categorical(values))
            else:
                kind = Integer if p["type"] == "int" else Real
                prior = "log-uniform" if p["log"] and p["low"] < p["high"] else "uniform"
                dimensions.append(kind(p["low"], p["high"], prior=prior))
        self.optimizer = Optimizer(dimensions, base_estimator="GP", random_state=seed, n_initial_points=10)

    def ask(self, n: int) -> list[dict[str, Any]]:
        self.points = self.optimizer.ask(n) if n > 1 else [self.optimizer.ask()]
        configs = []
        for point in self.points:
            config: dict[str, Any] = {}
            for (key, p), value in zip(self.space.items(), point, strict=True):
                if active(p, config):
                    value = p["choices"][value] if p["type"] == "ordinal" else value
                    config[key] = value.item() if hasattr(value, "item") else value
            configs.append(config)
        return configs

    def tell(self, losses: list[float]) -> None:
        self.optimizer.tell(self.points, losses)


PEERS = {"optuna": Optuna, "hyperopt": Hyperopt, "skopt": Skopt}


def main() -> None:
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # a peer that prints must not speak in between
    first = json.loads(sys.stdin.readline())
    parameters = {key: p for key, p in first["space"]["parameters"].items() if p["type"] != "fixed"}
    peer: Any = PEERS[first["peer"].split("_")[0]](first["peer"], parameters, first["seed"])
    print("true", file=answers, flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        if "ask" in message:
            answer = peer.ask(message["ask"])
        else:
            answer = peer.tell(message["tell"]) is None
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
