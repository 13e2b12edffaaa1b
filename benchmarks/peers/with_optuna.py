"""Optuna's samplers by define-by-run, conditions as plain Python ones."""

from __future__ import annotations

from typing import Any

import optuna
from spaces import Space, active, bounds, is_log, options, value

SAMPLERS: dict[str, Any] = {
    "optuna": lambda seed: None,
    "optuna_random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "optuna_tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "optuna_tpe_multivariate": lambda seed: optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True
    ),
    "optuna_gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}


class Peer:
    def __init__(self, name: str, space: Space, seed: int, trials: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.trials = space, []
        self.distributions: dict[str, Any] = {}
        for key, p in space.items():
            if (listed := options(p)) is not None:
                self.distributions[key] = optuna.distributions.CategoricalDistribution(listed)
            elif p["type"] == "float":
                self.distributions[key] = optuna.distributions.FloatDistribution(*bounds(p), log=is_log(p))
            else:
                self.distributions[key] = optuna.distributions.IntDistribution(*bounds(p), log=is_log(p))
        self.study = optuna.create_study(sampler=SAMPLERS[name](seed))

    def ask(self, n: int) -> list[dict[str, Any]]:
        self.trials = [self.study.ask() for _ in range(n)]
        return [self._suggest(trial) for trial in self.trials]

    def _suggest(self, trial: Any) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for key, p in self.space.items():
            if active(p, config):
                config[key] = value(p, trial._suggest(key, self.distributions[key]))
        return config

    def tell(self, losses: list[float]) -> None:
        for trial, loss in zip(self.trials, losses, strict=True):
            self.study.tell(trial, loss)

    def history(self, trials: list[tuple[dict[str, Any], float]]) -> None:
        for config, loss in trials:
            params = {
                key: self.space[key]["choices"].index(v) if self.space[key]["type"] == "ordinal" else v
                for key, v in config.items()
            }
            used = {key: self.distributions[key] for key in config}
            self.study.add_trial(optuna.trial.create_trial(params=params, distributions=used, value=loss))
