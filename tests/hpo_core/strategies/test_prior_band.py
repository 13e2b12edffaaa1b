"""What enters the lowest rungs where the user believes something: PriorBand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_core import Boolean, Choice, Float, SearchSpace
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.space.belief import Belief
from hpo_core.space.configuration import Config
from hpo_core.strategies.common import prior_band
from hpo_core.strategies.make import make_strategy

FIDELITY = Fidelity("epochs", 1, 27, 3)
PARAMETERS: dict[str, Any] = {
    "x": Float(low=0, high=1),
    "y": Float(low=0, high=1),
    "kind": Choice(choices=["a", "b", "c"]),
    "flag": Boolean(when={"kind": ["b"]}),
}
LEVEL = st.integers(0, len(FIDELITY.levels) - 1)


def space(around: float) -> SearchSpace:
    return SearchSpace(PARAMETERS, (), {"x": Belief(around, "high"), "kind": Belief("b", "low")})


def studied(name: str, around: float, length: int = 60, **settings: Any) -> History:
    """A study whose loss is lowest at x = 0.9."""
    history, strategy = History(), make_strategy(name, settings, FIDELITY)
    for _ in range(length):
        (proposal,) = strategy.propose(space(around), history, 1, seed=3)
        running = history.with_pending([proposal]).trials[-1]
        loss = abs(float(str(proposal.config["x"])) - 0.9) + 1 / (proposal.fidelity or 1)
        history = History((*history, replace(running, state=TrialState.COMPLETE, loss=loss)))
    return history


def ended(x: float) -> Trial:
    config: Config = {"x": x, "y": 0.5, "kind": "b", "flag": True}
    return Trial(0, config, TrialState.COMPLETE, loss=0.0, fidelity=27.0)


@given(level=LEVEL, believed=st.floats(0, 1), found=st.lists(st.floats(0, 1), max_size=5))
def test_the_uniform_share_depends_on_the_level_alone(level: int, believed: float, found: list[float]) -> None:
    best = [ended(x) for x in found]
    shares = prior_band.shares(space(believed), 3.0, level, best)
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0
    assert shares[0] == pytest.approx(1 / (1 + 3.0**level))


def test_a_belief_far_from_the_best_trials_loses_its_share_and_one_near_them_keeps_it() -> None:
    best = [ended(0.9), ended(0.88)]
    assert prior_band.shares(space(0.1), 3.0, 1, best)[1] < 0.1
    assert prior_band.shares(space(0.9), 3.0, 1, best)[1] > 0.35


@pytest.mark.parametrize("name", ["hyperband", "asha", "successive_halving"])
def test_a_study_begins_at_the_belief_and_turns_to_what_it_finds(name: str) -> None:
    history = studied(name, 0.1)
    assert history.trials[0].config["x"] == pytest.approx(0.1, abs=0.01)
    new = [trial for trial in history if trial.parent is None]
    whys = Counter(str(trial.notes["why"]) for trial in new)
    assert set(whys) == {prior_band.UNIFORM, prior_band.BELIEF, prior_band.BEST}
    near = [trial for trial in new if trial.notes["why"] == prior_band.BEST]
    assert any(trial.config["x"] in {other.config["x"] for other in history.trials[: trial.number]} for trial in near)
    assert history.trials[0].origin.endswith("from your belief")


def test_another_sampler_treats_a_belief_in_its_own_way() -> None:
    history = studied("hyperband", 0.1, length=20, sampler="tpe")
    assert not any("why" in trial.notes for trial in history)
