"""Live trainings as instances: small scikit-learn models on its bundled data, cross-validated, noise left in.

    python -m benchmarks.live [TASK ...]        measures live.json anew (some minutes)

A trial's noise is the seed of its folds and of its model; it differs from trial to trial. The incumbent is the trial of
lowest observed loss, as it is for a user, but regret is measured by :func:`expected_loss`, the mean over seeds that no
trial has. What it is measured from is in ``live.json``: the lowest expected loss found among random configurations
and by a local search around the best of them, and the expected loss that ten random trials lead to on average.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets, metrics
from sklearn.base import is_classifier
from sklearn.model_selection import KFold, StratifiedKFold

from benchmarks.live_tasks import TASKS, Config, Task

REFERENCES = Path(__file__).with_name("live.json")
FOLDS = 3
REPEATS = 5
HELD_BACK = 2**31 - 1
"""The seeds of expected losses count down from here; those of trials count up from 0."""

WORST = {"error": 1.0, "log_loss": 10.0, "unexplained": 2.0}
"""A loss is cut here, that of a fold whose network diverged too."""

DRAWS, ELITE, STEPS = 200, 10, 40
"""How many configurations are drawn for the references, how many of them looked at closely, how many searched near."""


@functools.cache
def data(name: str, rows: int) -> tuple[Any, Any]:
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(X))[: rows or None]
    return X[chosen], y[chosen]


def fold_losses(task: Task, config: Config, noise: int, division: int, of: int) -> Iterator[float]:
    """The losses of the folds, each trained when it is asked for; ``noise`` seeds the model, ``division`` the folds."""
    X, y = data(task.data, task.rows)
    model = task.model(config, noise)
    split = StratifiedKFold if is_classifier(model) else KFold
    for train, test in split(of, shuffle=True, random_state=division).split(X, y):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that were stopped early
            try:
                loss = _loss(task.loss, model.fit(X[train], y[train]), X[test], y[test])
            except ValueError:  # a network that diverged has no finite weights or predictions
                loss = math.inf
        yield min(loss, WORST[task.loss])


def observed_loss(task: Task, config: Config, noise: int) -> float:
    """The cross-validated loss, with folds and model seeded by ``noise``."""
    return float(np.mean(list(fold_losses(task, config, noise, noise, FOLDS))))


def _loss(kind: str, model: Any, X: Any, y: Any) -> float:
    if kind == "log_loss":
        return float(metrics.log_loss(y, model.predict_proba(X), labels=model.classes_))
    return 1.0 - float(model.score(X, y))


def expected_loss(task: Task, config: Config) -> float:
    """The mean loss over seeds that no trial has."""
    return float(np.mean([observed_loss(task, config, HELD_BACK - i) for i in range(REPEATS)]))


def references() -> dict[str, dict[str, float]]:
    """By task, the ``best`` and the ``reference`` of its instance."""
    known: dict[str, dict[str, float]] = json.loads(REFERENCES.read_text())
    return known


def measured(task: Task) -> dict[str, float]:
    """The references of a task, and the seconds that a trial takes here."""
    rng = np.random.default_rng(0)
    drawn = [task.space.decode(u) for u in rng.random((DRAWS, task.space.dimensions))]
    begin = time.process_time()
    first, second = np.array(
        [[observed_loss(task, config, i + k) for i, config in enumerate(drawn)] for k in (0, DRAWS)]
    )
    seconds = (time.process_time() - begin) / (2 * DRAWS)
    order = np.argsort(first, kind="stable")
    # Ten draws leave the i-th lowest as incumbent with this probability; its second loss owes nothing to its luck.
    above = (1.0 - np.arange(DRAWS + 1) / DRAWS) ** 10
    reference = float((second[order] * (above[:-1] - above[1:])).sum())
    found = [(expected_loss(task, drawn[i]), task.space.encode(drawn[i])) for i in np.argsort(first + second)[:ELITE]]
    for _ in range(STEPS):
        found = sorted(found, key=lambda pair: pair[0])[:ELITE]
        u = found[min(int(rng.exponential(3.0)), ELITE - 1)][1].copy()
        u = np.where(np.isnan(u), rng.random(len(u)), u)
        moved = (rng.random(len(u)) < 0.3) | (np.arange(len(u)) == rng.integers(len(u)))
        anew = np.where(rng.random(len(u)) < 0.3, rng.random(len(u)), u + 0.1 * rng.standard_normal(len(u)))
        config = task.space.decode(np.clip(np.where(moved, anew, u), 0.0, 1.0))
        found.append((expected_loss(task, config), task.space.encode(config)))
    best = min(loss for loss, _ in found)
    return {"best": round(best, 6), "reference": round(reference, 6), "seconds": round(seconds, 4)}


if __name__ == "__main__":
    found = references() if REFERENCES.exists() else {}
    for name in sys.argv[1:] or TASKS:
        found[name] = measured(TASKS[name])
        REFERENCES.write_text(json.dumps(found, indent=1) + "\n")
