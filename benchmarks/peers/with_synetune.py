"""Syne Tune's asynchronous successive halving, by stopping: ``synetune_asha`` with random search, ``synetune_bohb``."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from spaces import Scale, Space, bounds, config_of, is_log, options
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import choice, lograndint, loguniform, randint, uniform
from syne_tune.optimizer.baselines import ASHA, BOHB

logging.disable(logging.WARNING)
SCHEDULERS = {"synetune_asha": ASHA, "synetune_bohb": BOHB}


def _described(p: dict[str, Any]) -> Any:
    if (listed := options(p)) is not None:
        return choice(listed)
    if p["type"] == "float":
        return (loguniform if is_log(p) else uniform)(*bounds(p))
    return (lograndint if is_log(p) else randint)(*bounds(p))


class FidelityPeer:
    def __init__(self, name: str, space: Space, seed: int, fidelity: dict[str, Any]) -> None:
        self.space, self.scale = space, Scale(fidelity)
        self.scheduler = SCHEDULERS[name](
            {key: _described(p) for key, p in space.items()},
            metric="loss",
            time_attr="steps",
            max_t=self.scale.most,
            grace_period=self.scale.least,
            reduction_factor=int(fidelity["eta"]),
            random_seed=seed,
        )
        self.running: dict[int, Trial] = {}
        self.count = 0

    def job(self, _: None) -> dict[str, Any]:
        config = self.scheduler.suggest().config
        trial = Trial(trial_id=self.count, config=config, creation_time=datetime(2000, 1, 1))
        self.scheduler.on_trial_add(trial)
        self.running[self.count] = trial
        self.count += 1
        return {
            "id": trial.trial_id,
            "config": config_of(self.space, config),
            "start": 0.0,
            "end": self.scale.levels[-1],
            "reports": self.scale.reports(),
        }

    def _result(self, fidelity: float, loss: float) -> dict[str, float]:
        return {"loss": loss, "steps": self.scale.steps(fidelity)}

    def report(self, shown: tuple[int, float, float]) -> bool:
        id, fidelity, loss = shown
        return self.scheduler.on_trial_result(self.running[id], self._result(fidelity, loss)) == "CONTINUE"

    def end(self, ended: tuple[int, float, float]) -> None:
        id, fidelity, loss = ended
        self.scheduler.on_trial_complete(self.running.pop(id), self._result(fidelity, loss))
