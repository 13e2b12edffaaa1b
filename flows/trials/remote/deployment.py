"""Trains trials as flow runs of a Prefect deployment, on the workers of a work pool.

The agent is imported in :meth:`DeploymentRunner._deploy`, so that importing this file does not load all that training
needs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Cancelling, Crashed
from prefect.task_runners import ThreadPoolTaskRunner

from hpo_core.base.errors import EngineError, InputError
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.credentials import without_credentials
from hpo_flows.trials.remote.agent import deployed_trial
from hpo_flows.trials.task import plain_name, study_tags

if TYPE_CHECKING:
    from hpo_flows.objectives.reference import Objective
    from hpo_flows.trials.remote.request import TrialRequest


log = logging.getLogger("hpo")

ENTRYPOINT = "hpo_flows.trials.remote.agent.deployed_trial"

POLL_SECONDS = 2.0
"""How often all open flow runs are polled, in one request."""


class Dead(Exception):
    """A flow run that crashed or was cancelled."""


class FlowRunFuture:
    """The future of a flow run.

    Args:
        id: The flow run's id.
    """

    def __init__(self, id: UUID) -> None:
        self.id = id
        self._over, self._state = threading.Event(), None
        self._callback: Callable[[FlowRunFuture], Any] = lambda future: None

    _state: State | None

    def add_done_callback(self, callback: Callable[[FlowRunFuture], Any]) -> None:
        """Call back once the flow run has ended. A future holds one callback only."""
        self._callback = callback
        if self._over.is_set():
            callback(self)

    def end(self, state: State) -> None:
        self._state = state
        self._over.set()
        self._callback(self)

    def result(self, timeout: float | None = None) -> None:
        """Wait for the end; there is no value, since trials report to MLflow.

        Args:
            timeout: In seconds; None waits without limit.

        Raises:
            TimeoutError: The flow run has not ended.
            Dead: It crashed or was cancelled.
            RuntimeError: It failed.
        """
        if not self._over.wait(timeout) or self._state is None:
            raise TimeoutError(f"flow run {self.id} has not ended")
        if self._state.is_crashed() or self._state.is_cancelled():
            raise Dead(self._state.message or self._state.name)
        if self._state.is_failed():
            raise RuntimeError(self._state.message or self._state.name)


def parameters(name: str, request: TrialRequest, retries: int) -> dict[str, Any]:
    """A request as the parameters of a flow run. Prefect stores and shows them, so credentials are left out."""
    return {
        "name": name,
        "study_run": request.study_run,
        "run": request.run,
        "owner": request.owner,
        "spec_digest": request.spec_digest,
        "tracking_uri": without_credentials(request.tracking["MLFLOW_TRACKING_URI"]),
        "retries": retries,
    }


class DeploymentRunner:
    """A deployment of :func:`hpo_flows.trials.remote.agent.deployed_trial` on the work pool that a study names.

    Args:
        spec: The study.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._spec, self._pool = spec, spec.runner.work_pool
        self.name = f"the work pool {self._pool!r}"
        self._client: SyncPrefectClient = get_client(sync_client=True)
        self._retries = PREFECT_CLIENT_MAX_RETRIES.value()  # the user's; the loop lowers it, since it needs no answer
        self._deployment: UUID | None = None
        self._open: dict[UUID, FlowRunFuture] = {}
        self._lock = threading.Lock()  # Prefect's client is shared between the poller and the loop
        self._poller: threading.Thread | None = None

    def check(self, objective: Objective) -> None:
        if objective.pickled is not None:
            raise InputError(
                "runner.type",
                "a deployment's workers import the objective, and this one was given as a function",
                "start the study from a file with objective: module:function, or choose dask or ray",
            )
        if not (url := PREFECT_API_URL.value()):
            raise InputError(
                "runner.type",
                "a deployment needs a Prefect server, and none is named",
                "start one, set PREFECT_API_URL",
            )
        try:
            self._client.read_work_pool(self._pool)
        except ObjectNotFound:
            raise InputError(
                "runner.work_pool",
                f"the Prefect server at {url} has no work pool {self._pool!r}",
                f"create it (prefect work-pool create {self._pool} --type process), or correct the name",
            ) from None
        except Exception as error:  # Prefect's client raises many kinds
            raise EngineError(f"runner: the Prefect server at {url} does not respond ({error}); start it") from None
        self._deployment = self._deploy()

    def _deploy(self) -> UUID:
        """Create or update the study's deployment."""

        runner = self._spec.runner
        return self._client.create_deployment(
            self._client.create_flow(deployed_trial),
            plain_name(f"trials of {self._spec.name}"),
            description=f"The trials of the study {self._spec.name!r}; made and started by its flow.",
            entrypoint=ENTRYPOINT,
            work_pool_name=self._pool,
            work_queue_name=plain_name(self._spec.name),
            job_variables=runner.job_variables,
            pull_steps=runner.pull or None,
            enforce_parameter_schema=False,
        )

    def task_runner(self, parallel: int) -> Any:
        return ThreadPoolTaskRunner(max_workers=parallel)  # stays idle: Prefect's workers run the trials

    def submit(self, name: str, request: TrialRequest, retries: int) -> FlowRunFuture:
        assert self._deployment is not None
        given = parameters(name, request, retries)
        with self._lock, temporary_settings({PREFECT_CLIENT_MAX_RETRIES: self._retries}):
            made = self._client.create_flow_run_from_deployment(
                self._deployment,
                parameters=given,
                name=name,
                tags=study_tags(self._spec),
                idempotency_key=request.run,  # a server may have done what it answered with an error
            )
        future = self._open[made.id] = FlowRunFuture(made.id)
        if self._poller is None:
            self._poller = threading.Thread(target=self._poll, daemon=True)
            self._poller.start()
        return future

    def _poll(self) -> None:
        """End the futures of flow runs that have ended. Runs in a daemon thread until the process exits."""
        while True:
            threading.Event().wait(POLL_SECONDS)
            open_ = dict(self._open)
            if not open_:
                continue
            try:
                with self._lock:
                    runs = self._client.read_flow_runs(
                        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=list(open_))), limit=len(open_)
                    )
            except Exception as error:  # Prefect's client raises many kinds
                log.debug("cannot poll the flow runs of the trials: %s", error)
                continue
            for run in runs:
                if run.state is not None and run.state.is_final():
                    self._open.pop(run.id, None)
                    open_[run.id].end(run.state)

    def recall(self, future: FlowRunFuture, *, gone: bool) -> None:
        self._open.pop(future.id, None)
        try:
            with self._lock:
                state = self._client.read_flow_run(future.id).state
                if state is None or state.is_final():
                    return
                begun = state.is_running() or state.is_pending()
                ended: State = Crashed(message="its worker is gone") if gone else Cancelling() if begun else Cancelled()
                self._client.set_flow_run_state(future.id, ended, force=gone)
        except Exception as error:  # Prefect's client raises many kinds
            log.warning("Prefect still shows the flow run %s: %s", future.id, error)

    def died(self, error: BaseException) -> bool:
        return isinstance(error, Dead)
