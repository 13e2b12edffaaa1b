"""Who is a finalist, what is evaluated next, and who wins: functions of the history and of the evaluations."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.limits import Limit
from hpo_core.history.trial import Trial, TrialState
from hpo_core.selection.evaluation import Evaluation, Fold
from hpo_core.selection.final_choice import Selection, best_front, best_trial, finalists
from hpo_core.space.parameters import Int, Ordinal
from hpo_core.space.search_space import SearchSpace
from hpo_core.study.file import study_from
from hpo_core.study.resume import compare

SPACE = SearchSpace(
    {"depth": Int(low=1, high=9), "size": Ordinal(choices=["small", "large"], when={"depth": [1, 2, 3]})}
)


def trial(number: int, loss: float, depth: int | None = None, fidelity: float | None = None, **config: Any) -> Trial:
    values = {"depth": number + 1 if depth is None else depth, **config}
    return Trial(number, values, TrialState.COMPLETE, loss, fidelity)


def fold(
    number: int, index: int, loss: float | None, *, of: int = 3, attempt: int = 0, seconds: float = 1.0, **facts: Any
) -> Evaluation:
    state = TrialState.FAILED if loss is None else TrialState.COMPLETE
    where = None if index < 0 else Fold(index, of)
    facts = {"fidelity": None, "state": state, "end": int(1000 * seconds)} | facts
    return Evaluation(number=number, kind=where, attempt=attempt, loss=loss, **facts)


def folds(number: int, losses: Sequence[float], **facts: Any) -> list[Evaluation]:
    return [fold(number, i, loss, of=len(losses), **facts) for i, loss in enumerate(losses)]


HISTORY = History([trial(0, 0.5), trial(1, 0.1), trial(2, 0.3), trial(3, 0.2)])


def test_finalists_are_the_best_configurations_once_each_at_the_highest_fidelity() -> None:
    assert [t.number for t in finalists(HISTORY, 3)] == [1, 3, 2]
    assert finalists(History(), 3) == []
    twice = History([trial(0, 0.5, 1, 9.0), trial(1, 0.1, 2, 1.0), trial(2, 0.4, 2, 9.0), trial(3, 0.3, 3, 3.0)])
    assert [t.number for t in finalists(twice, 5)] == [2, 0, 3]


def test_folds_come_first_then_the_winners_test_then_nothing() -> None:
    selection = Selection(top=2, folds=3)
    wanted = selection.wanted(HISTORY, [], SPACE)
    assert [(e.number, e.kind) for e in wanted] == [(n, Fold(i, 3)) for n in (1, 3) for i in range(3)]
    evaluations = [*folds(1, [0.4, 0.5, 0.6]), *folds(3, [0.3, 0.4, 0.5])]
    (test,) = selection.wanted(HISTORY, evaluations, SPACE)
    assert (test.number, test.kind) == (3, None)
    choice = selection.choice(HISTORY, evaluations, SPACE)
    assert choice.decided and not choice.done
    evaluations.append(fold(3, -1, 0.45))
    choice = selection.choice(HISTORY, evaluations, SPACE)
    assert choice.done and choice.test is not None and choice.test.loss == 0.45
    assert selection.wanted(HISTORY, evaluations, SPACE) == []


def test_mean_and_standard_error_are_those_of_the_folds() -> None:
    choice = Selection(top=1, folds=4).choice(HISTORY, folds(1, [1.0, 2.0, 3.0, 6.0]), SPACE)
    (standing,) = choice.standings
    assert standing.mean == 3.0
    assert standing.standard_error == pytest.approx(math.sqrt(14 / 3) / 2)


def test_the_winner_is_the_lowest_mean_and_not_the_incumbent() -> None:
    evaluations = [*folds(1, [0.4, 0.5, 0.6]), *folds(3, [0.3, 0.4, 0.5])]
    choice = Selection(top=2, folds=3).choice(HISTORY, evaluations, SPACE)
    winner = best_trial(HISTORY, choice)
    assert winner is not None and winner.number == 3
    assert HISTORY.incumbent is not None and HISTORY.incumbent.number == 1
    assert best_trial(HISTORY, None) is HISTORY.incumbent


NEAR = [
    # Means 0.40 (standard error 0.058), 0.43, 0.45, 0.50: the first three are within one standard error.
    *folds(1, [0.3, 0.4, 0.5], seconds=9),
    *folds(3, [0.43, 0.43, 0.43], seconds=8),
    *folds(2, [0.45, 0.45, 0.45], seconds=2),
    *folds(0, [0.5, 0.5, 0.5], seconds=1),
]


@pytest.mark.parametrize(
    ("prefer", "winner"),
    [({}, 2), ({"depth": "low"}, 1), ({"depth": "high"}, 3), ({"size": "low"}, 3), ({"size": "high"}, 3)],
    ids=["fastest", "shallow", "deep", "without", "without, though large is preferred"],
)
def test_one_standard_error_takes_the_simplest_of_the_near(prefer: dict[str, Any], winner: int) -> None:
    history = History(
        [trial(0, 0.5), trial(1, 0.1, size="small"), trial(2, 0.3, size="large"), trial(3, 0.2)]
    )  # depth 4 has no size
    choice = Selection(top=4, folds=3, rule="one_standard_error", prefer=prefer).choice(history, NEAR, SPACE)
    assert choice.winner is not None and choice.winner.trial.number == winner


def test_a_configuration_with_a_failed_fold_is_out_with_the_reason() -> None:
    selection = Selection(top=2, folds=3)
    evaluations = [fold(3, 0, 0.1), fold(3, 1, None, reason="out of memory"), *folds(1, [0.5, 0.5, 0.5])]
    choice = selection.choice(HISTORY, evaluations, SPACE)
    out = choice.standings[1]
    assert (out.reason, out.mean) == ("fold 2 of 3 failed: out of memory", math.inf)
    assert choice.winner is choice.standings[0]
    assert [e.number for e in selection.wanted(HISTORY, evaluations, SPACE)] == [1]  # its third fold is not wanted
    nobody = selection.choice(HISTORY, [fold(n, 0, None, reason="no") for n in (1, 3)], SPACE)
    assert nobody.done and nobody.winner is None
    assert best_trial(HISTORY, nobody) is HISTORY.incumbent


def test_a_lost_fold_is_tried_again_but_not_for_ever() -> None:
    selection = Selection(top=1, folds=3)

    def after(*lost: str) -> list[tuple[int, int]]:
        evaluations = [fold(1, 0, None, attempt=i, lost=why, reason="lost") for i, why in enumerate(lost)]
        wanted = selection.wanted(HISTORY, evaluations, SPACE)
        return [(each.kind.index, each.attempt) for each in wanted if isinstance(each.kind, Fold)]

    assert after("died") == [(0, 1), (1, 0), (2, 0)]
    assert after("died", "died") == [(0, 2), (1, 0), (2, 0)]
    assert after("died", "died", "died") == []
    assert after("died", "died", "died", "interrupted")[0] == (0, 4)  # stopping a study is nobody's fault


def test_a_late_result_counts_and_running_folds_are_waited_for() -> None:
    selection = Selection(top=1, folds=3)
    late = [fold(1, 0, 0.5, attempt=0), fold(1, 0, None, attempt=1, state=TrialState.RUNNING)]
    choice = selection.choice(HISTORY, late, SPACE)
    assert choice.folds == (1, 3)
    running = [fold(1, i, None, state=TrialState.RUNNING) for i in range(3)]
    assert selection.wanted(HISTORY, running, SPACE) == []
    assert not selection.choice(HISTORY, running, SPACE).decided


def test_the_order_of_the_evaluations_is_nothing() -> None:
    shuffled = [*NEAR, fold(1, 0, None, attempt=1, lost="died"), fold(2, -1, 0.2)]
    selection = Selection(top=4, folds=3, rule="one_standard_error")
    expected = selection.choice(HISTORY, shuffled, SPACE)
    for seed in range(5):
        random.Random(seed).shuffle(shuffled)
        assert selection.choice(HISTORY, shuffled, SPACE) == expected


def spec_data(final: Any) -> dict[str, Any]:
    return {
        "name": "study",
        "objective": "nowhere:train",
        "metric": "loss",
        "direction": "minimize",
        "space": {"depth": {"type": "int", "low": 1, "high": 9}, "kind": {"type": "choice", "choices": ["a", "b"]}},
        "stop": {"trials": 3},
        "final": final,
    }


@pytest.mark.parametrize(
    ("final", "message"),
    [
        ({"folds": 1}, "final.folds"),
        ({"top": 0}, "final.top"),
        ({"rule": "median"}, "final.rule"),
        ({"tops": 3}, "did you mean 'top'"),
        ({"prefer": {"depth": "low"}}, "final.prefer: only the rule one_standard_error"),
        ({"rule": "one_standard_error", "prefer": {"deep": "low"}}, "final.prefer.deep: unknown parameter"),
        ({"rule": "one_standard_error", "prefer": {"kind": "low"}}, "final.prefer.kind: a choice has no order"),
        ({"rule": "one_standard_error", "prefer": {"depth": "less"}}, "final.prefer.depth"),
        (5, "final"),
    ],
)
def test_a_final_choice_that_cannot_be_is_named(final: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        study_from(spec_data(final))


def test_the_final_choice_may_change_on_resume() -> None:
    old, new = study_from(spec_data(None)), study_from(spec_data({"top": 2}))
    assert new.final is not None and (new.final.top, new.final.folds, new.final.rule) == (2, 5, "mean")
    assert len(compare(old, new)) == 1


def two(number: int, *losses: float, **facts: Any) -> Trial:
    metrics = dict(zip("ab", losses, strict=True))
    return replace(trial(number, losses[0]), losses=losses, metrics=metrics, **facts)


def pairs(number: int, *losses: tuple[float, float]) -> list[Evaluation]:
    """The folds of a trial with two objectives."""
    made = zip(folds(number, [a for a, _ in losses]), losses, strict=True)
    return [replace(fold, losses=each, metrics=dict(zip("ab", each, strict=True))) for fold, each in made]


SEVERAL = History([two(0, 0.0, 9.0), two(1, 4.0, 4.0), two(2, 4.5, 3.9), two(3, 9.0, 0.0), two(4, 9.0, 9.0)])
FOLDED = [
    *pairs(0, (0.0, 9.0), (2.0, 9.0)),
    *pairs(3, (9.0, 1.0), (9.0, 3.0)),
    *pairs(1, (3.0, 4.0), (5.0, 6.0)),
    *pairs(2, (5.0, 5.0), (5.0, 7.0)),  # which the trial before dominates on the folds
]


def test_with_several_objectives_the_front_is_trained_again_and_its_means_are_a_new_front() -> None:
    assert {t.number for t in finalists(SEVERAL, 9)} == {0, 1, 2, 3}
    assert [t.number for t in finalists(SEVERAL, 1)] == [1]  # the compromise; then the least crowded
    assert {t.number for t in finalists(SEVERAL, 3)} == {1, 0, 3}
    low = [t.number for t in finalists(SEVERAL, 3, lambda front: min(front, key=lambda p: p.losses[1], default=None))]
    assert low == [3, 2, 1]  # what is preferred most
    choice = Selection(top=9, folds=2).choice(SEVERAL, FOLDED, SPACE)
    assert [(t.number, t.losses, t.metrics) for t in choice.front] == [
        (0, (1.0, 9.0), {"a": 1.0, "b": 9.0}),
        (1, (4.0, 5.0), {"a": 4.0, "b": 5.0}),
        (3, (9.0, 2.0), {"a": 9.0, "b": 2.0}),
    ]
    assert best_front(SEVERAL, choice) == choice.front and best_front(SEVERAL, None) == SEVERAL.front
    assert choice.winner is not None and choice.winner.trial is SEVERAL.trials[1]  # the compromise
    (test,) = Selection(top=9, folds=2).wanted(SEVERAL, FOLDED, SPACE)
    assert (test.number, test.kind) == (1, None)
    early = Selection(top=9, folds=2).choice(SEVERAL, FOLDED[1:], SPACE)
    assert (early.front, early.winner) == ((), None) and best_front(SEVERAL, early) == SEVERAL.front
    last = Selection(top=9, folds=2, pick=lambda front: front[-1] if front else None)
    assert last.choice(SEVERAL, FOLDED, SPACE).winner.trial.number == 3  # type: ignore[union-attr]
    failed = [replace(each, state=TrialState.FAILED, loss=None, losses=(), reason="no") for each in FOLDED]
    nobody = Selection(top=9, folds=2).choice(SEVERAL, failed, SPACE)
    assert nobody.done and nobody.winner is None and nobody.front == ()


def test_a_standing_by_one_objective_is_that_of_a_study_with_this_objective_alone() -> None:
    standings = Selection(top=9, folds=2).choice(SEVERAL, FOLDED, SPACE).standings
    standing = next(each for each in standings if each.trial.number == 0)
    assert [standing.by(i).losses for i in (0, 1)] == [[0.0, 2.0], [9.0, 9.0]]
    assert [standing.by(i).standard_error for i in (0, 1)] == [1.0, 0.0]
    alone = Selection(top=1, folds=3).choice(HISTORY, folds(1, [1.0, 2.0, 6.0]), SPACE).standings[0]
    assert alone.by(0) is alone and alone.averaged.loss == 3.0


@pytest.mark.parametrize("rule", ["mean", "one_standard_error"])
def test_what_breaks_a_limit_does_not_win_if_anything_keeps_it(rule: Any) -> None:
    """On the folds, a poor configuration was the better one, and won though it breaks the limit."""
    broken = {"excess": {"size": 1.0}}
    history = History([trial(0, 0.5), replace(trial(1, 0.6), **broken), replace(trial(2, 0.1), **broken)])
    assert [t.number for t in finalists(history, 3)] == [0]
    choice = Selection(top=3, folds=3, rule=rule).choice(history, folds(0, [0.5, 0.5, 0.5]), SPACE)
    assert choice.winner is not None and choice.winner.trial.number == 0
    none = History([replace(trial(0, 0.5), excess={"size": 2.0}), replace(trial(1, 0.6), **broken)])
    least = Selection(top=3, folds=3, rule=rule).choice(none, [*folds(0, [0.1] * 3), *folds(1, [0.4] * 3)], SPACE)
    assert least.winner is not None and least.winner.trial.number == 1


@pytest.mark.parametrize("rule", ["mean", "one_standard_error"])
def test_what_breaks_a_limit_on_its_folds_does_not_win(rule: Any) -> None:
    """It kept the limit in the search by luck; a fold that logs no such metric leaves it at what the search says."""
    history = History([replace(trial(n, 0.5), excess={"size": -0.1}) for n in (0, 1, 2)])
    lucky = [replace(each, metrics={"size": size}) for each, size in zip(folds(0, [0.1] * 3), (9, 12, 12), strict=True)]
    kept = [replace(each, metrics={"size": 8.0}) for each in folds(1, [0.4] * 3)]
    silent = folds(2, [0.5] * 3)
    selection = Selection(top=3, folds=3, rule=rule, limits=[Limit("size", "<=", 10.0)])
    choice = selection.choice(history, [*lucky, *kept, *silent], SPACE)
    assert choice.winner is not None and choice.winner.trial.number == 1
    found = {each.trial.number: dict(each.averaged.excess) for each in choice.standings}
    assert found == {0: {"size": pytest.approx(0.1)}, 1: {"size": pytest.approx(-0.2)}, 2: {"size": -0.1}}
    assert choice.winner.judged.loss == 0.5  # of the search, as opposed to the mean
    wild = [replace(each, metrics={"size": math.nan}) for each in folds(1, [0.4] * 3)]
    last = selection.choice(history, [*lucky, *wild, *silent], SPACE).winner
    assert last is not None and last.trial.number == 2
