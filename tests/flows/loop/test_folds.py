"""Trials that cross-validate, with real parts: poor ones end early, through kills, several flows and a final choice."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.lineage.opening import find_study
from hpo_core.tracking.connection import connect
from tests.conftest import PATIENCE
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import make_spec, start, tune, wait_for_complete, write_study

pytestmark = pytest.mark.usefixtures("prefect_server")

SPACE = {"x": {"type": "float", "low": 0, "high": 1}}


def trained(folder: Path) -> dict[tuple[int, str], list[str]]:
    """The rows that were held out, by trial and phase, in the order of the folds."""
    found = defaultdict(list)
    for line in (folder / "folds").read_text().splitlines():
        number, phase, _, rows = line.split(" ", 3)
        found[int(number), phase].append(rows)
    return found


def check(history: History) -> None:
    """What holds for every study whose trials have four folds."""
    for trial in history.complete:
        assert trial.folds_wanted == 4 and trial.loss == pytest.approx(sum(trial.folds) / len(trial.folds))
        assert trial.whole == (len(trial.folds) == 4) == (not trial.reason)
        if not trial.whole:
            assert trial.reason.startswith(f"stopped after {len(trial.folds)} of 4 folds: worse than trial ")
            assert trial.repeat_of is None
    assert history.incumbent is not None and history.incumbent.whole
    some = {trial.number for trial in history.complete if not trial.whole}
    assert some and not some & {trial.repeat_of for trial in history}


def test_poor_configurations_end_after_some_folds(tmp_path: Path) -> None:
    result = tune(make_spec("cross_validated", strategy="random", stop={"trials": 18}))
    history = result.history
    check(history)
    assert len(history.complete) == 18 and result.best is not None and result.best.observed
    rows = trained(tmp_path)
    search = {tuple(rows[trial.number, "search"][:1]) for trial in history if trial.repeat_of is None}
    assert len(search) == 1  # all trials share their folds
    for trial in history:
        assert len(rows[trial.number, "search"]) == len(trial.folds)
        if trial.repeat_of is not None:
            assert rows[trial.number, "search"] != rows[0, "search"]


def test_the_final_choice_scores_each_finalist_on_one_fold_at_a_time(tmp_path: Path) -> None:
    final = {"top": 2, "folds": 3}
    result = tune(make_spec("cross_validated", strategy="random", stop={"trials": 8}, final=final))
    check(result.history)
    assert result.choice is not None and result.choice.winner is not None
    rows = trained(tmp_path)
    for standing in result.choice.standings:
        assert len(rows[standing.trial.number, "fold"]) == 3
    assert len(rows[result.choice.winner.trial.number, "test"]) == 1


def test_a_study_with_early_stop_says_what_cannot_be() -> None:
    with pytest.raises(InputError, match="stop_early=False"):
        tune(make_spec("cross_validated", early_stop={"rule": "median"}))


@pytest.mark.slow
def test_flows_that_die_or_share_a_study_end_the_same_kind_of_trials(tmp_path: Path) -> None:
    space: dict[str, Any] = SPACE | {"seconds": {"type": "fixed", "value": 0.2}}
    path = write_study(tmp_path, "cross_validated", strategy="random", space=space, stop={"trials": 24})
    killed = start(path)
    before = wait_for_complete(6)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=PATIENCE)
    flows = [start(path) for _ in range(2)]
    for flow in flows:
        output, _ = flow.communicate(timeout=PATIENCE)
        assert flow.returncode == 0, output
    history = find_study(connect(), "study").load()
    check(history)
    assert len(history.complete) == 24 and not history.running
    folds = {trial.number: trial.folds for trial in history}
    assert all(folds[trial.number] == trial.folds for trial in before.complete)
