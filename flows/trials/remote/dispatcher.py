"""Submits a flow's trials to a remote engine, keeps their leases until an agent starts them, and notices their ends.

Once started, a trial belongs to the agent, which renews the lease and reports. Until then it belongs to the flow, which
renews the lease however long the engine queues it. A trial is over when its future is done or when its run in MLflow
has ended, whichever comes first: a deployment's worker may die without Prefect noticing.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from hpo_core.base.errors import EngineError, InputError, TrackingError
from hpo_core.ledger.ledger import Report
from hpo_core.ledger.ownership import RENEW_SECONDS, new_lease
from hpo_core.ledger.store import RUNNING, Run
from hpo_core.ledger.tags import Tag
from hpo_core.selection.evaluation import Training
from hpo_core.study.editions import params_of
from hpo_flows.trials.remote.request import CREDENTIALS, URI, TrialRequest, spec_digest
from hpo_flows.trials.remote.runner import Runner
from hpo_flows.trials.session import Session

log = logging.getLogger("hpo")

LOOK_SECONDS = 10.0
"""How often MLflow is asked for the trials whose futures are open, in one search."""

INTERRUPT_SECONDS = 5.0
"""How long a flow that is being stopped waits for MLflow, per trial."""


class RemoteTrials:
    """The remote trials that this flow waits for.

    Args:
        session: The flow's session.
        runner: The engine that trains them.
    """

    def __init__(self, session: Session, runner: Runner) -> None:
        self._session, self._ledger, self._runner = session, session.ledger, runner
        self._waiting: dict[str, tuple[Training, Any, float]] = {}  # by run id; with the last lease renewal
        self._looked = time.monotonic()
        tracking = {key: os.environ[key] for key in CREDENTIALS if key in os.environ}
        self._tracking = tracking | {URI: self._ledger.store.uri}

    def submit(self, name: str, training: Training) -> Any:
        """Start a training; returns its future."""
        ledger = self._ledger
        request = TrialRequest(
            ledger.study_run.id,
            training.run_id,
            ledger.owner,
            spec_digest(ledger.spec),
            self._tracking,
            self._session.objective,
        )
        try:
            future = self._runner.submit(name, request, ledger.spec.retries)
        except Exception as error:  # each engine raises its own kinds
            why = f"{self._runner.name} does not take it: {type(error).__name__}: {error}"
            ledger.end_lost(ledger.store.get(training.run_id), why[:1000], self._params(training))
            raise EngineError(f"trial {training.number}: {why}") from error
        self._waiting[training.run_id] = training, future, time.monotonic()
        return future

    def ended(self) -> list[Training]:
        """The trials whose runs have ended although their futures are open. Also renews the leases of queued trials."""
        now = time.monotonic()
        if not self._waiting or now - self._looked < LOOK_SECONDS:
            return []
        self._looked = now
        experiment = self._ledger.study_run.experiment
        found = {run.id: run for run in self._ledger.store.search([experiment], {}, ids=list(self._waiting))}
        over: list[Training] = []
        for id, (training, future, renewed) in list(self._waiting.items()):
            run = found.get(id)
            if run is None or run.status != RUNNING:
                del self._waiting[id]
                if run is None or Tag.LOST in run.tags:
                    self._runner.recall(future, gone=True)
                over.append(training)
            elif not self._begun(run) and now - renewed > RENEW_SECONDS:
                self._ledger.write(Report(id, tags={Tag.LEASE: new_lease()}), patience=0.0)
                self._waiting[id] = training, future, now
        return over

    def settle(self, training: Training) -> Exception | None:
        """Find out how a trial ended whose future is done, and end its run if nobody has.

        Returns:
            The error that must end the study; None if it can continue.
        """
        if training.run_id not in self._waiting:
            return None
        _, future, _ = self._waiting.pop(training.run_id)
        run = self._ledger.store.get(training.run_id)
        if run.status != RUNNING:
            if field := run.tags.get(Tag.BLAMED_KEY):
                return InputError(field, run.tags.get(Tag.REASON, "").removeprefix(f"{field}: "))
            return None
        error = _error_of(future)
        why = f"{type(error).__name__}: {error}" if error is not None else "its task ended without a report"
        self._ledger.end_lost(run, f"its worker is gone: {why}"[:1000], self._params(training))
        log.warning("trial %d of %s is lost: %s", training.number, self._ledger.spec.name, why)
        if error is None or self._begun(run) or self._runner.died(error):
            return None
        return EngineError(f"{self._runner.name} could not begin trial {training.number}: {why}")

    def interrupt(self) -> None:
        """End all open trials as interrupted. Their agents see it in MLflow and stop."""
        waiting, self._waiting = list(self._waiting.values()), {}
        store = self._ledger.store.with_patience(INTERRUPT_SECONDS)
        for i, (training, future, _) in enumerate(waiting):
            try:
                run = store.get(training.run_id)
                if run.status == RUNNING:
                    self._ledger.interrupt(run, self._params(training))
            except TrackingError as error:
                left = ", ".join(str(each.number) for each, _, _ in waiting[i:])
                log.warning("trials %s go on without this flow, since MLflow does not respond: %s", left, error)
                return
            self._runner.recall(future, gone=False)

    def _begun(self, run: Run) -> bool:
        return run.tags.get(Tag.OWNER) != self._ledger.owner

    def _params(self, training: Training) -> dict[str, str]:
        return params_of(self._ledger.spec, training)


def _error_of(future: Any) -> BaseException | None:
    """The exception of a future that is done; None if there is none."""
    try:
        future.result(timeout=5)
    except BaseException as error:  # not Exception: Dask's CancelledError is a BaseException
        return error
    return None
