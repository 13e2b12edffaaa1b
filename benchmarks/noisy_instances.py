"""What `benchmarks.noise` tunes: tables of live trainings, live trainings themselves, and small problems without noise.

The tables are in the folder ``live`` of the benchmark data (:func:`benchmarks.instances.data_folder`); its README says
how they were measured. The small problems are those that Bayesmark made known: a decision tree and a support vector
machine, here on iris and on 400 of the digits, by accuracy and by log loss. Their split and seed are fixed, so their
losses have no noise but many ties: where a tree is a stump, nothing else matters. ``noise.json`` has what their regret
is measured from: the lowest loss of 500 random configurations, and the expected lowest of ten. The live trainings are
those of :mod:`benchmarks.live`, trained anew.
"""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from benchmarks.instances import data_folder, module
from benchmarks.live import data, expected_loss, observed_loss, references
from benchmarks.live_tasks import TASKS
from hpo_core.space.parameters import Choice, Float, Int, Ordinal
from hpo_core.space.search_space import SearchSpace

Config = Mapping[str, Any]
REFERENCES = Path(__file__).with_name("noise.json")
DRAWS = 500


@dataclass(frozen=True)
class Noisy:
    """One thing to tune, whose losses are noisy and may be missing.

    Args:
        name: ``table/NAME``, ``live/NAME`` or ``small/NAME``.
        space: Its search space.
        table: Has ``observe``, a trial's loss given a configuration and the number of its noise, None where the
            training fails; ``expected``, the loss without noise; and ``regret`` of such a loss.
    """

    name: str
    space: SearchSpace
    table: Any

    def loss(self, config: Config, noise: int) -> float | None:
        found: float | None = self.table.observe(config, noise)
        return found

    def true_regret(self, config: Config) -> float:
        """0 at the best known configuration, 1 where ten random trials lead, infinite where trainings fail."""
        return float(self.table.regret(self.table.expected(config)))


def names(group: str) -> list[str]:
    """The instances of ``tables``, of ``live`` or of ``small``."""
    if group == "live":
        return [f"live/{name}" for name in TASKS]
    if group == "small":
        return [f"small/{name}" for name in SMALL]
    known = json.loads((data_folder() / "live" / "data" / "references.json").read_text())
    return [f"table/{name}" for name in known]


@functools.cache
def load(name: str) -> Noisy:
    """The instance of a name."""
    kind, task = name.split("/")
    if kind == "live":
        return Noisy(name, TASKS[task].space, Live(task))
    if kind == "small":
        return Noisy(name, SMALL[task].space, SMALL[task])
    table = module("live", "loader").load(task)
    return Noisy(name, _space(table.space), table)


def _space(described: Mapping[str, Mapping[str, Any]]) -> SearchSpace:
    kinds: dict[str, Any] = {"float": Float, "int": Int, "cat": Choice, "ord": Ordinal}
    parameters: dict[str, Any] = {}
    for key, dim in described.items():
        given = {k: v for k, v in dim.items() if k in ("low", "high", "log", "choices")}
        if "when" in dim:
            parent, values = dim["when"]
            given["when"] = {parent: list(values)}
        parameters[key] = kinds[dim["type"]](**given)
    return SearchSpace(parameters)


@dataclass(frozen=True)
class Live:
    """A training with noise, of :mod:`benchmarks.live`."""

    name: str

    def observe(self, config: Config, noise: int) -> float:
        return observed_loss(TASKS[self.name], config, noise)

    def expected(self, config: Config) -> float:
        return expected_loss(TASKS[self.name], config)

    def regret(self, loss: float) -> float:
        known = references()[self.name]
        return (loss - known["best"]) / (known["reference"] - known["best"])


@dataclass(frozen=True)
class Small:
    """A training without noise."""

    data: str
    model: str
    scoring: str

    @property
    def space(self) -> SearchSpace:
        return SPACES[self.model]

    def observe(self, config: Config, noise: int) -> float:
        return _cross_validated(self, json.dumps(dict(config), sort_keys=True))

    def expected(self, config: Config) -> float:
        return self.observe(config, 0)

    def regret(self, loss: float) -> float:
        best, reference = _references()[f"{self.model}_{self.data}_{self.scoring}"]
        return (loss - best) / (reference - best)


@functools.lru_cache(100_000)
def _cross_validated(small: Small, config: str) -> float:
    X, y = data(small.data, 400 if small.data == "digits" else 0)
    parameters = json.loads(config)
    if small.model == "svm":
        model: Any = make_pipeline(StandardScaler(), _Softmax(**parameters))
    else:
        model = DecisionTreeClassifier(random_state=0, **parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = cross_val_score(
            model, X, y, cv=StratifiedKFold(3, shuffle=True, random_state=0), scoring=small.scoring
        )
    return float(-scores.mean()) if small.scoring == "neg_log_loss" else float(1.0 - scores.mean())


class _Softmax(SVC):  # type: ignore[misc]  # scikit-learn has no types
    """Probabilities from the margins at once, where scikit-learn's own are calibrated by five more trainings."""

    def predict_proba(self, X: Any) -> Any:
        margins = self.decision_function(X)
        odds = np.exp(margins - margins.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)


SPACES = {
    "tree": SearchSpace(
        {
            "max_depth": Int(low=1, high=15),
            "min_samples_split": Float(low=0.01, high=0.99),
            "min_samples_leaf": Float(low=0.01, high=0.49),
            "min_weight_fraction_leaf": Float(low=0.01, high=0.49),
            "max_features": Float(low=0.01, high=0.99),
            "min_impurity_decrease": Float(low=0.0, high=0.5),
        }
    ),
    "svm": SearchSpace(
        {
            "C": Float(low=1e-2, high=1e3, log=True),
            "gamma": Float(low=1e-4, high=1.0, log=True),
            "tol": Float(low=1e-5, high=1e-1, log=True),
        }
    ),
}

SMALL = {
    f"{model}_{bunch}_{scoring}": Small(bunch, model, scoring)
    for model in SPACES
    for bunch in ("iris", "digits")
    for scoring in ("accuracy", "neg_log_loss")
}


@functools.cache
def _references() -> dict[str, list[float]]:
    known: dict[str, list[float]] = json.loads(REFERENCES.read_text())
    return known


def measured(small: Small) -> list[float]:
    """The lowest loss of random configurations, and the expected lowest of ten of them."""
    rng = np.random.default_rng(0)
    losses = np.sort([small.observe(small.space.decode(u), 0) for u in rng.random((DRAWS, small.space.dimensions))])
    above = (1.0 - np.arange(DRAWS + 1) / DRAWS) ** 10
    return [round(float(losses[0]), 6), round(float((losses * (above[:-1] - above[1:])).sum()), 6)]


if __name__ == "__main__":
    found = {name: measured(SMALL[name]) for name in sys.argv[1:] or SMALL}
    REFERENCES.write_text(json.dumps({**(_references() if REFERENCES.exists() else {}), **found}, indent=1) + "\n")
