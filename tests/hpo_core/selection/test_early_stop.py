"""Rules that stop running trials: as pure functions, in a trial's log, and in a flow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.decode import trial_of
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import FINISHED
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.lineage.replay import explain
from hpo_core.numerics.learning_curve import chance_of_beating
from hpo_core.selection.early_stopping import RULES, make_rule
from hpo_core.selection.evaluation import Training
from hpo_core.selection.milestones import Milestones
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_flows.api import open_ledger, run
from hpo_flows.objectives.messages import Report
from hpo_flows.objectives.reference import Objective
from hpo_flows.results import StudyResult
from hpo_flows.trials import recorder
from hpo_flows.trials.judge import Judge, Rungs
from hpo_flows.trials.recorder import TrialLog
from hpo_flows.trials.session import Session
from hpo_flows.workers.pool import WorkerPool
from tests.memory_store import MemoryStore

ROOT = Path(__file__).parents[3]


def trial(number: int = 0, **facts: Any) -> Trial:
    return Trial(number, {"x": number / 100}, facts.pop("state", TrialState.RUNNING), **facts)


def others(*losses: float, milestone: int = 3) -> History:
    return History(trial(i + 1, rungs={milestone: loss}) for i, loss in enumerate(losses))


def stops(
    rule: str,
    history: History,
    curve: Mapping[int, float],
    milestone: int = 3,
    judged: Trial | None = None,
    **settings: Any,
) -> str:
    return make_rule(rule, settings).verdict(history, judged or trial(), curve, milestone)


# -- the rules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "counts", "last"),
    [
        ({}, [0, 1, 2, 3, 8, 9, 26, 27, 80, 81], [0, 1, 1, 3, 3, 9, 9, 27, 27, 81]),
        ({"start": 2, "eta": 2.5}, [1, 2, 4, 5, 12, 13], [0, 2, 2, 5, 5, 13]),
        ({"start": 3, "every": 4}, [2, 3, 6, 7, 11], [0, 3, 3, 7, 11]),
    ],
)
def test_milestones(settings: dict[str, Any], counts: list[int], last: list[int]) -> None:
    assert [Milestones(**settings).last(count) for count in counts] == last


def test_median_stops_what_is_worse_than_half_of_the_others() -> None:
    history = others(0.1, 0.2, 0.3, 0.4, 0.5)
    assert stops("median", history, {3: 0.31}) == "worse than the median of 5 trials"
    assert stops("median", history, {3: 0.3}) == ""
    assert stops("median", others(0.1, 0.2, 0.3, 0.4), {3: 9.0}) == "", "four others are too few"
    assert stops("median", others(0.1, 0.2, 0.3, 0.4), {3: 9.0}, trials=4) != ""
    assert stops("median", history, {3: 9.0}, milestone=9) == "", "nobody else was there"


def test_median_does_not_compare_a_trial_with_itself() -> None:
    history = History([*others(0.1, 0.2, 0.3, 0.4), trial(0, rungs={3: 9.0})])
    assert stops("median", history, {3: 9.0}) == ""


def test_asha_stop_lets_the_best_third_go_on() -> None:
    history = others(0.1, 0.2, 0.3, 0.4, 0.5)
    assert stops("asha_stop", history, {3: 0.15}) == ""
    assert stops("asha_stop", history, {3: 0.25}) == "3 of 6, not among the best 2"
    assert stops("asha_stop", history, {3: 0.05}, eta=6) == ""
    assert stops("asha_stop", others(0.1), {3: 0.9}) == "", "of two there is no best third"
    assert stops("asha_stop", others(*[0.5] * 8), {3: 0.5}) == "", "equal is not worse"


def test_plateau_stops_what_has_not_improved() -> None:
    curve = {1: 0.9, 2: 0.5, 3: 0.6, 4: 0.51, 5: 0.5}
    assert stops("plateau", History(), curve, patience=3) == "no better for 3 steps"
    assert stops("plateau", History(), curve, patience=4) == ""
    assert stops("plateau", History(), {1: 0.9, 2: 0.85, 3: 0.81}, patience=2, delta=0.1) == "no better for 2 steps"
    assert make_rule("plateau", {"patience": 3}).milestones.last(3) == 0, "it needs one more step than its patience"


def test_extrapolation_stops_what_cannot_beat_the_incumbent() -> None:
    best = History([trial(1, state=TrialState.COMPLETE, loss=0.2, fidelity=50.0)])
    t = range(1, 12)
    hopeless, promising = {s: 0.7 + 0.2 / s for s in t}, {s: 0.1 + 0.6 / s for s in t}
    judged = trial(fidelity=50.0)
    assert stops("extrapolation", best, hopeless, judged=judged).endswith("to beat trial 1")
    assert stops("extrapolation", best, promising, judged=judged) == ""
    assert stops("extrapolation", History(), hopeless, judged=judged) == "", "there is nothing to beat"
    assert stops("extrapolation", best, {1: 0.9, 2: 0.9, 3: 0.9}, judged=judged) == "", "too little is seen"
    assert stops("extrapolation", best, hopeless, judged=judged, chance=0.0) == ""
    whole = History([trial(1, state=TrialState.COMPLETE, loss=0.2)])
    assert stops("extrapolation", whole, hopeless, steps=50) != "", "without a fidelity the rule says how far"


@pytest.mark.parametrize(("a", "b", "c"), [(0.1, 0.8, 0.3), (0.1, 0.8, 1.0), (0.3, 0.5, 0.7)])
def test_the_chance_is_that_of_the_curve(a: float, b: float, c: float) -> None:
    rng = np.random.default_rng(0)
    t = np.arange(1.0, 31.0)
    final = a + b * 100**-c
    y = a + b * t**-c + rng.normal(0, 0.003, 30)
    chances = [chance_of_beating(t, y, 100, final + d) for d in (-0.4, 0.0, 0.4)]
    assert chances[0] < 0.05 and 0.05 < chances[1] < 0.95 and chances[2] > 0.95


@pytest.mark.parametrize(
    "y", [[0.5] * 8, [0.0, math.inf, 1.0, math.nan, 2.0, 3.0, 3.0, 1.0], [1e308, -1e308] * 4, [1e-320] * 8, [*range(8)]]
)
def test_the_chance_is_a_number_whatever_the_curve(y: list[float]) -> None:
    for best in (0.0, -1.0, 1e308):
        assert 0.0 <= chance_of_beating(np.arange(1.0, 9.0), np.array(y), 50, best) <= 1.0


def test_the_chance_scales_with_the_losses() -> None:
    t = np.arange(1.0, 12.0)
    y = 0.3 + 1 / t
    assert chance_of_beating(t, 1e6 * y, 50, 3e5) == pytest.approx(chance_of_beating(t, y, 50, 0.3))
    assert chance_of_beating(t, y - 7, 50, -6.7) == pytest.approx(chance_of_beating(t, y, 50, 0.3))


# -- a trial's log ----------------------------------------------------------------------------------------------


def study(**changes: Any) -> StudySpec:
    data: dict[str, Any] = {
        "name": "stopping",
        "objective": "tests.objectives:epochs",
        "metric": "loss",
        "direction": "minimize",
        "space": {"x": {"type": "float", "low": 0, "high": 1}},
        "early_stop": {"rule": "median", "first": 1, "trials": 2},
        "stop": {"trials": 12},
    }
    return study_from(data | changes)


@pytest.fixture
def _only_when_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written because time has passed."""
    monkeypatch.setattr(recorder, "FIRST_WRITE_SECONDS", math.inf)
    monkeypatch.setattr(recorder, "WRITE_SECONDS", math.inf)


