"""The evaluations of the final choice in MLflow: claimed once, lost and found, never mistaken for trials."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger import ownership
from hpo_core.ledger.evaluations import FoldLedger
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.ownership import LEASE_SECONDS
from hpo_core.ledger.store import FINISHED, Metric, Store
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.opening import open_study
from hpo_core.selection.evaluation import Evaluation
from hpo_core.selection.final_choice import Choice
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.hpo_core.ledger.test_ledger import store as store
from tests.interleaving import InterleavedFlows
from tests.memory_store import MemoryStore

FINAL = {"top": 2, "folds": 2}


def studied(store: Store, **changes: Any) -> Ledger:
    """A study whose search is over: scores 0.1, 0.2, 0.3."""
    ledger = open_study(store, make_spec(final=FINAL, strategy="random", **changes))
    for score in (0.1, 0.2, 0.3):
        finish(ledger, reserve(ledger), score)
    ledger.load()
    return ledger


def wanted(ledger: Ledger, evaluations: list[Evaluation]) -> list[tuple[Evaluation, Trial]]:
    assert ledger.spec.final is not None
    history = ledger.history()
    trials = {trial.number: trial for trial in history}
    found = ledger.spec.final.selection().wanted(history, evaluations, ledger.spec.search_space)
    return [(evaluation, trials[evaluation.number]) for evaluation in found]


def end(ledger: Ledger, evaluation: Evaluation, score: float) -> None:
    params = ledger.spec.search_space.to_params(ledger.history().trials[evaluation.number].config)
    metrics = [Metric(ledger.spec.metric, score, ownership.now_ms())]
    ledger.write(Report(evaluation.run_id, metrics, params, {Tag.RESULT: ledger.spec.metric}, FINISHED))


def test_an_evaluation_is_one_flows_and_no_trial(store: Store) -> None:
    ledger = studied(store)
    other = open_study(store, ledger.spec)
    one, two = FoldLedger(ledger), FoldLedger(other)
    first, trial = wanted(ledger, [])[0]
    held = one.reserve(first, trial)
    assert held is not None and held.state is TrialState.RUNNING
    assert two.reserve(first, trial) is None
    (seen,) = two.load()
    assert (seen.run_id, seen.number, seen.kind) == (held.run_id, 2, first.kind)
    end(ledger, held, 0.9)
    (seen,) = two.load()
    assert (seen.state, seen.loss) == (TrialState.COMPLETE, -0.9)
    history = other.load()
    assert [t.number for t in history] == [0, 1, 2] and history.digest == ledger.load().digest
    assert not other.skipped
    assert store.get(held.run_id).tags["mlflow.parentRunId"] == trial.run_id


def test_an_evaluation_whose_flow_died_is_lost_and_wanted_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = studied(store)
    first, trial = wanted(ledger, [])[0]
    dead = FoldLedger(ledger)
    held = dead.reserve(first, trial)
    assert held is not None
    survivor = FoldLedger(open_study(store, ledger.spec))
    (seen,) = survivor.load()
    assert seen.state is TrialState.RUNNING
    later = ownership.now_ms() + int(2000 * LEASE_SECONDS)
    with monkeypatch.context() as patch:
        patch.setattr(ownership, "now_ms", lambda: later)
        (lost,) = survivor.load()
    assert (lost.state, lost.lost, lost.reason) == (TrialState.FAILED, "died", "lost: its lease ran out")
    assert store.get(held.run_id).params == ledger.spec.search_space.to_params(trial.config)
    again, _ = wanted(ledger, [lost])[0]
    assert (again.task, again.attempt) == (first.task, 1)
    end(ledger, held, 0.7)  # slow, not dead
    (late,) = survivor.load()
    assert (late.state, late.loss, late.reason) == (TrialState.COMPLETE, -0.7, "")


def test_what_is_measured_beside_the_metrics_is_no_metric_of_an_evaluation() -> None:
    """The test of a winner was said to have hpo.seconds, of cost: seconds, and what resources: {log: true} logs."""
    store = MemoryStore()
    ledger = studied(store)
    held = FoldLedger(ledger).reserve(*wanted(ledger, [])[0])
    assert held is not None
    beside = [Metric(key, 1.0, ownership.now_ms()) for key in ("hpo.seconds", "system/cpu_utilization_percentage")]
    ledger.write(Report(held.run_id, beside, {}, {}, None))
    end(ledger, held, 0.9)
    (seen,) = FoldLedger(ledger).load()
    assert seen.metrics == {ledger.spec.metric: 0.9}


def test_runs_that_are_no_evaluations_are_passed_over() -> None:
    store = MemoryStore()
    ledger = studied(store)
    good = {"hpo.final": ledger.study_run.id, "hpo.role": "fold", "hpo.trial": "1", "hpo.attempt": "0"}
    good |= {"hpo.fold": "0", "hpo.folds": "2", "hpo.owner": ledger.owner, "hpo.lease": ownership.new_lease()}
    damage = [("hpo.role", "trial"), ("hpo.trial", "one"), ("hpo.attempt", ""), ("hpo.fold", "-1"), ("hpo.folds", "")]
    for key, value in [*damage, ("hpo.fidelity", "inf")]:
        store.create_run(ledger.study_run.experiment, "foreign", good | {key: value})
    assert FoldLedger(ledger).load() == []
    store.create_run(ledger.study_run.experiment, "sound", good)
    assert len(FoldLedger(ledger).load()) == 1


class Finals(InterleavedFlows):
    """Three flows make the final choice, interleaved at every request and killed anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[str] = []
        self.complete: Counter[Any] = Counter()
        self.slow_taken_for_dead = False

    @initialize()
    def search(self) -> None:
        self.spec = studied(self.store).spec

    def _finish_alone(self) -> None:
        for _ in range(2):
            self.now += int(LEASE_SECONDS * 2000)
            choice = self._work()
        assert choice.done
        in_vain = [standing for standing in choice.standings if standing.reason]
        assert all("lost" in standing.reason for standing in in_vain)
        assert choice == self._work()

    def _work(self) -> Choice:
        ledger = open_study(self.store, self.spec)
        history = ledger.load()
        folds = FoldLedger(ledger)
        assert ledger.spec.final is not None
        selection, space = ledger.spec.final.selection(), ledger.spec.search_space
        while True:
            evaluations = folds.load()
            choice = selection.choice(history, evaluations, space)
            todo = wanted(ledger, evaluations)
            if not todo:
                return choice
            held = folds.reserve(*todo[0])
            if held is None:
                continue
            self.trained.append(held.run_id)
            self._give_way("training")
            end(ledger, held, 0.5 + held.number / 10)
            self.complete[held.task] += 1
            folds.release(held.run_id)

    @rule()
    def leases_run_out(self) -> None:
        self.slow_taken_for_dead = True
        self.now += int(LEASE_SECONDS * 2000)

    @invariant()
    def nothing_is_evaluated_twice(self) -> None:
        holders = [run for run in self.store.runs.values() if run.tags.get("hpo.role") == "claims"]
        held = Counter(id for run in holders for key, id in run.params.items() if key.startswith("fold."))
        assert set(held) >= set(self.trained) and max(held.values(), default=1) == 1
        assert len(set(self.trained)) == len(self.trained)
        assert not set(held) & self.store.deleted
        assert self.slow_taken_for_dead or all(count == 1 for count in self.complete.values())


Finals.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_finals = Finals.TestCase


def test_the_model_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where claims on folds do not exclude each other, the protocol is wrong, and the model finds out."""
    claim = MemoryStore.claim
    monkeypatch.setattr(
        MemoryStore, "claim", lambda self, run, key, value: key.startswith("fold.") or claim(self, run, key, value)
    )
    unshrunk = settings(max_examples=200, deadline=None, database=None, phases=[Phase.generate])
    with pytest.raises((AssertionError, ValueError, ExceptionGroup)):
        run_state_machine_as_test(Finals, settings=unshrunk)
