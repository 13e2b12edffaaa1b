"""The trials of a flow that are trained elsewhere: who answers for them, and when one is over.

A trial that has been begun is its worker's: that renews the lease and reports. Until then it is the flow's, which
renews the lease, however long the engine lets it wait. It is over when its future is, or when MLflow says so, whichever
comes first: the worker of a deployment may die without anybody telling Prefect.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from flows.outpost import CREDENTIALS, URI, Order, edition
from flows.runners import Runner
from flows.trial import MISFIT, FlowSession
from hpo_core.errors import EngineError, InputError, TrackingError
from hpo_core.ledger import RENEW_SECONDS, Report
from hpo_core.store import RUNNING, Run
from hpo_core.trial import Trial

log = logging.getLogger("hpo")

LOOK_SECONDS = 10.0
"""How often MLflow is asked for the trials whose futures are open; one search for all."""

INTERRUPT_SECONDS = 5.0
"""How long a flow that is being stopped asks for MLflow, a trial."""


class Away:
    """The trials that this flow waits for.

    Args:
        session: The flow run.
        runner: What trains them.
    """

    def __init__(self, session: FlowSession, runner: Runner) -> None:
        self._session, self._ledger, self._runner = session, session.ledger, runner
        self._waiting: dict[str, tuple[Trial, Any, float]] = {}  # by run: its future, and when its lease was renewed
        self._looked = time.monotonic()
        tracking = {key: os.environ[key] for key in CREDENTIALS if key in os.environ}
        self._tracking = tracking | {URI: self._ledger.store.uri}

    def submit(self, name: str, trial: Trial) -> Any:
        """Start a trial; answers its future."""
        ledger = self._ledger
        order = Order(
            ledger.study_run.id,
            trial.run_id,
            ledger.owner,
            edition(ledger.spec),
            self._tracking,
            self._session.objective,
        )
        try:
            future = self._runner.submit(name, order, ledger.spec.retries)
        except Exception as error:  # each engine has its own
            why = f"{self._runner.name} does not take it: {type(error).__name__}: {error}"
            ledger.end_lost(ledger.store.get(trial.run_id), why[:1000], self._params(trial))
            raise EngineError(f"trial {trial.number}: {why}") from error
        self._waiting[trial.run_id] = trial, future, time.monotonic()
        return future

    def ended(self) -> list[Trial]:
        """The trials that MLflow says are over although their futures are not; the leases of the others are seen to."""
        now = time.monotonic()
        if not self._waiting or now - self._looked < LOOK_SECONDS:
            return []
        self._looked = now
        experiment = self._ledger.study_run.experiment
        found = {run.id: run for run in self._ledger.store.search([experiment], {}, ids=list(self._waiting))}
        over: list[Trial] = []
        for id, (trial, future, renewed) in list(self._waiting.items()):
            run = found.get(id)
            if run is None or run.status != RUNNING:
                del self._waiting[id]
                if run is None or "hpo.lost" in run.tags:
                    self._runner.recall(future, gone=True)
                over.append(trial)
            elif not self._begun(run) and now - renewed > RENEW_SECONDS:
                self._ledger.write(Report(id, tags={"hpo.lease": self._ledger.lease()}), patience=0.0)
                self._waiting[id] = trial, future, now
        return over

    def settle(self, trial: Trial) -> Exception | None:
        """Look what became of a trial whose future is over, and end it if nobody has.

        Returns:
            What the study cannot go on from, if so.
        """
        if trial.run_id not in self._waiting:
            return None
        _, future, _ = self._waiting.pop(trial.run_id)
        run = self._ledger.store.get(trial.run_id)
        if run.status != RUNNING:
            if field := run.tags.get(f"hpo.{MISFIT}"):
                return InputError(field, run.tags.get("hpo.reason", "").removeprefix(f"{field}: "))
            return None
        error = _error_of(future)
        why = f"{type(error).__name__}: {error}" if error is not None else "its task ended without a report"
        self._ledger.end_lost(run, f"its worker is gone: {why}"[:1000], self._params(trial))
        log.warning("trial %d of %s is lost: %s", trial.number, self._ledger.spec.name, why)
        if error is None or self._begun(run) or self._runner.died(error):
            return None
        return EngineError(f"{self._runner.name} could not begin trial {trial.number}: {why}")

    def interrupt(self) -> None:
        """End all of them as interrupted; whoever trains one sees it in MLflow and stops."""
        waiting, self._waiting = list(self._waiting.values()), {}
        store = self._ledger.store.with_patience(INTERRUPT_SECONDS)
        for trial, future, _ in waiting:
            try:
                run = store.get(trial.run_id)
                if run.status == RUNNING:
                    self._ledger.interrupt(run, self._params(trial))
            except TrackingError as error:
                log.warning("trial %d goes on without this flow, since MLflow does not answer: %s", trial.number, error)
            else:
                self._runner.recall(future, gone=False)

    def _begun(self, run: Run) -> bool:
        return run.tags.get("hpo.owner") != self._ledger.owner

    def _params(self, trial: Trial) -> dict[str, str]:
        return self._ledger.spec.search_space.to_params(trial.config)


def _error_of(future: Any) -> BaseException | None:
    """What a future that is over has raised."""
    try:
        future.result(timeout=5)
    except BaseException as error:  # Dask's cancellation is one
        return error
    return None
