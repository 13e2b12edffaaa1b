"""The objective of study.yaml: replace what it trains by your own training.

Here momentum walks down a long valley, which is quick and shows what an objective can do.
"""

from __future__ import annotations

from typing import Any

STEPS = 50


def train(trial: Any) -> dict[str, float]:
    """Train once with the configuration of a trial, and return its metrics.

    Args:
        trial: A hpo_flows.TrialContext. ``trial.config`` has a value for each parameter of study.yaml,
            ``trial.seed`` is the trial's own seed.
    """
    rate = trial.config["learning_rate"]
    momentum = trial.config.get("momentum", 0.0)  # absent unless the optimizer is momentum
    x, y, dx, dy = 0.0, 0.0, 0.0, 0.0
    loss = valley(x, y)
    for step in range(STEPS):
        dx, dy = momentum * dx - rate * 2 * (x - 3), momentum * dy - rate * 20 * (y + 1)
        x, y = x + dx, y + dy
        loss = valley(x, y)
        if not trial.report(step, {"loss": loss}):  # a curve in MLflow; False: a rule of early_stop says to end here
            break
    # The metric that study.yaml names, and whatever else is worth keeping. Files: trial.log_artifact(path).
    return {"loss": loss, "x": x, "y": y}


def valley(x: float, y: float) -> float:
    """A quadratic function with its minimum at (3, -1)."""
    return (x - 3) ** 2 + 10 * (y + 1) ** 2
