"""An oracle under KerasTuner's names: its settings, its trials, and a loop of the user's own that asks it for them."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.errors import InputError
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.space.objective import Objective
from hpo_flows.keras.tuner.oracle import Oracle
from hpo_flows.keras.tuner.oracles import (
    BayesianOptimizationOracle,
    GridSearchOracle,
    HyperbandOracle,
    RandomSearchOracle,
    oracle_for,
)
from hpo_flows.keras.tuner.trial import Trial, TrialStatus


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPO_HOME", str(tmp_path / "home"))


def space() -> HyperParameters:
    hp = HyperParameters()
    hp.Int("units", 2, 9)
    hp.Choice("kind", ["a", "b"])
    return hp


def oracle(folder: Path, **settings: Any) -> Oracle:
    made = RandomSearchOracle(
        **{"objective": Objective("cost", "min"), "max_trials": 4, "hyperparameters": space()} | settings
    )
    made._set_project_dir(folder, "own-loop")
    return made


# -- settings --------------------------------------------------------------------------------------------------------


def test_the_arguments_have_keras_tuner_s_positions() -> None:
    hp = space()
    plain = Oracle("val_loss", 7, hp, True, True, 5, 2, 4)
    found = [
        RandomSearchOracle("val_loss", 7, 5, hp, True, True, 2, 4),
        BayesianOptimizationOracle("val_loss", 7, 3, 1e-4, 2.6, 5, hp, True, True, 2, 4),
        GridSearchOracle("val_loss", 7, 5, hp, True, True, 2, 4),
    ]
    for each in [plain, *found]:
        assert (each.objective, each.max_trials, each.seed) == (Objective("val_loss", "min"), 7, 5)
        assert (each.max_retries_per_trial, each.max_consecutive_failed_trials) == (2, 4)
        spec = each.spec
        assert (spec.seed, spec.retries, spec.stop.trials) == (5, 2, 7)
        assert list(spec.space) == ["units", "kind"]
    assert found[1].spec.strategy.model_dump() == {"name": "bayesian", "start": 3}
    band = HyperbandOracle("val_loss", 9, 3, 2, 5, hp, True, True, 2, 4)
    assert (band.max_epochs, band.factor, band.hyperband_iterations, band.seed) == (9, 3, 2, 5)
    assert band.spec.stop.trials == 2 * (9 + 3 + 1 + 5 + 1 + 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Oracle("val_loss", allow_new_entries=False), "allow_new_entries: it is False, and there are no"),
        (lambda: Oracle("val_loss", tune_new_entries=False), "tune_new_entries: it is False, and there are no"),
        (lambda: Oracle("val_loss", hyperparameters=space()).spec, "max_trials: is missing"),
        (lambda: Oracle("val_loss", hyperparameters=3), "hyperparameters: 3 is no HyperParameters; give HyperParam"),
        (lambda: Oracle(max_consecutive_failed_trials=0), "max_consecutive_failed_trials: 0 is not"),
        (lambda: HyperbandOracle("val_loss", factor=1, hyperparameters=space()).spec, "factor: .* below 2"),
        (lambda: oracle_for("asha", objective="val_loss", hyperparameters=space()).spec, "max_trials: is missing"),
    ],
)
def test_settings_that_cannot_be_meant(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_what_has_no_effect_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hpo"):
        BayesianOptimizationOracle("val_loss", alpha=1e-4, beta=2.6)
        assert not caplog.messages
        BayesianOptimizationOracle("val_loss", beta=5.0)
    assert [message.partition(":")[0] for message in caplog.messages] == ["beta=5.0 has no effect"]


def test_the_space_may_be_read_and_grow() -> None:
    found = RandomSearchOracle("val_loss", hyperparameters=space())
    assert [each.name for each in found.get_space().space] == ["units", "kind"]
    more = found.get_space()
    more.Boolean("shuffle")
    found.update_space(more)
    found.update_space(more)
    assert [each.name for each in found.hyperparameters.space] == ["units", "kind", "shuffle"]
    closed = RandomSearchOracle("val_loss", hyperparameters=space(), allow_new_entries=False)
    with pytest.raises(InputError, match="allow_new_entries: it is False, and shuffle is new"):
        closed.update_space(more)
    fixed = RandomSearchOracle("val_loss", hyperparameters=space(), tune_new_entries=False)
    fixed.update_space(more)
    assert [each.name for each in fixed.hyperparameters.space] == ["units", "kind"]


def test_the_sum_of_several_objectives(tmp_path: Path) -> None:
    found = oracle(tmp_path, objective=["loss", Objective("auc", "max")])
    assert found.spec.metric == "multi_objective" and found.spec.direction == "minimize"


# -- a loop of the user's own ----------------------------------------------------------------------------------------


def cost(trial: Trial) -> float:
    hp = trial.hyperparameters
    return float(hp.get("units")) + (hp.get("kind") == "b")  # type: ignore[arg-type]


def test_a_loop_of_ones_own(tmp_path: Path) -> None:
    asked = oracle(tmp_path)
    assert (asked.remaining_trials(), asked.get_best_trials(), asked.trials) == (4, [], {})
    first = asked.create_trial("tuner0")
    assert (first.trial_id, first.status) == ("0", TrialStatus.RUNNING)
    assert asked.create_trial("tuner0") is first is asked.get_trial("0")  # until it has ended
    assert list(asked.ongoing_trials) == ["0"]
    with pytest.raises(InputError, match="update_trial: 'cost' is not among other; report the objective, too"):
        asked.update_trial("0", {"other": 1.0})
    with pytest.raises(InputError, match="end_trial: trial 0 has no 'cost'; call update_trial before"):
        asked.end_trial("0")
    asked.update_trial("0", {"cost": cost(first) + 1, "other": 2.0}, step=0)
    asked.update_trial("0", {"cost": cost(first), "other": 3.0}, step=1)
    first.status = TrialStatus.COMPLETED
    asked.end_trial(first)
    assert (first.score, first.best_step) == (cost(first), 1)

    failing = asked.create_trial("tuner0")
    failing.status, failing.message = TrialStatus.FAILED, "it was too large"
    asked.end_trial(failing)
    while (trial := asked.create_trial("tuner0")).status == TrialStatus.RUNNING:
        asked.update_trial(trial.trial_id, {"cost": cost(trial)})
        asked.end_trial(trial.trial_id, "COMPLETED")
    assert trial.status == TrialStatus.STOPPED

    read = oracle(tmp_path)  # a new process would read the same
    assert list(read.trials) == read.start_order == read.end_order == ["0", "1", "2", "3"]
    assert (read.remaining_trials(), read.ongoing_trials) == (0, {})
    best = read.get_best_trials(9)
    scores = [each.score for each in best]
    assert scores[:3] == sorted(scores[:3]) and scores[3] is None and best[3].message == "it was too large"
    kept = read.get_trial("0")
    assert (kept.status, kept.score, kept.best_step) == (TrialStatus.COMPLETED, first.score, 1)
    assert kept.metrics.get_last_value("other") == 3.0 and kept.hyperparameters.values == first.hyperparameters.values
    assert [each.name for each in kept.hyperparameters.space] == ["units", "kind"]
    with pytest.raises(KeyError, match="no trial '7'"):
        read.get_trial("7")
    assert read.populate_space("4") == {"status": TrialStatus.STOPPED, "values": None}
    read.save(), read.reload(), read.set_state(read.get_state())
    assert read.get_state()["end_order"] == ["0", "1", "2", "3"]


def test_invalid_trials_are_tried_again_and_too_many_failures_end_the_loop(tmp_path: Path) -> None:
    asked = oracle(tmp_path, max_retries_per_trial=1, max_consecutive_failed_trials=2)
    trial = asked.create_trial("tuner0")
    asked.update_trial("0", {"cost": math.nan})
    asked.end_trial("0")
    assert asked.create_trial("tuner0") is trial and trial.status == TrialStatus.RUNNING
    asked.end_trial("0", TrialStatus.INVALID)
    assert trial.status == TrialStatus.FAILED
    other = asked.create_trial("tuner0")
    assert other.trial_id == "1"
    with pytest.raises(RuntimeError, match="2 trials in a row failed, the last one because no luck"):
        other.message = "no luck"
        asked.end_trial("1", TrialStatus.FAILED)


def test_a_score_of_ones_own(tmp_path: Path) -> None:
    class Worst(RandomSearchOracle):
        def score_trial(self, trial: Trial) -> None:
            trial.score, trial.best_step = trial.metrics.get_last_value("cost"), 5

    asked = Worst(Objective("cost", "min"), 1, hyperparameters=space())
    asked._set_project_dir(tmp_path, "own-score")
    asked.create_trial("tuner0")
    for step, value in enumerate([1.0, 3.0]):
        asked.update_trial("0", {"cost": value}, step)
    asked.end_trial("0")
    assert asked.get_best_trials()[0].score == 3.0