def session_of(ledger: Ledger, folder: Path) -> Session:
    return Session(ledger, cast(WorkerPool, None), Objective("tests.objectives:epochs"), folder)


def reserved(ledger: Ledger) -> Trial:
    history = ledger.load()
    [proposal] = ledger.spec.propose(history, 1)
    made = ledger.reserve(proposal, history)
    assert made is not None
    return made


def played(session: Session, losses: list[float], metric: str = "loss") -> tuple[Trial, int]:
    """A trial that reports these losses and obeys; and after how many steps it ended."""
    made = reserved(session.ledger)
    record, rule = TrialLog(session, Training(made), {}, session.folder), session.ledger.spec.stop_rule
    assert rule is not None
    steps = judged = 0
    for step, loss in enumerate(losses):
        steps = step + 1
        milestone = last if (last := rule.milestones.last(steps)) > judged else None
        judged = max(judged, last)
        go_on = record.receive(Report(step, {metric: loss}, milestone))
        record.tick()
        if not go_on:
            break
    record.finish(FINISHED, {"loss": losses[steps - 1]})
    session.ledger.release(made)
    session.rungs.show(session.ledger.load())
    return next(each for each in session.rungs.history if each.number == made.number), steps


def test_a_stopped_trial_is_complete_at_the_fidelity_that_it_reached(tmp_path: Path) -> None:
    store = MemoryStore()
    session = session_of(open_study(store, study()), tmp_path)
    for level in (0.1, 0.2):
        done, steps = played(session, [level + 1 / s for s in range(1, 11)])
        assert (steps, done.fidelity, done.stopped_early, done.reason) == (10, None, False, "")
    assert done.rungs == {1: 1.2, 3: 0.2 + 1 / 3, 9: 0.2 + 1 / 9} and done.metrics.keys() == {"loss"}
    done, steps = played(session, [0.15 + 1 / s for s in range(1, 3)] + [2.0] * 8)
    assert steps == 3 and done.state is TrialState.COMPLETE
    assert (done.loss, done.fidelity, done.stopped_early, done.requested_fidelity) == (2.0, 3.0, True, None)
    assert done.reason == "stopped by median after 3 steps: worse than the median of 2 trials"
    assert session.rungs.history.incumbent is not None and session.rungs.history.incumbent.number == 0
    # All of it is in MLflow: another flow sees the same after one search.
    store.requests.clear()
    again = find_study(store, "stopping").load()
    assert [each.rungs for each in again] == [each.rungs for each in session.rungs.history]
    assert again.trials[2] == session.rungs.history.trials[2]
    assert store.requests.count("search") == 2, "for the study, and for its trials"


