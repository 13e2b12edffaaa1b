"""What several trainings of one configuration come to, and what a trial says of the one that it goes on from."""

from __future__ import annotations

from typing import Any

import pytest

from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState


def trial(number: int, loss: float | None = None, **facts: Any) -> Trial:
    state = facts.pop("state", TrialState.FAILED if loss is None else TrialState.COMPLETE)
    return Trial(number, {"x": 0.5}, state, loss, **facts)


def again(number: int, loss: float | None = None, purpose: str = "confirm", **notes: str) -> Trial:
    return trial(number, loss, notes={"repeat_of": "0", "purpose": purpose, **notes})


@pytest.mark.parametrize(
    ("repeats", "loss", "confirmed"),
    [
        ([], 1.0, False),
        ([again(1, 2.0)], 1.5, True),
        ([again(1, 2.0, "probe")], 1.5, False),
        ([again(1, 2.0), again(2)], 1.5, False),  # it fails now and then
        ([again(1, 2.0), again(2, lost="died")], 1.5, True),
        ([again(1)], 1.0, False),
    ],
)
def test_repeats_count_in_the_mean_and_a_failure_confirms_nothing(
    repeats: list[Trial], loss: float, confirmed: bool
) -> None:
    (found,) = History([trial(0, 1.0), *repeats]).merged
    assert (found.loss, found.confirmed) == (loss, confirmed)


def test_metrics_are_means_of_all_trainings_that_logged_them_all() -> None:
    first = trial(0, 1.0, metrics={"loss": 1.0, "ms": 10.0, "auc": 0.5, "gap": float("nan")})
    other = trial(1, 2.0, metrics={"loss": 2.0, "ms": 30.0, "gap": 0.25}, notes={"repeat_of": "0"})
    failed = trial(2, metrics={"ms": 900.0}, notes={"repeat_of": "0"})
    (found,) = History([first, other, failed]).merged
    assert found.metrics == pytest.approx({"loss": 1.5, "ms": 20.0, "auc": 0.5, "gap": float("nan")}, nan_ok=True)
    assert History([first, other, failed]).trials[0].metrics["ms"] == 10.0


@pytest.mark.parametrize(
    ("state", "said", "resumed"),
    [
        (TrialState.COMPLETE, "yes: trial 0", 0),
        (TrialState.COMPLETE, "no: the checkpoint is gone", None),
        (TrialState.COMPLETE, "", None),
        (TrialState.RUNNING, "", 0),
        (TrialState.RUNNING, "no: the checkpoint is gone", None),
    ],
)
def test_a_trial_goes_on_from_its_parent_if_it_says_so_or_is_about_to(
    state: TrialState, said: str, resumed: int | None
) -> None:
    notes = {"continued": said} if said else {}
    loss = 1.0 if state is TrialState.COMPLETE else None
    assert trial(1, loss, state=state, parent=0, notes=notes).resumed == resumed
    assert trial(1, loss, state=state, notes=notes).resumed is None
