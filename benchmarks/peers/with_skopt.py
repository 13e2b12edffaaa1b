"""scikit-optimize's Gaussian process. It has no conditions: it proposes inactive parameters too, which are ignored."""

from __future__ import annotations

from typing import Any

from skopt import Optimizer
from skopt.space import Categorical, Integer, Real
from spaces import Parameter, Space, bounds, config_of, is_log, options


def _dimension(p: Parameter) -> Any:
    if (listed := options(p)) is not None:
        return Categorical(listed)
    kind = Real if p["type"] == "float" else Integer
    return kind(*bounds(p), prior="log-uniform" if is_log(p) else "uniform")


class Peer:
    def __init__(self, name: str, space: Space, seed: int, trials: int) -> None:
        self.space = space
        self.optimizer = Optimizer(
            [_dimension(p) for p in space.values()], base_estimator="GP", random_state=seed, n_initial_points=10
        )

    def ask(self, n: int) -> list[dict[str, Any]]:
        self.points = self.optimizer.ask(n) if n > 1 else [self.optimizer.ask()]
        return [config_of(self.space, dict(zip(self.space, point, strict=True))) for point in self.points]

    def tell(self, losses: list[float]) -> None:
        self.optimizer.tell(self.points, losses)
