"""Folds inside a trial: which rows they have, what is sent of them, and when they end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo_core.base.errors import InputError
from hpo_core.selection.evaluation import Fold
from hpo_core.selection.milestones import Milestones
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.messages import FoldScore
from hpo_flows.objectives.splits import folds, split

LABELS = np.repeat([0, 1, 2], [60, 30, 10])

Opened = Callable[..., TrialContext]


@pytest.fixture
def sent() -> list[Any]:
    return []


@pytest.fixture
def opened(tmp_path: Path, sent: list[Any]) -> Opened:
    def a_trial(**given: Any) -> TrialContext:
        usual: dict[str, Any] = {"config": {}, "number": 3, "seed": 7, "fidelity": None}
        return TrialContext(scratch=tmp_path, outbox=tmp_path, send=sent.append, **usual | given)

    return a_trial


def rows(trial: TrialContext, **settings: Any) -> list[tuple[list[int], list[int]]]:
    found = []
    for fold in trial.folds(100, **settings):
        found.append((fold.train.tolist(), fold.held_out.tolist()))
        fold.score(loss=1.0)
    return found


@pytest.mark.parametrize(
    "way",
    [{}, {"stratify": LABELS}, {"groups": np.arange(100) // 4}, {"test": range(80, 100)}, {"shuffle": False}],
    ids=["plain", "stratified", "grouped", "given test rows", "in order"],
)
def test_folds_share_the_development_rows_and_leave_the_test_alone(way: dict[str, Any], opened: Opened) -> None:
    development, test = split(100, phase="test", **way)
    found = rows(opened(), of=4, **way)
    assert len(found) == 4
    held_out = [row for _, part in found for row in part]
    assert len(held_out) == len(set(held_out)) and not set(held_out) & set(test)
    for train, part in found:
        assert not set(train) & set(part) and {*train, *part} <= set(development)
    if way.get("shuffle", True):
        assert sorted(held_out) == sorted(development)
    else:
        assert all(max(train) < min(part) for train, part in found)


def test_trials_share_their_folds_and_repeats_have_others(opened: Opened) -> None:
    first, second = rows(opened()), rows(opened(seed=8))
    assert first == second and len(first) == 5
    again, another = rows(opened(repeats=True)), rows(opened(repeats=True, seed=8))
    assert again != first and again != another
    assert rows(opened(), reshuffle=True) == again  # a division of its own, by its seed
    assert rows(opened(), seed=1) != first
    final = [split(100, phase="fold", fold=Fold(i, 5))[1].tolist() for i in range(5)]
    assert [part for _, part in first] != final  # the final choice is to learn something new


@pytest.mark.parametrize("phase", ["fold", "test", "seed", "champion"])
def test_outside_the_search_there_is_one_fold_with_the_rows_of_the_split(
    phase: Any, opened: Opened, sent: list[Any]
) -> None:
    trial = opened(phase=phase, fold=Fold(2, 4) if phase == "fold" else None)
    [(train, held_out)] = rows(trial, of=9, stratify=LABELS)
    expected = split(100, phase=phase, fold=trial.fold, stratify=LABELS)
    assert [train, held_out] == [part.tolist() for part in expected]
    assert trial.fold_means() == {"loss": 1.0} and not sent and "phase" in trial.use.read


def test_scores_are_sent_at_once_and_folds_end_when_told(opened: Opened, sent: list[Any]) -> None:
    answers = iter([True, False])
    trial = opened(answer=lambda: next(answers))
    seen = []
    for fold in trial.folds(100):
        seen.append(fold.index)
        fold.score({"val/loss": fold.index}, accuracy=np.float32(0.5))
        assert sent[-1] == FoldScore(Fold(fold.index, 5), {"val/loss": float(fold.index), "accuracy": 0.5}, True)
    assert seen == [0, 1] and trial.fold_means() == {"val/loss": 0.5, "accuracy": 0.5}
    trial.on_best(lambda: pytest.fail("a trial that was ended early is not the best"))
    trial.finish_best()


@pytest.mark.parametrize(("given", "settings"), [({}, {"stop_early": False}), ({"repeats": True}, {})])
def test_nobody_is_asked_where_nothing_may_end(
    given: dict[str, Any], settings: dict[str, Any], opened: Opened, sent: list[Any]
) -> None:
    trial = opened(answer=lambda: pytest.fail("it asked"), **given)
    assert len(rows(trial, **settings)) == 5 and not any(each.asks for each in sent)
    trial = opened(answer=lambda: True)
    rows(trial)
    assert [each.asks for each in sent[5:]] == [True] * 4 + [False]  # after the last one nothing is left to end


def test_early_stop_and_folds_do_not_both_end_a_trial(opened: Opened) -> None:
    with pytest.raises(InputError, match=r"early_stop: .*stop_early=False"):
        opened(milestones=Milestones()).folds(100)
    assert len(rows(opened(milestones=Milestones()), stop_early=False)) == 5


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda trial: list(trial.folds(100)), "fold 1 of 5 has no score"),
        (lambda trial: [fold.score() for fold in trial.folds(100)], "no metric is given"),
        (lambda trial: [fold.score(loss="high") for fold in trial.folds(100)], "not a number"),
        (lambda trial: [(fold.score(a=1), fold.score(b=1)) for fold in trial.folds(100)], "is scored already"),
        (lambda trial: (trial.folds(100), trial.folds(100)), "called before"),
        (lambda trial: trial.fold_means(), "loop over trial.folds"),
        (lambda trial: (trial.folds(100), trial.fold_means()), "no fold is scored"),
        (lambda trial: trial.folds(100, of=1), "of: 1"),
        (lambda trial: trial.folds(100, of=90), "90 folds: the rows cannot be split so"),
        (lambda trial: trial.folds(100, stratify=LABELS, shuffle=False), "shuffle=False"),
    ],
)
def test_what_cannot_be_is_named(use: Callable[[TrialContext], object], message: str, opened: Opened) -> None:
    with pytest.raises(ValueError, match=message):
        use(opened())


def test_metrics_must_be_those_of_all_folds(opened: Opened) -> None:
    trial = opened(answer=lambda: True)
    for fold in trial.folds(100):
        fold.score({"loss": 1.0} if fold.index else {"loss": 1.0, "auc": 0.5})
    with pytest.raises(ValueError, match="'auc'"):
        trial.fold_means()


def test_folds_are_equal_in_every_process() -> None:
    assert [sorted(held_out.tolist()) for _, held_out in folds(10, of=2)] == [[5, 6, 7, 9], [0, 1, 3, 4]]
