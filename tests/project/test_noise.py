"""The noise benchmark: what is returned, tried and confirmed, and an interrupted run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from benchmarks import noise, noisy_instances
from benchmarks.contenders import Contenders
from hpo_core.space.parameters import Int
from hpo_core.space.search_space import SearchSpace

SPACE = SearchSpace({"n": Int(low=0, high=63)})


@dataclass(frozen=True)
class Table:
    """The loss is ``n`` with noise of up to ten; 60 and above fail."""

    def observe(self, config: Mapping[str, Any], number: int) -> float | None:
        return None if config["n"] >= 60 else config["n"] + 7 * number % 10

    def expected(self, config: Mapping[str, Any]) -> float:
        return math.inf if config["n"] >= 60 else config["n"] + 4.5

    def regret(self, loss: float) -> float:
        return (loss - 4.5) / 6


def test_what_is_returned_tried_and_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = noisy_instances.Noisy("table/x", SPACE, Table())
    monkeypatch.setattr(noisy_instances, "load", lambda name: instance)
    with Contenders() as contenders:
        lines = {
            label: {
                "strategy": label,
                "instance": "table/x",
                "seed": 0,
                "trials": noise.study(contenders.open("random", SPACE, 0, 20), instance, 0, 20, repeats),
            }
            for label, repeats in (("random", False), ("random+repeats", True))
        }
    plain, repeated = lines["random"], lines["random+repeats"]
    trials = [t for t in plain["trials"] if t["loss"] is not None]
    luckiest = min(trials, key=lambda t: t["loss"])
    assert noise.KINDS["returned"](plain, 20) == luckiest["regret"]
    assert noise.KINDS["best tried"](plain, 20) == min(t["regret"] for t in trials) <= luckiest["regret"]
    assert math.isnan(noise.KINDS["confirmed"](plain, 20)) and math.isnan(noise.KINDS["confirmed"](repeated, 10))
    assert sum("repeat_of" in t["notes"] for t in repeated["trials"]) == 1
    assert 0 <= noise.KINDS["confirmed"](repeated, 20) < noise.WORST


def test_a_live_training_has_noise_and_its_references() -> None:
    instance = noisy_instances.load("live/wine_knn")
    config = instance.space.decode(np.full(instance.space.dimensions, 0.5))
    assert instance.loss(config, 1) == instance.loss(config, 1) != instance.loss(config, 2)
    assert 0 < instance.true_regret(config) < 10


def test_a_small_problem_has_no_noise_and_its_references() -> None:
    instance = noisy_instances.load("small/svm_iris_accuracy")
    config = {"C": 1.0, "gamma": 0.1, "tol": 1e-3}
    assert instance.loss(config, 0) == instance.loss(config, 1)
    assert -1 < instance.true_regret(config) < 5
