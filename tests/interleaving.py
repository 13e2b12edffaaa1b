"""Flows that are interleaved and killed between any two of their operations on MLflow, by a state machine."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from greenlet import GreenletExit, greenlet
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from hpo_core.ledger import ownership
from hpo_core.lineage import opening
from tests.memory_store import MemoryStore


class InterleavedFlows(RuleBasedStateMachine):
    """Up to three flows, each a greenlet that gives way at every operation, in a time of their own.

    Args:
        store: Makes the store that they share.

    Attributes:
        flows: Those that were started, by their slot.
        now: The time, in milliseconds.
        _work: What a flow does, from its start to its end.
        _finish_alone: Ends the study after all flows are gone, and checks what became of it.
    """

    _work: Callable[[], Any]
    _finish_alone: Callable[[], None]

    def __init__(self, store: type[MemoryStore] = MemoryStore) -> None:
        super().__init__()
        self.now = 1_000_000_000
        self.flows: dict[int, greenlet] = {}
        self.store = store(before=self._give_way, after=self._give_way, clock=self._tick)
        self.main = greenlet.getcurrent()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(ownership, "now_ms", self._tick)
        self.patch.setattr(opening, "time", SimpleNamespace(sleep=self._sleep, monotonic=lambda: self.now / 1000))

    def teardown(self) -> None:
        try:
            for flow in self.flows.values():
                if not flow.dead:
                    flow.throw(GreenletExit)
            self._finish_alone()
        finally:
            self.patch.undo()

    def _tick(self) -> int:
        self.now += 1
        return self.now

    def _sleep(self, seconds: float) -> None:
        self.now += int(1000 * seconds)

    def _give_way(self, operation: str) -> None:
        if greenlet.getcurrent() is not self.main:
            self.main.switch()

    @rule(which=st.integers(0, 2), steps=st.integers(1, 12))
    def step(self, which: int, steps: int) -> None:
        """A flow goes on for a few operations; it is started if it is not there."""
        flow = self.flows.get(which)
        if flow is None or flow.dead:
            flow = self.flows[which] = greenlet(self._work)
        for _ in range(steps):
            if not flow.dead:
                flow.switch()

    @rule(which=st.integers(0, 2))
    def crash(self, which: int) -> None:
        """A flow dies where it is, as by kill -9."""
        flow = self.flows.get(which)
        if flow is not None and not flow.dead:
            flow.throw(GreenletExit)
