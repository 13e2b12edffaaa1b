"""What the report says of the final choice and of the champion."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from hpo_core.champion.challenge import Challenge, challenge_of, version_tags
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.store import Version
from hpo_core.ledger.tags import Tag
from hpo_core.selection.evaluation import ChampionVersion, Evaluation, EvaluationKind, Fold, Retraining
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.html.cards import best_configuration, facts
from hpo_flows.reports.html.decisions import champion_card, choice_card, confirm_card
from hpo_flows.reports.html.figures.past import Past
from tests.studies import make_spec

FOLDS = {0: [0.30, 0.32], 1: [0.20, 0.24], 2: [0.21, 0.25]}
"""The losses of the folds by trial: the second trial has the best mean, the third is simpler and close to it."""


def spec_of(**final: Any) -> StudySpec:
    space = {"depth": {"type": "int", "low": 1, "high": 9}}
    return make_spec(
        name="wine", space=space, final={"top": 3, "folds": 2} | final, champion={"model": "wine<b>", "seeds": 3}
    )


def evaluation(number: int, kind: EvaluationKind | None, loss: float | None, reason: str = "") -> Evaluation:
    state = TrialState.FAILED if loss is None else TrialState.COMPLETE
    metrics = {} if loss is None else {"loss": loss}
    return Evaluation(number, kind, None, 0, state, loss, reason=reason, metrics=metrics, end=1, run_id=f"{number}")


def past_of(spec: StudySpec, evaluations: list[Evaluation], challenge: Challenge | None = None) -> Past:
    trials = [
        Trial(n, {"depth": 9 - 3 * n}, TrialState.COMPLETE, 0.1 + 0.01 * n, start=1, end=2, run_id=f"t{n}")
        for n in range(3)
    ]
    history = History(trials)
    assert spec.final is not None
    choice = spec.final.selection().choice(history, evaluations, spec.search_space)
    return Past(spec, history, None, choice=choice, challenge=challenge)


def folds() -> list[Evaluation]:
    return [evaluation(n, Fold(i, 2), loss) for n, losses in FOLDS.items() for i, loss in enumerate(losses)]


def said(card: str) -> str:
    found = re.search(r'<p class="said">(.*?)</p>', card)
    assert found is not None
    return found[1]


def test_the_final_choice_says_who_won_and_why() -> None:
    running = choice_card(past_of(spec_of(), folds()[:-1]))
    assert "5 of 6 folds are done" in said(running) and "1 of 2 folds" in running and "winner" not in running
    by_mean = past_of(spec_of(), [*folds(), evaluation(1, None, 0.26)])
    assert said(choice_card(by_mean)) == (
        "Trial 1 wins: loss 0.220 ± 0.020 over its folds, the best mean. Trial 0 was the best of the search. On the "
        "test set: loss: 0.26."
    )
    assert "Trial 1, the winner: loss 0.220 ± 0.020" in best_configuration(by_mean, None)
    assert "winner&#x27;s loss" in facts(by_mean) and "± 0.020 over its folds, trial 1" in facts(by_mean)
    simplest = choice_card(past_of(spec_of(rule="one_standard_error", prefer={"depth": "low"}), folds()))
    assert (
        "of the 2 within one standard error of the best mean (trial 1, 0.22) it is the simplest, by depth low"
        in simplest
    )
    assert "The best 3 of the search, trained again on 2 folds" in simplest
    assert 'class="band"' in simplest and "Its test is running" in simplest
    failed = choice_card(past_of(spec_of(), [*folds()[2:], evaluation(0, Fold(0, 2), None, "<b>no memory")]))
    assert "fold 1 of 2 failed: &lt;b&gt;no memory" in failed


def test_what_was_trained_again_is_shown_with_its_luck() -> None:
    again = {"repeat_of": "0", "purpose": "confirm"}
    losses = [(0.1, {}), (0.3, {}), (0.2, again), (0.12, again), (0.31, {"repeat_of": "1", "purpose": "confirm"})]
    trials = [
        Trial(n, {"depth": n % 2 + 1}, TrialState.COMPLETE, loss, notes=notes, start=1, end=2, run_id=f"t{n}")
        for n, (loss, notes) in enumerate(losses)
    ]
    spec = make_spec(space={"depth": {"type": "int", "low": 1, "high": 9}})
    shown = confirm_card(Past(spec, History(trials), None))
    assert said(shown).startswith(
        "Trial 0 has loss 0.140 ± 0.025, the mean of 3 trainings. Luckiest: trial 0 with 0.1,"
    )
    limited = make_spec(space={"depth": {"type": "int", "low": 1, "high": 9}}, limits={"ms": "<= 5"})
    kept = History([replace(trial, excess={"ms": -1.0}, metrics={"ms": 4.0}) for trial in trials])
    assert said(confirm_card(Past(limited, kept, None))) == said(shown)
    found = best_configuration(Past(limited, kept, None), None)
    assert "Trial 0: loss = 0.140 ± 0.025. Luckiest" in found
    assert shown.count('class="final') == 4 and shown.count("<mark>best</mark>") == 1
    assert "0.140 ± 0.025" in shown and "0.305 ± 0.031" in shown
    assert confirm_card(Past(spec, History(trials[:2]), None)) == ""
    quiet = [replace(trial, loss=0.1 * (trial.number % 2 or 2)) for trial in trials[:2]]
    assert confirm_card(Past(spec, History([*quiet, replace(trials[2], loss=0.2)]), None)) == ""


@pytest.mark.parametrize("rival", [0.5, 0.21, None])
def test_the_champions_card_says_whether_it_was_replaced(rival: float | None) -> None:
    spec = spec_of()
    past = past_of(spec, [*folds(), evaluation(1, None, 0.26)])
    winner = past.winner
    assert winner is not None
    reigning = None if rival is None else 1
    evaluations = [evaluation(1, Retraining(i), loss) for i, loss in enumerate((0.20, 0.22, 0.21))]
    if rival is not None:
        evaluations.append(evaluation(1, ChampionVersion(1), rival))
    versions = [] if rival is None else [Version(1, tags={Tag.DECISION: "promoted"})]

    def card(reigning: int | None, versions: list[Version]) -> str:
        challenge = challenge_of(spec, "study", winner.trial, None, evaluations, reigning, versions)
        return champion_card(past_of(spec, folds(), challenge))

    assert "Being compared: 0 evaluations" in said(card(reigning, versions))
    challenge = challenge_of(spec, "study", winner.trial, None, evaluations, reigning, versions)
    versions.append(Version(len(versions) + 1, "r", version_tags(challenge, spec, "study")))
    if rival == 0.21:
        refused = card(1, versions)
        assert said(refused).startswith(
            "Refused: version 1 stayed the champion; the winner is version 2 of wine&lt;b&gt;:"
        )
        assert 'class="band"' in refused and "version 1" in refused
        return
    promoted = card(versions[-1].number, versions)
    place = "in place of version 1" if rival else "became the champion: there was no champion"
    assert said(promoted).startswith("Promoted: version") and place in said(promoted) and "Now" not in said(promoted)
    assert promoted.count('class="final') == (3 if rival else 2)
    assert "Now the champion is version 7" in said(card(7, versions))


def test_a_study_without_them_has_no_such_cards() -> None:
    past = Past(make_spec(name="plain"), History(), None)
    assert choice_card(past) == champion_card(past) == ""
    nothing = past_of(spec_of(), [])
    assert "0 of 6 folds are done" in choice_card(nothing) and champion_card(nothing) == ""


def test_the_final_choice_of_several_metrics_shows_the_folds_by_each() -> None:
    losses = {0: [(0.3, 1.0), (0.5, 3.0)], 1: [(0.2, 9.0), (0.2, 9.0)], 2: [(0.6, 8.0), (0.6, 8.0)]}
    spec = make_spec(
        **{"metric": "", "direction": "", "metrics": {"error": "minimize", "ms": "minimize"}},
        name="both",
        space={"depth": {"type": "int", "low": 1, "high": 9}},
        final={"top": 3, "folds": 2},
        prefer="ms <= 5",
    )
    trials = [
        Trial(n, {"depth": n + 1}, TrialState.COMPLETE, float(n), losses=(float(n), 3.0 - n), start=1, end=2)
        for n in range(3)
    ]
    evaluations = [
        replace(evaluation(n, Fold(i, 2), pair[0]), losses=pair, metrics={"error": pair[0], "ms": pair[1]})
        for n, pairs in losses.items()
        for i, pair in enumerate(pairs)
    ]
    history, final = History(trials), spec.final
    assert final is not None
    choice = final.selection(spec.stands_for).choice(history, evaluations, spec.search_space)
    past = Past(spec, history, None, choice=choice)
    card = choice_card(past)
    assert said(card) == (
        "Trial 0 wins: error 0.40 ± 0.10, ms 2.0 ± 1.0 over its folds, of the 2 points of the front by these means "
        "preferred by ms &lt;= 5. Its test is running."
    )
    assert card.count("error of each fold") == card.count("ms of each fold") == 1
    assert card.count("<mark>winner</mark>") == card.count("<mark>on the front</mark>") == 2
    assert "Trial 0, the winner: error 0.40 ± 0.10, ms 2.0 ± 1.0 over its folds." in best_configuration(past, None)
    assert "<b>trial 0</b><small>error 0.40 ± 0.10, ms 2.0 ± 1.0 over its folds</small>" in facts(past)
