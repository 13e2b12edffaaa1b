"""The engines that train trials on other machines, behind one interface: Dask, Ray, Prefect's deployments."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from hpo_core.errors import EngineError, InputError
from hpo_core.study import StudySpec

if TYPE_CHECKING:
    from flows.objective import Objective
    from flows.outpost import Order

REACH_SECONDS = 5.0
"""How long an engine may take to accept a connection."""

PACKAGES = {"dask": "prefect_dask", "ray": "prefect_ray"}


class Runner(Protocol):
    """An engine. Futures are Prefect's; what they answer is not used, since trials report to MLflow."""

    name: str
    """For people: the engine and where it is."""

    def check(self, objective: Objective) -> None:
        """See whether the engine answers, has what the study asks for, and can be given the objective.

        Raises:
            EngineError: It does not answer.
            InputError: It has not.
        """
        ...

    def task_runner(self, parallel: int) -> Any:
        """Prefect's task runner for so many trials at a time."""
        ...

    def submit(self, name: str, order: Order, retries: int) -> Any:
        """Start a trial; answers its future."""
        ...

    def recall(self, future: Any, *, gone: bool) -> None:
        """Nobody waits for a trial any more: its worker is gone although the engine does not know, or it is to end."""
        ...

    def died(self, error: BaseException) -> bool:
        """Whether a future's error says that the worker is gone, rather than what went wrong in it."""
        ...


def make_runner(spec: StudySpec) -> Runner | None:
    """The engine that a study asks for; None if its trials are trained by the flow's own processes.

    Raises:
        InputError: What it needs is not installed.
    """
    runner = spec.runner
    if (package := PACKAGES.get(runner.type)) is not None and find_spec(package) is None:
        raise InputError(
            "runner.type",
            f"{runner.type!r} needs the package {package.replace('_', '-')}, which is not installed",
            f"pip install 'hpo-flows[{runner.type}]'",
        )
    made: Callable[[StudySpec], Runner]
    if runner.type == "dask":
        from flows.runners.dask import DaskRunner as made
    elif runner.type == "ray":
        from flows.runners.ray import RayRunner as made
    elif runner.type == "deployment":
        from flows.runners.deployment import DeploymentRunner as made
    else:
        return None
    return made(spec)


def check_store(spec: StudySpec, uri: str) -> None:
    """See whether other machines can reach MLflow as this one does.

    Raises:
        InputError: It is a file of this machine.
    """
    if spec.runner.elsewhere and not uri.startswith(("http://", "https://", "postgresql", "mysql", "mssql")):
        raise InputError(
            "runner.type",
            f"{spec.runner.type!r} trains on other machines, which cannot reach {uri}",
            "start a tracking server (python -m mlflow_server up) and set MLFLOW_TRACKING_URI to its address",
        )


def reach(engine: str, address: str) -> None:
    """See whether anything listens at an engine's address; the engines' own clients would take minutes to say no.

    Raises:
        EngineError: Nothing does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"runner.address: {engine} does not answer at {address} ({error}); start it, or correct the address"
        ) from None
