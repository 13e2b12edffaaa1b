"""Runs trials in this process: as Prefect tasks, which its UI shows, or in plain threads if Prefect is unavailable.

Either way this file's own future marks the end of a trial: it is done once the trial's last attempt is. Prefect's task
state does not matter; if Prefect gives up a task, the remaining attempts are made without it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextvars import copy_context
from typing import Protocol

from prefect import task
from prefect.cache_policies import NO_CACHE

from hpo_core.selection.evaluation import Training
from hpo_flows.loop.prefect_link import Link
from hpo_flows.loop.stages import FlowSession
from hpo_flows.trials.evaluate import evaluate
from hpo_flows.trials.task import name_task, should_retry, tag_task, this_task
from hpo_flows.workers.job import TrialFailed


class Work:
    """The attempts at a training in this process, no matter whether Prefect or a thread asks for the next one.

    Args:
        session: The flow's session.
        name: The study and the trial's number, for display.
        training: What is trained, in a run that this flow has reserved.

    Attributes:
        spec: The study.
        over: Done once no further attempt is due.
    """

    def __init__(self, session: FlowSession, name: str, training: Training) -> None:
        self._session, self.name, self.training, self.spec = session, name, training, session.ledger.spec
        self.over: Future[None] = Future()
        self._attempts = 0

    def attempt(self, tags: Mapping[str, str]) -> dict[str, float]:
        """Make the next attempt. Raises what :func:`hpo_flows.trials.evaluate.evaluate` raises.

        Args:
            tags: The tags that say where Prefect shows the attempt.
        """
        self._attempts += 1
        again = False
        try:
            return evaluate(self._session, self.training, self._attempts, tags)
        except TrialFailed as error:
            again = error.retry and self._attempts <= self.spec.retries
            raise
        finally:
            if not again:
                self.over.set_result(None)


class Engine(Protocol):
    """What the loop needs to have a trial trained here."""

    def submit(self, name: str, training: Training) -> Future[None]:
        """Start a training. The future is done once no further attempt is due; how it ended is in its run."""
        ...


class Threads:
    """Runs each trial in its own thread, which waits for a worker process.

    Args:
        session: The flow's session.
    """

    def __init__(self, session: FlowSession) -> None:
        self._session = session

    def submit(self, name: str, training: Training) -> Future[None]:
        return self.start(Work(self._session, name, training))

    def start(self, work: Work) -> Future[None]:
        """Make all remaining attempts."""
        context = copy_context()  # it knows which study's progress shows what the thread says
        threading.Thread(target=context.run, args=[self._run, work], name=work.name, daemon=True).start()
        return work.over

    def _run(self, work: Work) -> None:
        while not work.over.done():
            with contextlib.suppress(Exception):  # already recorded in the trial's run and the session
                work.attempt({})


_WORK: dict[str, Work] = {}
"""The work of Prefect's tasks, by run id. It cannot be a task's parameter, since those are serialised."""


class PrefectTasks:
    """Runs trials as tasks of the flow run, as long __.

    Args:
        session: The flow's session.
        link: The connection to Prefect's server.
    """

    def __init__(self, session: FlowSession, link: Link) -> None:
        self._session, self._link, self._threads = session, link, Threads(session)
        self._task = run_trial.with_options(retries=session.ledger.spec.retries)

    def submit(self, name: str, training: Training) -> Future[None]:
        work = Work(self._session, name, training)
        if self._link.lost:
            return self._threads.start(work)
        _WORK[training.run_id] = work
        try:
            self._task.submit(name, training).add_done_callback(lambda _: self._go_on(work))
        except Exception as error:  # Prefect raises many kinds
            self._link.failed(error)
            self._go_on(work)
        return work.over

    def _go_on(self, work: Work) -> None:
        """Make the attempts that are left once Prefect is done with a task."""
        _WORK.pop(work.training.run_id, None)
        if not work.over.done():
            self._threads.start(work)


@task(
    name="trial", task_run_name="{name}", retry_condition_fn=should_retry, cache_policy=NO_CACHE, persist_result=False
)
def run_trial(name: str, training: Training) -> dict[str, float]:
    """Train one trial and report it. A retry continues the same MLflow run.

    Args:
        name: The study and the trial's number, for Prefect's UI.
        training: What is trained, in a run that this flow has reserved.

    Raises:
        TrialFailed: The trial returned no value; its run says why.
        TrialCancelled: The flow is being stopped; its run says so.
    """
    _, tags = this_task()
    work = _WORK[training.run_id]
    tag_task(work.spec)
    metrics = work.attempt(tags)
    name_task(name, work.spec, metrics)
    return metrics