def test_what_a_proposal_saw_of_a_trial_that_was_stopped_later_can_be_rebuilt(tmp_path: Path) -> None:
    session = session_of(open_study(MemoryStore(), study(strategy="random")), tmp_path)
    for level in (0.1, 0.2):
        played(session, [level] * 4)
    ahead = reserved(session.ledger)  # it runs while the next one is proposed
    after = reserved(session.ledger)
    record = TrialLog(session, Training(ahead), {}, session.folder)
    assert not record.receive(Report(0, {"loss": 9.0}, 1))
    record.finish(FINISHED, {"loss": 9.0})
    session.ledger.release(ahead)
    assert session.ledger.load().trials[ahead.number].stopped_early
    assert explain(session.ledger, after.number).same


@pytest.mark.usefixtures("_only_when_it_matters")
def test_milestones_cost_one_request_each_and_other_steps_none(tmp_path: Path) -> None:
    store = MemoryStore()
    session = session_of(open_study(store, study()), tmp_path)
    store.requests.clear()
    _, steps = played(session, [1 / s for s in range(1, 101)])
    milestones = 5  # 1, 3, 9, 27, 81
    assert steps == 100
    assert store.requests.count("log") == milestones + 1, "and one for the end"
    assert store.requests.count("search") + store.requests.count("get") <= 2, "none of them to read"


