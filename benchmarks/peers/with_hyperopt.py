"""Hyperopt's TPE; conditions are left to the objective, which is told of active parameters alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hyperopt import JOB_STATE_DONE, Domain, Trials, hp, tpe
from spaces import Parameter, Space, bounds, config_of, is_log, options


def _described(key: str, p: Parameter) -> Any:
    if (listed := options(p)) is not None:
        return hp.choice(key, listed)
    low, high = bounds(p)
    if p["type"] == "float":
        return hp.loguniform(key, math.log(low), math.log(high)) if is_log(p) else hp.uniform(key, low, high)
    if is_log(p):
        return hp.qloguniform(key, math.log(low - 0.5), math.log(high + 0.5), 1)
    return hp.quniform(key, low - 0.5, high + 0.5, 1)


class Peer:
    def __init__(self, name: str, space: Space, seed: int, trials: int) -> None:
        self.space, self.trials, self.rng = space, Trials(), np.random.default_rng(seed)
        self.domain = Domain(lambda config: 0.0, {key: _described(key, p) for key, p in space.items()})

    def ask(self, n: int) -> list[dict[str, Any]]:
        ids = self.trials.new_trial_ids(n)
        self.trials.refresh()
        self.docs = [
            doc for i in ids for doc in tpe.suggest([i], self.domain, self.trials, int(self.rng.integers(2**31 - 1)))
        ]
        return [self._config(doc["misc"]["vals"]) for doc in self.docs]

    def _config(self, drawn: dict[str, list[Any]]) -> dict[str, Any]:
        proposed = {}
        for key, p in self.space.items():
            listed = options(p)
            proposed[key] = drawn[key][0] if listed is None else listed[int(drawn[key][0])]
        return config_of(self.space, proposed)

    def tell(self, losses: list[float]) -> None:
        for doc, loss in zip(self.docs, losses, strict=True):
            doc["state"], doc["result"] = JOB_STATE_DONE, {"loss": loss, "status": "ok"}
        self.trials.insert_trial_docs(self.docs)
        self.trials.refresh()
