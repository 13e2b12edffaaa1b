"""One trial as one Prefect task: supervises a worker process and writes what it reports to MLflow."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE

from flows.objective import Objective
from flows.study_report import Publisher
from flows.worker import Job, TrialCancelled, TrialFailed, WorkerPool
from hpo_core.errors import InputError, TrackingError, TrackingRefusal
from hpo_core.history import History
from hpo_core.ledger import RENEW_SECONDS, RESULT, Ledger, Report, now_ms
from hpo_core.seeding import trial_seed
from hpo_core.spool import Spool
from hpo_core.store import FAILED, FINISHED, RUNNING, Metric
from hpo_core.trial import Trial

log = logging.getLogger("hpo")

FIRST_WRITE_SECONDS = 2.0
WRITE_SECONDS = 10.0
"""A trial's params and curves are written in batches: a trial of a second costs one request for both, and a long one
shows its params soon and its curves every ten seconds, however many epochs it reports."""


@dataclass(frozen=True)
class Progress:
    """What an observer of a study is shown: the study as last loaded, and the seconds since this run of it began."""

    history: History
    seconds: float


Observer = Callable[[Progress], None]


@dataclass
class Session:
    """What the loop and the tasks of one flow run share.

    Args:
        ledger: The study.
        pool: The worker processes.
        objective: What they train.
        folder: Where files of trials stand until they are in MLflow.
        publisher: Writes the report.
        observe: Called after each load and about once a second.
        fatal: What went wrong in a task that the whole flow cannot go on from.
    """

    ledger: Ledger
    pool: WorkerPool
    objective: Objective
    folder: Path
    publisher: Publisher
    observe: Observer
    fatal: Exception | None = None

    @property
    def spool(self) -> Spool:
        """Where results wait for MLflow."""
        return Spool(self.folder / "spool" / self.ledger.study_run.id)


SESSIONS: dict[str, Session] = {}
"""The sessions of this process, by the id of the study's run: a task's parameters are data, and these are not."""


class TrialLog:
    """Collects what a trial reports and writes it in few requests.

    Args:
        session: The flow run that it belongs to.
        trial: The trial.
        tags: Tags to begin with.
    """

    def __init__(self, session: Session, trial: Trial, tags: Mapping[str, str]) -> None:
        ledger = session.ledger
        self._ledger, self._trial, self._spool, self._unsent = ledger, trial, session.spool, session.folder / "unsent"
        self._params = ledger.spec.search_space.to_params(trial.config)
        self._metrics: list[Metric] = []
        self._tags = dict(tags)
        self._last_step = 0
        self._artifacts: list[tuple[Path, str]] = []
        self._renewed = time.monotonic()
        self._due = self._renewed + FIRST_WRITE_SECONDS

    def receive(self, message: Mapping[str, Any]) -> None:
        """Take a report or an artifact."""
        if message["kind"] == "artifact":
            self._artifacts.append((Path(message["path"]), message["folder"]))
            return
        now, self._last_step = now_ms(), max(self._last_step, message["step"])
        self._metrics += [Metric(key, value, now, message["step"]) for key, value in message["metrics"].items()]

    def tick(self) -> None:
        """Write what is due; renew the lease in the same request, or in one of its own if nothing else is to say.

        A store that does not answer is not waited for: training goes on, and all is kept for the next time.
        """
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + WRITE_SECONDS
        if not (self._metrics or self._params or now - self._renewed > RENEW_SECONDS):
            return
        lease = {"hpo.lease": self._ledger.lease()}
        try:
            self._ledger.write(self._report(RUNNING, self._tags | lease), patience=0.0)
        except TrackingError as error:
            log.warning("trial %d goes on without MLflow: %s", self._trial.number, error)
        else:
            self._renewed = now
            self._metrics, self._params, self._tags = [], {}, {}

    def finish(self, status: str, metrics: Mapping[str, float] | None = None, reason: str = "", **tags: str) -> None:
        """Write the rest and the trial's end; on disk first, so that it outlives a server or this process.

        MLflow's latest value of a metric is the one of the highest step, then of the latest time: the result stands
        at the trial's last step, a moment after whatever the trial reported there.

        Raises:
            TrackingError: MLflow does not answer; the result waits in the spool.
            TrackingRefusal: MLflow will not have it.
        """
        now = now_ms() + 1
        self._metrics += [Metric(key, value, now, self._last_step) for key, value in (metrics or {}).items()]
        self._tags |= {f"hpo.{key}": value for key, value in tags.items()}
        if status == FINISHED:
            self._tags[RESULT] = self._ledger.spec.metric
        if reason:
            self._tags["hpo.reason"] = reason[:1000]
        waiting = self._spool.put(self._report(status, self._tags))
        try:
            if self._artifacts:
                self._upload()
            self._ledger.write(self._report(status, self._tags))
        except TrackingRefusal:
            waiting.unlink()
            raise
        waiting.unlink()

    def _report(self, status: str, tags: Mapping[str, str]) -> Report:
        return Report(self._trial.run_id, self._metrics, self._params, tags, status)

    def _upload(self) -> None:
        """Copy the artifacts to MLflow; what is refused is kept on disk, a tag says so, and the result counts."""
        self._ledger.store.ping()  # an outage is waited for here, so what fails next is the artifact store alone
        store = self._ledger.store.with_patience(5.0)
        for i, (path, folder) in enumerate(self._artifacts):
            try:
                store.upload(self._trial.run_id, path, folder)
            except Exception as error:  # each artifact store has exceptions of its own
                log.warning("the artifact store refuses %s of trial %d: %s", path.name, self._trial.number, error)
                kept = self._unsent / self._trial.run_id
                kept.mkdir(parents=True, exist_ok=True)
                for left, _ in self._artifacts[i:]:
                    shutil.move(left, kept / left.name)
                self._tags["hpo.artifacts_lost"] = f"kept in {kept}: {type(error).__name__}: {error}"[:500]
                break
        self._artifacts = []

    def give_up(self, reason: str) -> None:
        """End the trial as failed although something it logged cannot be written: that is dropped."""
        self._metrics, self._params, self._artifacts = [], {}, []
        self.finish(FAILED, reason=reason)


def _again(task_: Any, task_run: Any, state: Any) -> bool:
    """Prefect asks after a failure whether another attempt makes sense."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TrialFailed) and error.retry


