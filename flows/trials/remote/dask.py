"""Trains trials on a Dask cluster, through prefect-dask's task runner.

The agent is imported in :meth:`DaskRunner.submit`, so that checking a cluster does not load all that training needs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client
from distributed.scheduler import KilledWorker
from prefect_dask import DaskTaskRunner

from hpo_core.base.errors import EngineError, InputError
from hpo_core.study.spec import StudySpec
from hpo_flows.trials.remote.agent import train_remotely
from hpo_flows.trials.remote.runner import reach
from hpo_flows.workers.resources import engine_request

if TYPE_CHECKING:
    from hpo_flows.objectives.reference import Objective
    from hpo_flows.trials.remote.request import TrialRequest


NAMES = {"gpus": "GPU", "cpus": "CPU", "memory": "MEMORY"}
"""The names of resources in ``dask worker --resources``."""

CONNECT_SECONDS = 20


class DaskRunner:
    """The Dask cluster whose scheduler a study names.

    Args:
        spec: The study.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._address, self.name = spec.runner.address, f"Dask at {spec.runner.address}"
        self._resources = engine_request(spec.resources, NAMES)

    def check(self, objective: Objective) -> None:
        reach("Dask", self._address)
        logging.getLogger("distributed").setLevel(logging.ERROR)  # it logs every worker that comes or goes
        try:
            with Client(self._address, timeout=CONNECT_SECONDS, set_as_default=False) as client:
                workers = client.scheduler_info(n_workers=-1)["workers"]
        except Exception as error:  # anything may listen at that address, so any error may come
            raise EngineError(
                f"runner.address: what responds at {self._address} is not a Dask scheduler of a compatible version "
                f"({type(error).__name__}: {error})"
            ) from None
        if self._resources and not any(self._offers(worker["resources"]) for worker in workers.values()):
            wanted = " ".join(f"{name}={value:g}" for name, value in self._resources.items())
            raise InputError(
                "resources",
                f"none of the {len(workers)} workers at {self._address} offers {wanted}",
                f'start them with dask worker {self._address} --resources "{wanted}", or lower it',
            )

    def _offers(self, offered: dict[str, float]) -> bool:
        return all(offered.get(name, 0.0) >= value for name, value in self._resources.items())

    def task_runner(self, parallel: int) -> Any:
        return DaskTaskRunner(address=self._address)

    def submit(self, name: str, request: TrialRequest, retries: int) -> Any:

        with dask.annotate(resources=self._resources) if self._resources else dask.annotate():
            return train_remotely.with_options(retries=retries).submit(name, request)

    def recall(self, future: Any, *, gone: bool) -> None:
        future.wrapped_future.cancel()

    def died(self, error: BaseException) -> bool:
        return isinstance(error, KilledWorker)
