"""PED-ANOVA against its definition, on functions whose level sets are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hpo_core import Choice, Float, SearchSpace
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_flows.reports.ped_anova import TENTH, Deciding, TooFew, deciding

SPACE = SearchSpace(
    {
        "a": Float(low=0, high=1),
        "b": Float(low=1e-4, high=1, log=True),
        "kind": Choice(choices=["x", "y", "z"]),
        "own": Float(low=0, high=1, when={"kind": ["x"]}),
    }
)


def studied(count: int, loss: Callable[[Any], float]) -> History:
    rng = np.random.default_rng(0)
    configs = [SPACE.decode(u) for u in rng.random((count, SPACE.dimensions))]
    return History(Trial(i, c, TrialState.COMPLETE, float(loss(c))) for i, c in enumerate(configs))


def shares(found: Deciding | TooFew) -> dict[str, float]:
    assert isinstance(found, Deciding)
    return dict(zip(found.names, found.share.tolist(), strict=True))


def test_shares_are_those_of_the_variances_of_a_known_level_set() -> None:
    """Of max(a, 2 u(b)) the best tenth is the box a < t, u(b) < t / 2, with t = 0.2 ** 0.5.

    A density of 1 / w on a share w of the range diverges by 1 / w - 1 from the uniform one.
    """
    t = math.sqrt(0.2)
    exact = {"a": 1 / t - 1, "b": 2 / t - 1}
    found = deciding(SPACE, studied(1_000, lambda c: max(c["a"], 2 * (1 + math.log10(c["b"]) / 4))))
    told = shares(found)
    for name, variance in exact.items():
        assert told[name] == pytest.approx(variance / sum(exact.values()), abs=0.04)
    assert isinstance(found, Deciding)
    assert found.names[:2] == ("b", "a") and found.seen.tolist() == [True, True, False, False]
    assert (found.low <= found.share).all() and (found.share <= found.high).all()
    assert (found.region, found.target) == (1_000, 100)


def test_choices_and_what_depends_on_them_are_told_apart() -> None:
    depends = studied(600, lambda c: abs(c["own"] - 0.8) if "own" in c else 0.5 + c["a"])
    found = deciding(SPACE, depends)
    assert isinstance(found, Deciding)
    assert set(found.names[:2]) == {"kind", "own"} and found.seen.tolist() == [True, True, False, False]
    within = deciding(SPACE, studied(600, lambda c: (c["kind"] != "x") + c["a"] / 10), TENTH)
    assert isinstance(within, Deciding) and within.names[0] == "a", "of the best tenth all have the best kind"
    assert shares(within)["kind"] < 0.1


def test_nothing_is_told_of_chance_or_of_too_little() -> None:
    noise = np.random.default_rng(5)
    found = deciding(SPACE, studied(200, lambda c: noise.random()))
    assert isinstance(found, Deciding) and found.seen.sum() <= 1
    assert deciding(SPACE, studied(15, lambda c: c["a"])) == TooFew(15, 16)
    assert deciding(SPACE, studied(150, lambda c: c["a"]), TENTH) == TooFew(150, 160)
    assert deciding(SPACE, History()) == TooFew(0, 16)
