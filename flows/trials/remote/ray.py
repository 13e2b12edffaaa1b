"""Trains trials on a Ray cluster, through prefect-ray's task runner.

The agent is imported in :meth:`RayRunner.submit`, so that checking a cluster does not load all that training needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray
from prefect.exceptions import CrashedRun
from prefect_ray import RayTaskRunner
from prefect_ray.context import remote_options

from hpo_core.base.errors import EngineError, InputError
from hpo_core.study.spec import StudySpec
from hpo_flows.trials.remote.runner import reach
from hpo_flows.workers.resources import engine_request

if TYPE_CHECKING:
    from hpo_flows.objectives.reference import Objective
    from hpo_flows.trials.remote.request import TrialRequest


NAMES = {"gpus": "num_gpus", "cpus": "num_cpus", "memory": "memory"}
"""The names of resources in a Ray task's options."""

NODE_NAMES = {"num_gpus": "GPU", "num_cpus": "CPU", "memory": "memory"}
"""A task's resource options, and the names under which Ray reports them for a node."""


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
        except Exception as error:  # anything may listen at that address, so any error may come
            raise EngineError(
                f"runner.address: what responds at {self._address} is not a Ray cluster of a compatible version "
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

    def submit(self, name: str, request: TrialRequest, retries: int) -> Any:
        from hpo_flows.trials.remote.agent import train_remotely

        # Ray must not retry: a trial whose worker died is tried again under a new number, so that MLflow shows both.
        with remote_options(**self._resources, max_retries=0):
            return train_remotely.with_options(retries=retries).submit(name, request)

    def recall(self, future: Any, *, gone: bool) -> None:
        ray.cancel(future.wrapped_future, force=True)

    def died(self, error: BaseException) -> bool:
        return isinstance(error, CrashedRun | ray.exceptions.RayError)
