"""The claim protocol under every interleaving that hypothesis can think of, with flows that die anywhere.

Three flows run the real :class:`Ledger` against the in-memory store, each in a coroutine that gives way before and
after every single store operation. Hypothesis decides who goes next, who dies, and when time passes.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from hpo_core.history.history import History
from hpo_core.ledger import reader
from hpo_core.ledger.ledger import Report
from hpo_core.ledger.ownership import LEASE_SECONDS
from hpo_core.ledger.reader import NEWS_SECONDS
from hpo_core.ledger.store import FINISHED, Metric
from hpo_core.ledger.tags import Tag, unfold
from hpo_core.lineage.opening import open_study
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from tests.interleaving import InterleavedFlows
from tests.memory_store import MemoryStore

TRIALS = 6
SPECS = {
    # Grid and random look at the configurations of others only; a strategy that learns from their losses could
    # propose the same one for two numbers, if a flow could claim a number without knowing the trials below it.
    name: study_from(
        {
            "name": "model",
            "objective": "nowhere:train",
            "metric": "loss",
            "direction": "minimize",
            "space": {"x": {"type": "int", "low": 1, "high": 8}},
            "strategy": {"name": "grid", "steps": 8} if name == "grid" else name,
            "stop": {"trials": TRIALS},
        }
    )
    for name in ("grid", "random")
}
SPECS["front"] = study_from(
    {key: value for key, value in SPECS["random"].stored().items() if key not in ("metric", "direction")}
    | {"metrics": {"loss": "minimize", "cost": "minimize"}}
)


class GreedyByLoss:
    """Proposes the free value closest to the best so far: what it answers depends on every loss it has seen."""

    name = "greedy"

    @staticmethod
    def pick(history: History) -> int | None:
        tried = {trial.config["x"] for trial in history}
        best = history.front[-1].config["x"] if history.front else 4
        free = [x for x in range(1, 9) if x not in tried]
        return min(free, key=lambda x: (abs(x - int(best or 0)), x)) if free else None  # type: ignore[call-overload]


class ClaimTimes(MemoryStore):
    """Notes when each trial was claimed."""

    def claim(self, run: str, key: str, value: str) -> bool:
        won = super().claim(run, key, value)
        if won and key.startswith("trial."):
            self.times.setdefault(int(key.removeprefix("trial.")), self._clock())
        return won

    def __init__(self, **hooks: Any) -> None:
        super().__init__(**hooks)
        self.times = dict[int, int]()

    def claimed_before(self, time: float) -> set[int]:
        return {number for number, claimed in self.times.items() if claimed < time}


class Claims(InterleavedFlows):
    """Flows come, work, are slow and die; the ledger must hold."""

    def __init__(self) -> None:
        super().__init__(ClaimTimes)
        self.trained: list[tuple[int, Any]] = []
        self.finished: dict[str, float] = {}
        self.patch.setattr(reader, "monotonic", lambda: self.now / 1000)

    def _sleep(self, seconds: float) -> None:
        super()._sleep(seconds)
        self._give_way("sleep")

    @initialize(
        strategy=st.sampled_from(["grid", "random", "greedy", "front"]), wary=st.booleans(), crowded=st.booleans()
    )
    def choose(self, strategy: str, wary: bool, crowded: bool) -> None:
        self.strategy = strategy
        if crowded:  # one open trial of another flow is enough, so that open ones are not all read each time
            self.patch.setattr(reader, "CROWD", 1)
        if not wary:  # a flow takes itself for alone as soon as it knows of no open trial
            self.patch.setattr(reader, "COMPANY_SECONDS", -1.0)
        self.spec: StudySpec = SPECS["random" if strategy == "greedy" else strategy]

    def _work(self) -> None:
        """The loop of a flow."""
        ledger = open_study(self.store, self.spec)
        while True:
            began, history = self.now, ledger.look()
            numbers = {trial.number for trial in history}
            assert self.store.claimed_before(began - 1000 * NEWS_SECONDS) <= numbers, "news came too late"
            if ledger.reap():
                history = ledger.load()
            if self.spec.stop_reason(history, 0) is not None:
                return
            proposals = self.spec.propose(history, 1)
            if self.strategy in ("greedy", "front") and "retry_of" not in proposals[0].notes:
                x = GreedyByLoss.pick(history)
                if x is None:
                    return
                proposals = [type(proposals[0])({"x": x})]
            trial = ledger.reserve(proposals[0], history)
            if trial is None:
                continue
            self.trained.append((trial.number, trial.config["x"]))
            loss = float((int(trial.config["x"]) * 5) % 8)  # type: ignore[arg-type]
            self._give_way("training")
            params = self.spec.search_space.to_params(trial.config)
            metrics = [Metric("loss", loss, self._tick()), Metric("cost", 7.0 - loss, self._tick())]
            ledger.write(Report(trial.run_id, metrics, params, {Tag.RESULT: "loss"}, FINISHED))
            ledger.release(trial)
            self.finished[trial.run_id] = loss

    def _finish_alone(self) -> None:
        """One last flow, undisturbed, ends the study; then everything has to be in order."""
        self.now += int(LEASE_SECONDS * 2000)
        self._work()
        ledger = open_study(self.store, self.spec)
        history = ledger.load()
        assert [trial.number for trial in history] == list(range(len(history)))
        assert not history.running
        kept = {trial.run_id for trial in history.complete}
        if self.strategy == "front":  # each loss is the other's price, so nothing dominates
            # A trial that was lost, and run again, may have ended all the same: then two have the same losses.
            assert {trial.losses for trial in history.front} == {trial.losses for trial in history.complete}
        assert self.finished.keys() <= kept, "a finished trial was lost"
        # A trial thought dead may have had its result after all, when another one already stood for it.
        assert self.spec.started(history) >= TRIALS
        exhausted = [trial for trial in history.lost if trial.number not in self.spec.retaken(history)]
        assert len(history.complete) + len(exhausted) == self.spec.started(history)

    @rule(seconds=st.sampled_from([1, 6, 40]))
    def time_passes(self, seconds: int) -> None:
        """Trainings take their time."""
        self.now += 1000 * seconds

    @rule()
    def leases_run_out(self) -> None:
        """So much time passes that every running trial looks dead, whether its flow is or not."""
        self.now += int(LEASE_SECONDS * 2000)

    @invariant()
    def no_number_and_no_configuration_is_claimed_twice(self) -> None:
        claims = [run for run in self.store.runs.values() if run.tags.get("hpo.role") == "claims"]
        elected = [run for run in self.store.runs.values() if run.params.get("study") == "model"]
        assert len(elected) <= 1
        if not elected:
            return
        (holder,) = [run for run in claims if run.id == elected[0].tags["hpo.claims"]]
        numbers = sorted(int(key.removeprefix("trial.")) for key in holder.params)
        assert numbers == list(range(len(numbers))), "a gap"
        claimed = [self.store.runs[run] for run in holder.params.values()]
        tags = [unfold(run.tags) for run in claimed]
        fresh = [each["hpo.config"] for each in tags if "hpo.retry_of" not in each]
        assert len(set(fresh)) == len(fresh), "a configuration twice"
        retried = [each["hpo.retry_of"] for each in tags if "hpo.retry_of" in each]
        assert len(set(retried)) == len(retried), "a trial retried twice"
        assert all(run.id not in self.store.deleted for run in claimed), "a claimed run was deleted"

    @invariant()
    def nothing_is_trained_without_its_claim(self) -> None:
        assert len({number for number, _ in self.trained}) == len(self.trained)


Claims.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_claims = Claims.TestCase


@pytest.mark.slow
class TestClaimsLonger(Claims.TestCase):
    """The same, for minutes."""

    settings = settings(
        max_examples=5_000, stateful_step_count=80, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


def test_the_model_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a store whose compare-and-set does not compare, the protocol is wrong, and the model finds out."""
    monkeypatch.setattr(MemoryStore, "claim", lambda self, run, key, value: True)
    unshrunk = settings(max_examples=500, deadline=None, database=None, phases=[Phase.generate])
    with pytest.raises((AssertionError, ValueError, ExceptionGroup)):
        run_state_machine_as_test(Claims, settings=unshrunk)
