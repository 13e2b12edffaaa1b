"""How champions follow each other, over a double and MLflow; flows that promote, interleaved and killed anywhere."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import hypothesis.strategies as st
import pytest
from greenlet import GreenletExit, greenlet
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import event
from sqlalchemy.orm import Session

from hpo_core.base.errors import InputError
from hpo_core.champion import registry as registry_module
from hpo_core.champion.registry import rollback, settle
from hpo_core.champion.succession import REFUSED, promotion
from hpo_core.ledger.store import Registry
from hpo_core.ledger.tags import Tag
from hpo_core.tracking.connection import connect, create
from hpo_core.tracking.mlflow_store import MlflowStore
from tests.hpo_core.ledger.test_ledger import store as store
from tests.memory_store import MemoryStore


def champion(registry: Registry) -> int | None:
    return settle(registry, MODEL)[0]


def promote(registry: Registry, run: str) -> int | None:
    """Promote a further version over the champion; answers who is champion then."""
    registry.register(MODEL, run, "model", promotion(*settle(registry, MODEL)), "")
    return champion(registry)


MODEL = "model"


@pytest.fixture(autouse=True)
def _model_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests share a server."""
    monkeypatch.setattr("tests.hpo_core.champion.test_registry.MODEL", f"model-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def run(store: Registry) -> Iterator[str]:
    yield store.create_run(store.experiment("models", create=True), "run", {}).id  # type: ignore[attr-defined]


def test_champions_follow_each_other_and_are_rolled_back(store: Registry, run: str) -> None:
    assert settle(store, MODEL) == (None, [])
    assert [promote(store, run) for _ in range(3)] == [1, 2, 3] and store.champion(MODEL) == 3
    store.register(MODEL, run, "model", {Tag.DECISION: REFUSED}, "")
    assert champion(store) == 3
    assert rollback(store, MODEL, "it drifts") == (3, 2)
    assert champion(store) == 2
    assert rollback(store, MODEL) == (2, 1)
    with pytest.raises(InputError, match=r"MODEL: version 1 of 'model-.*' is the champion and names none before it"):
        rollback(store, MODEL)
    assert promote(store, run) == 5
    assert rollback(store, MODEL) == (5, 1)
    with pytest.raises(InputError, match=r"MODEL: 'absent' has no version with the alias 'champion'; name a model"):
        rollback(store, "absent")


def test_a_champion_that_was_deleted_is_not_rolled_back_to(store: Registry, run: str) -> None:
    assert [promote(store, run) for _ in range(2)] == [1, 2]
    store.delete_version(MODEL, 1)
    with pytest.raises(InputError, match=r"MODEL: version 1 of 'model-.*', the champion before version 2, was deleted"):
        rollback(store, MODEL)
    assert store.champion(MODEL) == 2


def test_an_alias_that_was_set_by_hand_is_obeyed(store: Registry, run: str) -> None:
    assert [promote(store, run) for _ in range(2)] == [1, 2]
    store.set_champion(MODEL, 1)
    assert champion(store) == 1
    assert promote(store, run) == 3
    assert rollback(store, MODEL) == (3, 1)


def test_of_two_that_beat_one_champion_the_first_reigns_and_the_other_is_outrun(store: Registry, run: str) -> None:
    promote(store, run)
    compared = promotion(*settle(store, MODEL))
    for _ in range(2):
        store.register(MODEL, run, "model", compared, "")
    assert champion(store) == 2
    first, second, third = store.versions(MODEL)
    assert Tag.BECAME_CHAMPION in first.tags and Tag.BECAME_CHAMPION in second.tags and Tag.SUPERSEDED in third.tags
    assert rollback(store, MODEL) == (2, 1)
    assert champion(store) == 1  # what was outrun does not come up behind


@pytest.mark.parametrize(
    "write",
    [
        lambda store, run: store.set_champion(MODEL, 1),
        lambda store, run: store.tag_version(MODEL, 1, {Tag.BECAME_CHAMPION: "now"}),
        lambda store, run: store.log(run, [], {}, {Tag.CHAMPION_VERSION: "1"}),
    ],
    ids=["alias", "version's tag", "run's tag"],
)
def test_two_that_write_the_same_at_once_both_succeed(
    write: Callable[[MlflowStore, str], None], tmp_path: Path
) -> None:
    """MLflow looks whether the row is there before it writes it, so of two that see none, the second insert fails."""
    create(tmp_path / "mlflow.db")
    store = connect(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = store.experiment("models", create=True)
    assert experiment is not None
    run = store.create_run(experiment, "run", {}).id
    store.register(MODEL, run, "model", {}, "")
    both = threading.Barrier(2)

    def meet(*_: object) -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait(2)

    event.listen(Session, "before_flush", meet)
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: write(store, run), range(2)))
    finally:
        event.remove(Session, "before_flush", meet)


