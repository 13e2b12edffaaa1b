"""Trials on a Dask cluster, by prefect-dask's task runner."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client
from distributed.scheduler import KilledWorker
from prefect_dask import DaskTaskRunner

from flows.resources import engine_request
from flows.runners import reach
from hpo_core.errors import EngineError, InputError
from hpo_core.study import StudySpec

if TYPE_CHECKING:
    from flows.objective import Objective
    from flows.outpost import Order

NAMES = {"gpus": "GPU", "cpus": "CPU", "memory": "MEMORY"}
"""What resources are called in ``dask worker --resources``."""

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
        logging.getLogger("distributed").setLevel(logging.ERROR)  # it tells of every worker that comes and goes
        try:
            with Client(self._address, timeout=CONNECT_SECONDS, set_as_default=False) as client:
                workers = client.scheduler_info(n_workers=-1)["workers"]
        except Exception as error:  # whatever answers there may be anything
            raise EngineError(
                f"runner.address: what answers at {self._address} is no Dask scheduler that this Dask understands "
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

    def submit(self, name: str, order: Order, retries: int) -> Any:
        from flows.outpost import run_away

        with dask.annotate(resources=self._resources) if self._resources else dask.annotate():
            return run_away.with_options(retries=retries).submit(name, order)

    def recall(self, future: Any, *, gone: bool) -> None:
        future.wrapped_future.cancel()

    def died(self, error: BaseException) -> bool:
        return isinstance(error, KilledWorker)
