"""Defines the interface of the engines that train trials on other machines: Dask, Ray and Prefect deployments."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Protocol

from hpo_core.base.errors import EngineError

if TYPE_CHECKING:
    from hpo_flows.objectives.reference import Objective
    from hpo_flows.trials.remote.request import TrialRequest


REACH_SECONDS = 5.0
"""How long an engine may take to accept a connection."""


class Runner(Protocol):
    """An engine. It returns Prefect futures, whose results are not used, since trials report to MLflow."""

    name: str
    """The engine and its address, for messages."""

    def check(self, objective: Objective) -> None:
        """Check that the engine responds, has the resources the study asks for, and can receive the objective.

        Raises:
            EngineError: It does not respond.
            InputError: It lacks the resources, or cannot receive the objective.
        """
        ...

    def task_runner(self, parallel: int) -> Any:
        """Prefect's task runner for this many trials at a time."""
        ...

    def submit(self, name: str, request: TrialRequest, retries: int) -> Any:
        """Start a trial; returns its future."""
        ...

    def recall(self, future: Any, *, gone: bool) -> None:
        """Cancel a trial that nobody waits for any more.

        Args:
            future: The trial's future.
            gone: Whether its worker has died without the engine noticing; otherwise the trial is being stopped.
        """
        ...

    def died(self, error: BaseException) -> bool:
        """Whether a future's error means that the worker died, rather than that the trial raised it."""
        ...


def reach(engine: str, address: str) -> None:
    """Check that something listens at an engine's address; the engines' own clients would take minutes to fail.

    Raises:
        EngineError: Nothing listens there.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"runner.address: {engine} does not respond at {address} ({error}); start it, or correct the address"
        ) from None