@pytest.mark.parametrize("died", ["register", "set_champion"])
def test_whoever_comes_by_ends_the_promotion_of_a_flow_that_died(died: str) -> None:
    def die(operation: str) -> None:
        if operation == died:
            raise InterruptedError

    store = MemoryStore()
    promote(store, "run")
    store.after = die
    with pytest.raises(InterruptedError):
        promote(store, "run")
    store.after = lambda operation: None
    assert champion(store) == 2 == store.champion(MODEL)
    assert all(Tag.BECAME_CHAMPION in each.tags for each in store.versions(MODEL))
    assert rollback(store, MODEL) == (2, 1)


class Successions(RuleBasedStateMachine):
    """Three flows, each of which promotes models one over the other, interleaved at every request."""

    def __init__(self) -> None:
        super().__init__()
        self.main = greenlet.getcurrent()
        self.flows: dict[int, greenlet] = {}
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(registry_module, "now", lambda: "now")

    @initialize()
    def begin(self) -> None:
        self.store = MemoryStore(before=self._give_way, after=self._give_way)
        self.had_the_alias: set[int | None] = set()

    def _give_way(self, operation: str) -> None:
        self.had_the_alias.add(self.store.aliases.get(MODEL))
        if greenlet.getcurrent() is not self.main:
            self.main.switch()

    def _work(self) -> None:
        for _ in range(2):
            promote(self.store, "run")

    @rule(which=st.integers(0, 2), steps=st.integers(1, 8))
    def step(self, which: int, steps: int) -> None:
        flow = self.flows.get(which)
        if flow is None or flow.dead:
            flow = self.flows[which] = greenlet(self._work)
        for _ in range(steps):
            self._switch(flow)

    def _switch(self, flow: greenlet) -> None:
        """One request further; and to its next look, where it has set the alias back: docs/how-to/champion.md."""
        if not flow.dead:
            flow.switch()
        while self._set_back and not flow.dead:
            flow.switch()

    @property
    def _set_back(self) -> bool:
        """Whether the alias is at a version after which another one had it, tagged already or not."""
        alias = self.store.aliases.get(MODEL)
        log = self.store.version_log.get(MODEL, [])
        return any(each.replaces == alias and each.number in self.had_the_alias for each in log)

    @rule(which=st.integers(0, 2))
    def crash(self, which: int) -> None:
        flow = self.flows.get(which)
        if flow is not None and not flow.dead:
            flow.throw(GreenletExit)

    def _chain(self) -> list[int]:
        """The champions one after the other, as the log of versions says."""
        chain: list[int] = []
        for version in self.store.version_log.get(MODEL, []):
            if version.replaces == (chain[-1] if chain else None):
                chain.append(version.number)
        return chain

    def teardown(self) -> None:
        try:
            for flow in self.flows.values():
                while not flow.dead:
                    self._switch(flow)
            if MODEL not in self.store.version_log:
                return
            chain = self._chain()
            assert champion(self.store) == chain[-1]
            for each in self.store.versions(MODEL):
                assert (each.number in chain) == (Tag.BECAME_CHAMPION in each.tags)
                assert (each.number not in chain) == (Tag.SUPERSEDED in each.tags)
            for over, under in zip(reversed(chain), reversed(chain[:-1]), strict=False):
                assert rollback(self.store, MODEL) == (over, under)
        finally:
            self.patch.undo()


Successions.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_successions = Successions.TestCase


def test_a_flow_that_died_between_alias_and_tag_has_reigned_though_another_has_replaced_it() -> None:
    state = Successions()
    state.begin()
    for which, steps in ((1, 2), (0, 2), (1, 4), (1, 6)):
        state.step(which=which, steps=steps)
    state.crash(which=1)
    state.teardown()


def test_two_stalled_flows_set_the_alias_back_before_it_is_tagged() -> None:
    state = Successions()
    state.begin()
    for which, steps in (
        *((1, 1), (0, 1), (1, 2), (1, 5), (0, 8), (0, 8), (0, 1), (0, 1), (0, 4)),
        *((1, 8), (0, 3), (1, 5), (0, 2), (2, 7), (2, 8), (1, 1), (2, 1)),
    ):
        state.step(which=which, steps=steps)
    state.teardown()


def test_the_model_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each promoted version counts, whatever it was compared with, the model finds out."""
    monkeypatch.setattr(registry_module, "succession", list)
    unshrunk = settings(max_examples=100, deadline=None, database=None, phases=[Phase.generate])
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Successions, settings=unshrunk)
