"""Flows that are interleaved and killed between any two of their operations on MLflow, by a state machine."""

from __future__ import annotations

from collections.abc import Callable

from greenlet import GreenletExit, greenlet
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule


class InterleavedFlows(RuleBasedStateMachine):
    """Up to three flows, each a greenlet that gives way at every operation.

    Attributes:
        flows: Those that were started, by their slot.
        _work: What a flow does, from its start to its end.
    """

    flows: dict[int, greenlet]
    _work: Callable[[], None]

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