@task(name="trial", task_run_name="{name}", retry_condition_fn=_again, cache_policy=NO_CACHE, persist_result=False)
def run_trial(name: str, trial: Trial, study_run: str) -> dict[str, float]:
    """Train one trial and report it. A retry continues the same MLflow run.

    Args:
        name: The study and the trial's number, for Prefect's UI.
        trial: The reserved trial.
        study_run: The id of the study's MLflow run, which names the session.

    Raises:
        TrialFailed: The trial gave no value; its run says why.
        TrialCancelled: The flow is being stopped; its run says so.
    """
    attempt = int(runtime.task_run.run_count or 1)
    tags = {"hpo.task_run": runtime.task_run.id, "hpo.task_run_url": runtime.task_run.ui_url}
    return evaluate(SESSIONS[study_run], trial, attempt, {key: str(value) for key, value in tags.items() if value})


def evaluate(session: Session, trial: Trial, attempt: int, tags: Mapping[str, str]) -> dict[str, float]:
    """One attempt at a trial; the body of :func:`run_trial`. The tags say where Prefect shows it."""
    spec = session.ledger.spec
    folder = session.folder / "trials" / f"{trial.number:04d}-{trial.run_id[:8]}-{attempt}"
    job = Job(
        session.objective,
        spec.metric,
        trial.config,
        trial.number,
        trial_seed(spec.seed, trial.number),
        trial.fidelity,
        folder,
    )
    record = TrialLog(session, trial, tags)
    try:
        with session.pool.worker() as worker:
            metrics = worker.run(
                job,
                timeout=spec.trial_timeout,
                memory_limit=spec.memory_limit,
                on_message=record.receive,
                on_tick=record.tick,
                cancelled=session.pool.cancelled,
            )
        record.finish(FINISHED, metrics)
        return metrics
    except TrialCancelled:
        record.finish(FAILED, reason="interrupted: the flow was stopped", lost="interrupted")
        raise
    except TrialFailed as error:
        if error.retry and attempt <= spec.retries:
            raise  # Prefect tries again, and the run goes on
        if error.details:
            details = folder / "failure.txt"
            details.parent.mkdir(parents=True, exist_ok=True)
            details.write_text(error.details, encoding="utf-8")
            record.receive({"kind": "artifact", "path": str(details), "folder": ""})
        record.finish(FAILED, reason=error.reason)
        if error.misfit:
            session.fatal = InputError("metric", error.reason)
        raise
    except TrackingRefusal as error:
        record.give_up(f"MLflow refused what the trial logged: {error}")
        raise TrialFailed(str(error), retry=False) from None
    except TrackingError as error:
        session.fatal = error
        raise
    except Exception as error:
        session.fatal = error
        record.give_up(f"internal error: {type(error).__name__}: {error}")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
