"""Trials on a Ray cluster, by prefect-ray's task runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray
from prefect.exceptions import CrashedRun
from prefect_ray import RayTaskRunner
from prefect_ray.context import remote_options

from flows.resources import engine_request
from flows.runners import reach
from hpo_core.errors import EngineError, InputError
from hpo_core.study import StudySpec

if TYPE_CHECKING:
    from flows.objective import Objective
    from flows.outpost import Order

NAMES = {"gpus": "num_gpus", "cpus": "num_cpus", "memory": "memory"}
NODE_NAMES = {"num_gpus": "GPU", "num_cpus": "CPU", "memory": "memory"}
"""What resources are called in a task's options, and in what Ray says of a node."""


class RayRunner:
    """The Ray cluster that a study names.

    Args:
        spec: The study.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._address, self.name = spec.runner.address, f"Ray at {spec.runner.address}"
        self._resources = engine_request(spec.resources, NAMES)

    def check(self, objective: Objective) -> None:
        reach("Ray", self._address)
        try:
            with self._connection():
                nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        except Exception as error:  # whatever answers there may be anything
            raise EngineError(
                f"runner.address: what answers at {self._address} is no Ray cluster that this Ray understands "
                f"({type(error).__name__}: {error})"
            ) from None
        if not any(self._offers(node) for node in nodes):
            wanted = ", ".join(f"{name}={value:g}" for name, value in self._resources.items())
            raise InputError(
                "resources", f"none of the {len(nodes)} nodes at {self._address} has {wanted}", "lower it, or add one"
            )

    def _connection(self) -> Any:
        return ray.init(self._address, namespace="prefect", log_to_driver=False, logging_level="error")

    def _offers(self, node: dict[str, float]) -> bool:
        return all(node.get(NODE_NAMES[name], 0.0) >= value for name, value in self._resources.items())

    def task_runner(self, parallel: int) -> Any:
        return RayTaskRunner(self._address, {"log_to_driver": False, "logging_level": "error"})

    def submit(self, name: str, order: Order, retries: int) -> Any:
        from flows.outpost import run_away

        # A trial whose worker died is tried again under a number of its own, so that MLflow shows both.
        with remote_options(**self._resources, max_retries=0):
            return run_away.with_options(retries=retries).submit(name, order)

    def recall(self, future: Any, *, gone: bool) -> None:
        ray.cancel(future.wrapped_future, force=True)

    def died(self, error: BaseException) -> bool:
        return isinstance(error, CrashedRun | ray.exceptions.RayError)
