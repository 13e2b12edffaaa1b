"""DEHB (Awad et al. 2021): differential evolution within Hyperband. It trains each time from scratch."""

from __future__ import annotations

import tempfile
from typing import Any

import ConfigSpace as cs
from dehb import DEHB
from loguru import logger
from spaces import Scale, Space, bounds, config_of, is_log, options

logger.remove()


class FidelityPeer:
    def __init__(self, name: str, space: Space, seed: int, fidelity: dict[str, Any]) -> None:
        self.space, self.folder, self.scale = space, tempfile.TemporaryDirectory(), Scale(fidelity)
        described = cs.ConfigurationSpace(seed=seed)
        for key, p in space.items():  # without conditions, which its vectors do not have
            if (listed := options(p)) is not None:
                described.add(cs.CategoricalHyperparameter(key, listed))
            else:
                kind = cs.UniformFloatHyperparameter if p["type"] == "float" else cs.UniformIntegerHyperparameter
                described.add(kind(key, *bounds(p), log=is_log(p)))
        self.optimizer = DEHB(
            cs=described,
            dimensions=len(space),
            min_fidelity=fidelity["levels"][0],
            max_fidelity=fidelity["max"],
            eta=int(fidelity["eta"]),
            n_workers=1,
            seed=seed,
            output_path=self.folder.name,
            save_freq="end",
        )
        self.running: dict[int, Any] = {}
        self.count = 0

    def job(self, _: None) -> dict[str, Any]:
        asked = self.optimizer.ask()
        self.running[self.count] = asked
        self.count += 1
        end = float(round(asked["fidelity"])) if self.scale.whole else float(asked["fidelity"])
        config = config_of(self.space, dict(asked["config"]))
        return {"id": self.count - 1, "config": config, "start": 0.0, "end": min(end, self.scale.levels[-1])}

    def end(self, ended: tuple[int, float, float]) -> None:
        id, fidelity, loss = ended
        self.optimizer.tell(self.running.pop(id), {"fitness": loss, "cost": fidelity})
