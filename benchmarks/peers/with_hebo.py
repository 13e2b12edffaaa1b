"""HEBO. It has no conditions: it proposes inactive parameters too, which are ignored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hebo.design_space.design_space import DesignSpace
from hebo.optimizers.hebo import HEBO
from spaces import Parameter, Space, bounds, config_of, is_log, options


def _described(key: str, p: Parameter) -> dict[str, Any]:
    if (listed := options(p)) is not None:
        return {"name": key, "type": "cat", "categories": listed}
    low, high = bounds(p)
    if p["type"] == "float":
        return {"name": key, "type": "pow" if is_log(p) else "num", "lb": low, "ub": high}
    return {"name": key, "type": "pow_int" if is_log(p) else "int", "lb": low, "ub": high}


class Peer:
    def __init__(self, name: str, space: Space, seed: int, trials: int) -> None:
        np.random.seed(seed)
        torch.manual_seed(seed)
        self.space = space
        described = DesignSpace().parse([_described(key, p) for key, p in space.items()])
        self.optimizer = HEBO(described, scramble_seed=seed)

    def ask(self, n: int) -> list[dict[str, Any]]:
        self.rows = self.optimizer.suggest(n)
        return [config_of(self.space, row) for row in self.rows.to_dict("records")]

    def tell(self, losses: list[float]) -> None:
        self.optimizer.observe(self.rows, np.array(losses)[:, None])
