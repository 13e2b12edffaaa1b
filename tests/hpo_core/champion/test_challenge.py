"""The challenge as a function of evaluations and registry, and its verdict in words and tags."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hpo_core.champion.challenge import challenge_of, record_of, verdict, version_tags, wanted
from hpo_core.champion.succession import PROMOTED, REFUSED
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.store import Version
from hpo_core.ledger.tags import Tag
from hpo_core.selection.evaluation import ChampionVersion, Evaluation, Fold, Retraining
from hpo_core.study.file import study_from
from hpo_flows.loop import champion as stage_module
from tests.hpo_core.study.test_study import STUDY

SPEC = study_from(STUDY | {"direction": "maximize", "champion": {"model": "m", "seeds": 3}})
TRIAL = Trial(7, {"x": 0.5, "kind": "a"}, TrialState.COMPLETE, -0.8)


def retrained(index: int, loss: float | None = None, **facts: Any) -> Evaluation:
    state = TrialState.COMPLETE if loss is not None else TrialState.FAILED
    return Evaluation(7, Retraining(index), None, facts.pop("attempt", 0), state, loss, run_id=f"run{index}", **facts)


def scored(version: int, loss: float | None, **facts: Any) -> Evaluation:
    state = TrialState.COMPLETE if loss is not None else TrialState.FAILED
    return Evaluation(7, ChampionVersion(version), None, 0, state, loss, **facts)


def stand(evaluations: list[Evaluation], reigning: int | None = None, versions: tuple[Version, ...] = ()) -> Any:
    return challenge_of(SPEC, "study", TRIAL, None, evaluations, reigning, versions)


SEEDS = [retrained(0, -0.80), retrained(1, -0.82), retrained(2, -0.81)]


def test_what_is_evaluated() -> None:
    assert [each.kind for each in wanted(stand([]), None, [])] == [Retraining(0), Retraining(1), Retraining(2)]
    found = stand(SEEDS[:1], reigning=4)
    assert [each.kind for each in wanted(found, None, SEEDS[:1])] == [ChampionVersion(4), Retraining(1), Retraining(2)]
    assert found.pending == 3 and not found.done
    lost = retrained(1, lost="died", reason="lost")
    (again,) = wanted(stand([SEEDS[0], lost, SEEDS[2]]), None, [SEEDS[0], lost, SEEDS[2]])
    assert (again.kind, again.attempt) == (Retraining(1), 1)


def test_the_first_champion() -> None:
    found = stand(SEEDS)
    assert found.pending == 0 and found.promotes and not found.done and found.typical.run_id == "run2"
    assert verdict(found, SPEC) == (PROMOTED, "there was no champion; loss 0.81 over 3 seeds")
    tags = version_tags(found, SPEC, "study")
    assert (tags[Tag.REPLACES], tags[Tag.SEEN], tags["hpo.values"]) == ("", "0", "[0.8, 0.82, 0.81]")
    assert record_of([Version(1, tags=tags)], "study", 7, 3) == Version(1, tags=tags)
    assert stand(SEEDS, 1, (Version(1, tags=tags),)).done


def test_better_and_not_better() -> None:
    for champion, decision in ((-0.70, PROMOTED), (-0.80, REFUSED), (-0.90, REFUSED)):
        found = stand([*SEEDS, scored(4, champion)], 4, tuple(Version(number) for number in range(1, 6)))
        assert verdict(found, SPEC)[0] == decision
        tags = version_tags(found, SPEC, "study")
        assert (tags["hpo.against"], tags["hpo.against_value"]) == ("4", repr(-champion))
        assert (tags.get(Tag.REPLACES), tags.get(Tag.SEEN)) == (("4", "5") if decision == PROMOTED else (None, None))
    reason = verdict(stand([*SEEDS, scored(4, -0.80)], 4), SPEC)[1]
    assert (
        reason == "a gain of 0.01, not above the margin of 0.0337171; loss 0.81 over 3 seeds against 0.8 of version 4"
    )


@pytest.mark.parametrize(
    ("evaluations", "obstacle"),
    [
        (
            [*SEEDS[:2], retrained(2, reason="RuntimeError: no"), scored(4, 9.0)],
            "the re-training (seed 3) failed: ",
        ),
        (
            [*SEEDS, scored(4, None, reason="its files are gone")],
            "the champion's score (champion, version 4) failed: its",
        ),
    ],
)
def test_an_obstacle_refuses_and_is_recorded(evaluations: list[Evaluation], obstacle: str) -> None:
    found = stand(evaluations, 4)
    assert found.pending == 0 and not found.promotes and not found.done
    tags = version_tags(found, SPEC, "study")
    assert tags[Tag.DECISION] == REFUSED and tags["hpo.reason"].startswith(obstacle)


def test_without_any_re_training_there_is_nothing_to_register() -> None:
    found = stand([retrained(i, reason="no") for i in range(3)])
    assert found.done and found.record is None and found.obstacle == "the re-training (seed 1) failed: no"


def test_a_verdict_that_was_outrun_is_none() -> None:
    promoted = version_tags(stand([*SEEDS, scored(1, 0.0)], 1, (Version(1),)), SPEC, "study")
    other = promoted | {"hpo.study_run": "another"}
    log = [Version(1), Version(2, tags=other), Version(3, tags=promoted)]
    assert record_of(log, "another", 7, 3) == log[1] and record_of(log, "study", 7, 3) is None
    assert record_of(log, "another", 7, 5) is None  # more seeds are another question


TWO: dict[str, Any] = {"metric": "", "direction": "", "metrics": {"error": "minimize", "ms": "minimize"}}


def test_of_several_metrics_the_free_one_is_compared_and_the_others_keep_what_is_preferred() -> None:
    spec = study_from(STUDY | TWO | {"prefer": "ms <= 10", "champion": {"model": "m", "seeds": 3}})
    trial = Trial(7, {"x": 0.5, "kind": "a"}, TrialState.COMPLETE, 0.2, losses=(0.2, 8.0))

    def told(seeds: list[tuple[float, float]], champion: tuple[float, float]) -> tuple[str, str]:
        def of(error: float, ms: float) -> dict[str, Any]:
            return {"losses": (error, ms), "metrics": {"error": error, "ms": ms}}

        ended = [retrained(i, error, **of(error, ms)) for i, (error, ms) in enumerate(seeds)]
        ended.append(scored(4, champion[0], **of(*champion)))
        found = challenge_of(spec, "study", trial, None, ended, 4, [Version(4)])
        assert version_tags(found, spec, "study")[Tag.METRIC] == "error"
        return verdict(found, spec)

    good = [(0.20, 8.0), (0.22, 9.0), (0.21, 10.0)]
    assert told(good, (0.5, 9.0))[0] == PROMOTED
    assert told(good, (0.21, 1.0)) == (
        REFUSED, "a gain of 0, not above the margin of 0.0337171; error 0.21 over 3 seeds against 0.21 of version 4"
    )  # fmt: skip
    slow = [(error, 2 * ms) for error, ms in good]
    assert told(slow, (0.5, 9.0)) == (REFUSED, "the mean over 3 seeds breaks ms <= 10 (18)")
    decision, reason = told(good, (0.1, 12.0))  # a champion that is too slow cannot stay
    assert (decision, reason.partition(";")[0]) == (PROMOTED, "the champion breaks ms <= 10 (12)")


def test_what_breaks_a_limit_on_its_seeds_is_refused_and_a_champion_that_does_cannot_stay() -> None:
    spec = study_from(STUDY | {"champion": {"model": "m", "seeds": 2}, "limits": {"ms": "<= 5"}})
    trial = replace(TRIAL, excess={"ms": -0.2})

    def found(ours: dict[str, float], theirs: dict[str, float]) -> Any:
        seeds = [retrained(i, 0.8, metrics=ours) for i in range(2)]
        return challenge_of(spec, "study", trial, None, [*seeds, scored(4, 0.1, metrics=theirs)], 4, ())

    slow = found({"ms": 8.0}, {"ms": 4.0})
    assert verdict(slow, spec) == (REFUSED, "the mean over 2 seeds breaks ms <= 5 (8)")
    alone = found({"ms": 4.0}, {"ms": 8.0})
    assert verdict(alone, spec)[0] == PROMOTED and verdict(alone, spec)[1].startswith("the champion breaks ms <= 5 (8)")
    for unknown in (found({}, {"ms": 4.0}), found({"ms": 4.0}, {})):
        assert verdict(unknown, spec)[1].startswith("a gain of -0.7, not above the margin")


def test_a_winner_that_broke_a_limit_in_the_search_is_judged_by_its_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    champion = {"model": "m", "seeds": 2}
    spec = study_from(STUDY | {"champion": champion, "limits": {"ms": "<= 5"}, "final": {"top": 1, "folds": 2}})
    history = History([replace(TRIAL, excess={"ms": 0.2}, metrics={"ms": 6.0})])
    monkeypatch.setattr(stage_module, "settle", lambda registry, model: (None, ()))

    def obstacle(ms: float) -> str:
        folds = [Evaluation(7, Fold(i, 2), None, 0, TrialState.COMPLETE, 0.8, metrics={"ms": ms}) for i in range(2)]
        ended = [*folds, Evaluation(7, None, None, 0, TrialState.COMPLETE, 0.8)]
        assert spec.final is not None
        choice = spec.final.selection(limits=spec.limiting).choice(history, ended, spec.search_space)
        ledger = SimpleNamespace(spec=spec, store=None, study_run=SimpleNamespace(id="study"))
        seeds = SimpleNamespace(load=lambda: [*ended, retrained(0, 0.8), retrained(1, 0.8)])
        stage = stage_module.ChampionStage(
            cast(Any, ledger), cast(Any, seeds), cast(Any, SimpleNamespace(choice=choice))
        )
        stage.load(history)
        assert stage.challenge is not None and stage.challenge.trial.loss == TRIAL.loss
        return stage.challenge.obstacle

    assert obstacle(4.0) == ""
    assert obstacle(6.0) == "no configuration keeps the study's limits"
