"""What people tell a study, under every interleaving of flows that hypothesis can think of.

What is enqueued is taken up once, the space is changed between any two requests, and nothing is lost.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from greenlet import greenlet
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, precondition, rule

from hpo_core.ledger.ledger import Report
from hpo_core.ledger.ownership import LEASE_SECONDS
from hpo_core.ledger.store import FINISHED, Metric
from hpo_core.ledger.study_run import StudyRun
from hpo_core.ledger.tags import Tag, unfold
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.study.editions import in_force
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from tests.interleaving import InterleavedFlows


def spec_with(low: int, high: int) -> StudySpec:
    return study_from(DATA | {"space": {"x": {"type": "int", "low": low, "high": high}}})


DATA: dict[str, Any] = {
    "name": "told",
    "metric": "loss",
    "direction": "minimize",
    "strategy": "random",
    "stop": {"trials": 8},
    "repeats": "off",
}

SPEC = spec_with(1, 40)


class Told(InterleavedFlows):
    """Flows work and die while people enqueue configurations, pause the study, raise its total and change its space."""

    def __init__(self) -> None:
        super().__init__()
        self.enqueued: dict[str, int] = {}
        self.total = 8
        self.study_id = open_study(self.store, SPEC).study_run.id

    def _work(self, changed: StudySpec | None = None) -> None:
        if changed is not None:
            ledger = open_study(self.store, changed, change_space=True)
        else:
            ledger = find_study(self.store, "told")
        while True:
            ledger.hear()
            assert not ledger.outdated
            if ledger.study.instructions.paused:
                return  # a flow would wait
            history = ledger.load()
            if ledger.reap():
                history = ledger.load()
            if ledger.spec.stop_reason(history, 0) is not None:
                return
            proposals = ledger.spec.propose(history, 1, ledger.study.instructions.queue)
            if not proposals or (trial := ledger.reserve(proposals[0], history)) is None:
                continue
            params = ledger.spec.search_space.to_params(trial.config)
            report = Report(trial.run_id, [Metric("loss", 1.0, self._tick())], params, {Tag.RESULT: "loss"}, FINISHED)
            ledger.write(report)
            ledger.release(trial)

    def _say(self) -> StudyRun:
        return StudyRun(self.store, self.store.get(self.study_id), "told")

    @precondition(lambda self: len(self.enqueued) < 4)
    @rule(x=st.integers(1, 40))
    def enqueue(self, x: int) -> None:
        self.enqueued[self._say().instruct("enqueue", {"x": x}).id] = x

    @precondition(lambda self: self.total < 14)
    @rule(more=st.integers(1, 3))
    def raise_the_total(self, more: int) -> None:
        self._say().instruct("set", [f"stop.trials=+{more}"])
        self.total += more

    @rule(kind=st.sampled_from(["pause", "resume"]))
    def pause(self, kind: str) -> None:
        self._say().instruct(kind)  # type: ignore[arg-type]

    @rule(which=st.integers(0, 2), low=st.integers(1, 8), high=st.integers(30, 40))
    def change_the_space(self, which: int, low: int, high: int) -> None:
        """A flow begins that changes the space, in the steps that follow."""
        flow = self.flows.get(which)
        if flow is None or flow.dead:
            self.flows[which] = flow = greenlet(lambda: self._work(spec_with(low, high)))
            flow.switch()

    @rule()
    def leases_run_out(self) -> None:
        self.now += int(LEASE_SECONDS * 2000)

    @invariant()
    def nothing_enqueued_is_taken_up_twice(self) -> None:
        study = self.store.runs[self.study_id]
        claimed = [self.store.runs[run] for run in self.store.runs[study.tags[Tag.CLAIMS]].params.values()]
        tags = [unfold(run.tags) for run in claimed]
        taken = [each["hpo.enqueued"] for each in tags if "hpo.enqueued" in each]
        assert len(set(taken)) == len(taken)
        fresh = [each["hpo.config"] for each in tags if "hpo.retry_of" not in each]
        assert len(set(fresh)) == len(fresh)

    def _finish_alone(self) -> None:
        """One last flow, undisturbed, ends the study: all that was told has come true."""
        self.now += int(LEASE_SECONDS * 2000)
        self._say().instruct("resume")
        self._say().instruct("set", ["stop.trials=+4"])  # so that there is room for whatever is still in the queue
        self._work()
        ledger = find_study(self.store, "told")
        history = ledger.load()
        assert ledger.spec.stop.trials == self.total + 4 and ledger.spec.started(history) >= self.total + 4
        assert not ledger.skipped and [trial.number for trial in history.every] == list(range(history.next_number))
        tried = {trial.config["x"] for trial in history.every}
        x = ledger.spec.space["x"]
        due = {each for each in self.enqueued.values() if x.low <= each <= x.high}  # type: ignore[union-attr]
        assert tried >= due, "something enqueued was lost"
        for trial in history.every:
            then = in_force(ledger.spec, trial.edition, trial.number)
            then.search_space.validated(trial.config)


Told.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_told = Told.TestCase


@pytest.mark.slow
class TestToldLonger(Told.TestCase):
    """The same, for minutes."""

    settings = settings(
        max_examples=1_000, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
