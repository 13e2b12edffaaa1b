"""``hpo explain``: the history that a proposal saw is rebuilt, and the proposal replayed."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.ledger.ledger import Ledger
from hpo_core.lineage.opening import open_study
from hpo_core.lineage.replay import Explanation, explain, rebuild
from hpo_core.lineage.warm_start import warm_start
from hpo_core.tracking.connection import connect
from hpo_flows.cli.app import app
from hpo_flows.reports.explanation import data, lines
from tests.conftest import MlflowServer
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.hpo_core.lineage.test_warm_start import logged
from tests.memory_store import MemoryStore


def score(trial: Trial) -> float:
    rate = trial.config["rate"]
    assert isinstance(rate, float)
    return 1.0 - (rate - 0.1) ** 2 - (trial.config["layers"] == "1")


def parallel(ledger: Ledger, trials: int, at_once: int, seed: int) -> None:
    """Trials in several slots that end in any order."""
    rng, running = random.Random(seed), []
    for _ in range(trials):
        running.append(reserve(ledger))
        if len(running) == at_once:
            trial = running.pop(rng.randrange(at_once))
            finish(ledger, trial, score(trial) if rng.random() < 0.8 else float("nan"))
    for trial in running:
        finish(ledger, trial, score(trial))


SEVERAL = {"metric": "", "direction": "", "metrics": {"score": "maximize", "ms": "minimize"}}


@pytest.mark.parametrize(
    ("strategy", "goal"),
    [
        *((name, {}) for name in ("bayesian", "tpe", "auto", "random")),
        ("bayesian", {"limits": {"gap": ">= 0.5"}}),
        ("bayesian", SEVERAL),
        ("tpe", SEVERAL),
    ],
    ids=str,
)
def test_every_trial_of_a_parallel_study_can_be_replayed(strategy: str, goal: dict[str, Any], seed: int) -> None:
    spec = make_spec(strategy=strategy, first=[{"rate": 0.5, "layers": None}], **goal)
    ledger = open_study(MemoryStore(), spec)
    parallel(ledger, 16, 4, seed)
    for number in range(16):
        found = explain(open_study(ledger.store, ledger.spec), number)
        assert found.seen is not None, number
        assert (found.seen.digest, found.seen.next_number, found.same, found.caveats) == (
            found.digest,
            number,
            True,
            (),
        )
    assert len(found.seen.running) == 3
    assert [neighbour.trial.number < 15 for neighbour in found.nearest] == [True] * 3
    assert found.incumbent is not None


def test_a_warm_start_and_what_was_imported_later_are_told_apart() -> None:
    store = MemoryStore()
    for i in range(6):
        logged(store, "past", {"rate": f"0.{i + 1}", "layers": "1"}, float(i))
    ledger = open_study(store, make_spec())
    finish(ledger, reserve(ledger), 0.5)
    warm = ledger.spec.model_copy(update={"warm_start": make_spec(warm_start=["past"]).warm_start})
    ledger = open_study(store, warm)
    warm_start(ledger)
    finish(ledger, reserve(ledger), 0.6)
    cold, hot = explain(ledger, 0), explain(ledger, 1)
    assert cold.seen is not None and hot.seen is not None
    assert (cold.seen.prior, hot.seen.prior) == ((), ledger.prior)
    assert hot.same
    assert hot.trial.notes["picked"] == "warm_start"
    assert "Warm start: 6 runs from past" in lines(ledger.spec, hot)


def test_a_history_that_has_changed_is_said_to_have_changed() -> None:
    store = MemoryStore()
    ledger = open_study(store, make_spec(strategy="random"))
    for _ in range(4):
        finish(ledger, reserve(ledger), 0.5)
    store.delete_run(ledger.load().trials[1].run_id)
    found = explain(open_study(store, ledger.spec), 3)
    assert (found.seen, found.same, found.missing) == (None, None, (1,))
    assert "the runs of trials [1] are gone" in "\n".join(lines(ledger.spec, found))
    assert explain(open_study(store, ledger.spec), 1 - 1).same


def test_other_settings_are_said_to_be_others() -> None:
    store = MemoryStore()
    spec = make_spec(strategy="random", seed=3)
    ledger = open_study(store, spec)
    for _ in range(3):
        finish(ledger, reserve(ledger), 0.5)
    changed = make_spec(**json.loads(spec.to_json()) | {"strategy": "bayesian", "seed": 4})
    found = explain(open_study(store, changed), 2)
    assert found.same
    assert [caveat.split(":")[0] for caveat in found.caveats] == [
        "the study's strategy is now 'bayesian'", "the study's seed is now 4",
    ]  # fmt: skip


def test_a_retry_and_a_first_configuration_say_so() -> None:
    ledger = open_study(MemoryStore(), make_spec(first=[{"rate": 0.5, "layers": None}], retries=1))
    trial = reserve(ledger)
    ledger.release(trial)
    ledger.store.log(trial.run_id, [], {}, {"hpo.lost": "died"})
    ledger.store.set_status(trial.run_id, "FAILED")
    again = reserve(ledger)
    assert "Given by the study file (first)" in lines(ledger.spec, explain(ledger, 0))
    assert "Trial 0 again, which was lost (attempt 1)" in "\n".join(lines(ledger.spec, explain(ledger, again.number)))


def test_a_retry_of_a_trial_that_confirms_is_replayed() -> None:
    """The next thing to confirm would be another configuration: the lost trial counts until it is run again."""
    spec = make_spec(strategy="random", stop={"trials": 10}, repeats={"share": 0.4, "top": 2})
    ledger = open_study(MemoryStore(), spec)
    for _ in range(6):
        trial = reserve(ledger)
        finish(ledger, trial, score(trial))
    history = ledger.load()
    proposal = spec.confirm(history, False)
    assert proposal is not None
    confirming = ledger.reserve(proposal, history)
    assert confirming is not None and confirming.confirms
    ledger.release(confirming)
    ledger.store.log(confirming.run_id, [], {}, {"hpo.lost": "died"})
    ledger.store.set_status(confirming.run_id, "FAILED")
    again = reserve(ledger)
    assert again.confirms and again.identity == confirming.identity
    assert [explain(ledger, number).same for number in (confirming.number, again.number)] == [True, True]


def test_ends_that_clocks_put_in_the_wrong_order_are_put_right() -> None:
    trials = [Trial(i, {"x": i}, TrialState.COMPLETE, float(i), start=10 * i, end=10 * i + 25) for i in range(12)]
    running = {8, 9, 11}
    at_the_time = History(replace(t, state=TrialState.RUNNING, loss=None) if t.number in running else t for t in trials)
    late = Trial(12, {"x": 99}, TrialState.COMPLETE, 0.0, start=120)
    assert rebuild(trials, late, at_the_time.digest, [()]) == at_the_time
    assert rebuild(trials, late, "0" * 16, [()]) is None
    assert rebuild(trials, late, "no digest", [()]) is None


def test_the_command_prints_text_and_json(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := mlflow_server.uri)
    ledger = open_study(connect(uri), make_spec())
    for _ in range(9):
        trial = reserve(ledger)
        finish(ledger, trial, score(trial))
    text = CliRunner().invoke(app, ["explain", ledger.spec.name, "8"])
    assert text.exit_code == 0
    for words in (
        "Proposed by auto, which picked bayesian: 7 of 100 trials",
        "Expected",
        "verified (8 complete",
        "Near: ",
    ):
        assert words in text.output
    assert "Replay: the same configuration" in text.output
    answer = json.loads(CliRunner().invoke(app, ["explain", ledger.spec.name, "8", "--json"]).output)
    assert (answer["replay"]["same"], answer["history"]["verified"], answer["history"]["complete"]) == (True, True, 8)
    observed = answer["expected"]["observed"]
    assert observed == score(ledger.load().trials[8])
    assert answer["expected"]["off_by_std"] == pytest.approx(
        (observed - answer["expected"]["mean"]) / answer["expected"]["std"]
    )
    with pytest.raises(InputError, match="has no trial 99"):
        explain(ledger, 99)


def test_an_explanation_without_any_notes_is_still_one() -> None:
    found: Any = Explanation(Trial(0, {"rate": 0.5, "layers": None}, TrialState.RUNNING), "", None)
    spec = make_spec()
    assert "by no model" in "\n".join(lines(spec, found))
    assert data(spec, replace(found, replayed=Proposal({"rate": 0.5})))["replay"]["same"] is None