@pytest.mark.usefixtures("_only_when_it_matters")
def test_a_plateau_ends_a_training_that_counts_as_full(tmp_path: Path) -> None:
    store = MemoryStore()
    session = session_of(open_study(store, study(early_stop={"rule": "plateau", "patience": 4})), tmp_path)
    store.requests.clear()
    done, steps = played(session, [1.0, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert (steps, done.fidelity, done.stopped_early) == (6, None, False)
    assert done.reason == "stopped by plateau after 6 steps: no better for 4 steps"
    assert store.requests.count("log") == 1, "it looks at nobody else, so nothing is kept at milestones"


def test_without_the_metric_the_rule_is_skipped_and_said_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = session_of(open_study(MemoryStore(), study()), tmp_path)
    for _ in range(3):
        _, steps = played(session, [9.0] * 10, metric="accuracy")
        assert steps == 10
    told = [record.message for record in caplog.records if "early_stop" in record.message]
    assert told == ["stopping: early_stop is skipped: the objective reports no 'loss'; report it, or correct metric:"]


def test_the_metric_is_compared_in_its_direction(tmp_path: Path) -> None:
    session = session_of(open_study(MemoryStore(), study(direction="maximize")), tmp_path)
    for level in (0.1, 0.2, 0.3):
        done, steps = played(session, [level] * 4)
        assert steps == 4
    assert done.rungs == {1: -0.3, 3: -0.3}
    assert played(session, [0.1] * 4)[1] == 1


def test_trials_of_one_flow_see_each_other_before_mlflow_is_read() -> None:
    rungs, warnings = Rungs(), list[str]()
    spec = study(early_stop={"rule": "median", "first": 1, "trials": 1})
    first, second = trial(0), trial(1)
    rungs.history = History([first])
    for each, loss, go_on in ((first, 0.5, True), (second, 0.6, False)):
        judge = Judge(spec, each, rungs, warnings.append)
        judge.note(0, {"loss": loss})
        assert judge.judge(1) is go_on
    assert [each.rungs for each in rungs.view()] == [{1: 0.5}, {1: 0.6}]


def test_an_objective_that_goes_on_all_the_same_is_complete_and_told_of() -> None:
    warnings: list[str] = []
    rungs = Rungs()
    rungs.history = others(0.1, 0.1, milestone=1)
    judge = Judge(study(), trial(), rungs, warnings.append)
    judge.note(0, {"loss": 1.0})
    assert not judge.judge(1)
    judge.note(1, {"loss": 0.9})
    assert judge.outcome() == {} and "went on after trial.report returned False" in warnings[0]


def test_at_the_end_of_what_was_asked_nothing_is_stopped() -> None:
    rungs = Rungs()
    rungs.history = others(0.1, 0.1)
    judge = Judge(study(), trial(fidelity=3.0), rungs, lambda message: None)
    judge.note(2, {"loss": 1.0})
    assert judge.judge(3) and judge.outcome() == {} and judge.rung(3) == 1.0


def test_damaged_values_at_milestones_are_passed_over(tmp_path: Path) -> None:
    store = MemoryStore()
    session = session_of(open_study(store, study()), tmp_path)
    done, _ = played(session, [0.5, 0.4, 0.3])
    run_ = store.get(done.run_id)
    strange = {"hpo.rung.x": 1.0, "hpo.rung.": 1.0, "hpo.rung.0": 1.0, "hpo.rung.27": math.inf, "hpo.rung.9": math.nan}
    found = trial_of(replace(run_, metrics={**run_.metrics, **strange}), session.ledger.spec)
    assert found.rungs == {1: 0.5, 3: 0.3} and found.metrics == {"loss": 0.3}


def test_the_registry_names_its_rules() -> None:
    assert all(RULES[name].name == name for name in RULES)


# -- a flow -----------------------------------------------------------------------------------------------------


def test_a_flow_stops_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: None) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    first = [{"x": x} for x in (0.3, 0.32, 0.34, 0.9, 0.31, 0.95)]
    spec = study(first=first, stop={"trials": 6}, strategy="random")
    result: StudyResult = run(open_ledger(spec), Objective(spec.objective, (str(ROOT),)))
    ends = [(each.fidelity, each.metrics["trained"], each.reason[:17]) for each in result.history]
    full, stopped = (None, 9.0, ""), (1.0, 1.0, "stopped by median")
    assert ends == [full, full, stopped, stopped, full, stopped]
    assert result.best is not None and result.best.config == {"x": 0.3}
    shown = MlflowClient(result.tracking_uri).get_run(result.history.trials[0].run_id)
    assert {key for key in shown.data.metrics if key.startswith("hpo.")} == {"hpo.rung.1", "hpo.rung.3", "hpo.rung.9"}
    assert shown.info.status == "FINISHED"


SETTINGS_OF_EACH = [(rule, field.name) for rule, cls in RULES.items() for field in fields(cast(Any, cls))]


@pytest.mark.parametrize(("rule", "setting"), SETTINGS_OF_EACH)
@pytest.mark.parametrize("value", [True, "7", -1, math.nan, math.inf, [1]], ids=str)
def test_no_setting_takes_what_it_cannot_mean(rule: str, setting: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"early_stop\.{setting}: .*; correct it"):
        make_rule(rule, {setting: value})
