"""Scripts that are run again under the same project after ``build_model`` was changed, as people do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.errors import StudyConflict
from hpo_core.lineage.replay import explain
from hpo_flows.keras.errors import FailedTrialError

pytestmark = [
    pytest.mark.slow,
    # Keras 3.15 over numpy 2 warns of its own conversions.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


def tuner(folder: Path, build: Any, trials: int, **settings: Any) -> Any:
    import hpo_flows.keras as kt

    return kt.RandomSearch(
        build, "val_loss", max_trials=trials, directory=folder, project_name="team/first", isolation="none", **settings
    )


def search(tuned: Any) -> None:
    import numpy as np

    x = np.random.default_rng(0).random((16, 2)).astype("float32")
    tuned.search(x, x.sum(1), validation_data=(x, x.sum(1)), epochs=1, verbose=0)


def small(hp: Any) -> Any:
    import keras

    units = hp.Int("units (first)", 1, 4)
    rate = hp.Float("rate", 1e-3, 1e-1, sampling="log", default=1e-2)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(rate), loss="mse")
    return model


def grown(hp: Any) -> Any:
    hp.Choice("kind", ["a", "b", "c"], default="b")
    return small(hp)


def changed(hp: Any) -> Any:
    hp.Int("units (first)", 1, 8)
    return small(hp)


def test_a_project_goes_on_with_more_hyperparameters(tmp_path: Path) -> None:
    search(tuner(tmp_path, small, 3))
    more = tuner(tmp_path, grown, 6)
    search(more)
    trials = more.oracle.get_best_trials(6)
    kinds = {trial.trial_id: trial.hyperparameters["kind"] for trial in trials}
    assert [kinds[str(i)] for i in range(3)] == ["b", "b", "b"] and len(kinds) == 6
    ledger = more.oracle.read()
    for number in range(6):
        found = explain(ledger, number)
        assert found.same, (number, found.verdict, found.caveats)
    keys = {key for trial in ledger.load() for key in ledger.store.get(trial.run_id).params}
    assert {"rate", "kind"} < keys and any(key.startswith("units _first_-") for key in keys)

    with pytest.raises(StudyConflict, match=r"space.kind: .* -> null\n") as caught:
        search(tuner(tmp_path, small, 7))
    assert "overwrite=True" in str(caught.value)
    with pytest.raises(StudyConflict, match=r"space.units \(first\).high: 4 -> 8"):
        search(tuner(tmp_path, changed, 7))
    anew = tuner(tmp_path, changed, 1, overwrite=True)
    search(anew)
    assert len(anew.oracle.trials) == 1


def test_a_build_that_raises_for_some_values(tmp_path: Path) -> None:
    def build(hp: Any) -> Any:
        if hp.Choice("kind", ["good", "bad", "too large"]) == "bad":
            raise ValueError("a bad build")
        if hp.get("kind") == "too large":
            raise FailedTrialError("too large to train")
        return small(hp)

    tuned = tuner(tmp_path, build, 9, max_consecutive_failed_trials=9, max_retries_per_trial=1)
    assert set(tuned.oracle.exploration.space.parameters) == {"kind", "units (first)", "rate"}
    search(tuned)
    found = {trial.hyperparameters["kind"]: trial for trial in tuned.oracle.trials.values()}
    assert found.keys() == {"good", "bad", "too large"}
    assert found["good"].score is not None
    assert "too large to train" in found["too large"].message and "a bad build" in found["bad"].message
