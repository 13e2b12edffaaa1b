"""Optuna's samplers by define-by-run, conditions as plain Python ones."""

from __future__ import annotations

from typing import Any

import optuna
from spaces import Scale, Space, active, bounds, is_log, options, value

SAMPLERS: dict[str, Any] = {
    "optuna": lambda seed: None,
    "optuna_random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "optuna_tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "optuna_tpe_multivariate": lambda seed: optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True
    ),
    "optuna_gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "optuna_nsga": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "optuna_nsga_small": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    "optuna_tpe_limits": lambda seed: optuna.samplers.TPESampler(
        seed=seed, multivariate=True, constraints_func=_limits
    ),
    "optuna_gp_limits": lambda seed: optuna.samplers.GPSampler(seed=seed, constraints_func=_limits),
}


optuna.logging.set_verbosity(optuna.logging.ERROR)


def _distributions(space: Space) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, p in space.items():
        if (listed := options(p)) is not None:
            found[key] = optuna.distributions.CategoricalDistribution(listed)
        elif p["type"] == "float":
            found[key] = optuna.distributions.FloatDistribution(*bounds(p), log=is_log(p))
        else:
            found[key] = optuna.distributions.IntDistribution(*bounds(p), log=is_log(p))
    return found


def _suggest(trial: Any, space: Space, distributions: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for key, p in space.items():
        if active(p, config):
            config[key] = value(p, trial._suggest(key, distributions[key]))
    return config


def _limits(trial: Any) -> Any:
    return trial.user_attrs["limits"]


class Peer:
    def __init__(self, name: str, space: Space, seed: int, trials: int, objectives: int = 1) -> None:
        self.space, self.trials, self.distributions = space, [], _distributions(space)
        self.study = optuna.create_study(sampler=SAMPLERS[name](seed), directions=["minimize"] * objectives)

    def ask(self, n: int) -> list[dict[str, Any]]:
        self.trials = [self.study.ask() for _ in range(n)]
        return [_suggest(trial, self.space, self.distributions) for trial in self.trials]

    def limits(self, excesses: list[list[float]]) -> None:
        for trial, excess in zip(self.trials, excesses, strict=True):
            trial.set_user_attr("limits", excess)

    def tell(self, losses: list[float | list[float] | None]) -> None:
        for trial, loss in zip(self.trials, losses, strict=True):
            failed = optuna.trial.TrialState.FAIL if loss is None else None
            self.study.tell(trial, loss, failed)

    def history(self, trials: list[tuple[dict[str, Any], float]]) -> None:
        for config, loss in trials:
            params = {
                key: self.space[key]["choices"].index(v) if self.space[key]["type"] == "ordinal" else v
                for key, v in config.items()
            }
            used = {key: self.distributions[key] for key in config}
            self.study.add_trial(optuna.trial.create_trial(params=params, distributions=used, value=loss))


class FidelityPeer:
    """TPE with the Hyperband pruner, which stops trainings and never goes on with one."""

    def __init__(self, name: str, space: Space, seed: int, fidelity: dict[str, Any]) -> None:
        self.space, self.distributions, self.scale = space, _distributions(space), Scale(fidelity)
        pruner = optuna.pruners.HyperbandPruner(
            min_resource=self.scale.least, max_resource=self.scale.most, reduction_factor=int(fidelity["eta"])
        )
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
        # The pruner draws a trial's bracket by a hash of the study's name.
        self.study = optuna.create_study(study_name=f"study {seed}", sampler=sampler, pruner=pruner)
        self.running: dict[int, Any] = {}

    def job(self, _: None) -> dict[str, Any]:
        trial = self.study.ask()
        self.running[trial.number] = trial
        config = _suggest(trial, self.space, self.distributions)
        return {
            "id": trial.number,
            "config": config,
            "start": 0.0,
            "end": self.scale.levels[-1],
            "reports": self.scale.reports(),
        }

    def report(self, shown: tuple[int, float, float]) -> bool:
        id, fidelity, loss = shown
        self.running[id].report(loss, self.scale.steps(fidelity))
        return not self.running[id].should_prune()

    def end(self, ended: tuple[int, float, float]) -> None:
        id, fidelity, loss = ended
        trial = self.running.pop(id)
        trial.report(loss, self.scale.steps(fidelity))
        full = fidelity >= self.scale.levels[-1] - 1e-9
        # A pruned trial's value is its last report.
        self.study.tell(trial, loss if full else None, None if full else optuna.trial.TrialState.PRUNED)
