"""Defines a trial that was asked for: whoever asked trains it, in this process, and ends it by telling a result."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

from hpo_core.base.errors import InputError, TrackingRefusal
from hpo_core.ledger.store import FAILED
from hpo_core.ledger.tags import INTERRUPTED
from hpo_core.selection.evaluation import Training
from hpo_core.study.spec import StudySpec
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.messages import FromObjective
from hpo_flows.objectives.result import NotFinite, as_result
from hpo_flows.trials.evaluate import ended_in_any_case, record_failure, record_result
from hpo_flows.trials.prepare import prepare
from hpo_flows.trials.recorder import TrialLog
from hpo_flows.trials.session import Session
from hpo_flows.workers.channel import shown
from hpo_flows.workers.job import TrialFailed

log = logging.getLogger("hpo")

UNTOLD = "its block ended without a result; call trial.tell(...) in it"


def told_metrics(spec: StudySpec, record: TrialLog, number: int, result: Any) -> dict[str, float]:
    """The metrics of a told result.

    Raises:
        NotFinite: One of the study's own metrics, or one with a limit, is not finite, so the trial has failed.
        InputError: It is neither a number nor metrics with the study's own among them, or one with a limit is missing.
    """
    try:
        metrics = as_result(result, [each.metric for each in spec.objectives], record.latest)
        record.check_limits(metrics)
        return metrics
    except TrialFailed as failed:
        if failed.blamed_key:
            raise InputError(f"trial {number}", *_of_the_result(failed.reason).split("; ", 1)) from None
        raise NotFinite(failed.reason) from None
    except NotFinite as error:
        raise NotFinite(_of_the_result(str(error))) from None
    except ValueError as error:
        raise InputError(f"trial {number}", *_of_the_result(str(error)).split("; ", 1)) from None


def _of_the_result(text: str) -> str:
    """What is wrong with the result, in place of what the objective did wrong."""
    for objective, result in (
        ("the objective neither returned nor reported ", "neither the result nor a report has "),
        ("the objective returned no ", "the result has no "),
        ("the objective returned ", "the result is "),
        ("; return ", "; tell "),
    ):
        text = text.replace(objective, result)
    return text


class AskedTrial(TrialContext):
    """A trial that :meth:`AskedStudy.ask` gave: all that an objective gets, and :meth:`tell`.

    As a context manager it cannot be forgotten: an exception in the block is told as the trial's error (and goes on
    from there), and so is the end of the block without a result. After Ctrl-C the trial counts as interrupted, so
    another one takes its place.
    """

    def __init__(self, attempt: Attempt, **given: Any) -> None:
        super().__init__(**given)
        self._attempt = attempt

    @property
    def told(self) -> bool:
        """Whether the trial is ended."""
        return self._attempt.over

    @property
    def stopped(self) -> str:
        """Why training is to stop, after ``hpo stop STUDY --trial N`` or if the trial's run is gone; else empty.

        :meth:`report` then returns False. Whatever is told ends the trial as failed, with this reason.
        """
        return self._attempt.stopped

    @property
    def goes_on(self) -> bool:
        return super().goes_on and not self.stopped

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        return super().report(step, metrics) and not self.stopped

    def tell(self, result: Any = None, *, error: BaseException | str | None = None) -> None:
        """End the trial with its result, or with the error that kept it from having one.

        Args:
            result: The metric as a number, or a dict of metrics with it; an exception counts as an error.
            error: Why there is none: an exception or a text.

        Raises:
            InputError: It is neither, or the trial was told before. The trial goes on until it is told properly.
            TrackingError: MLflow does not respond. The result waits on disk for the next ``ask`` or the next flow.
        """
        if isinstance(result, BaseException):
            result, error = None, result
        if (result is None) == (error is None):
            given = "neither a result nor an error" if error is None else "both a result and an error"
            raise InputError(f"trial {self.number}", f"{given} is told", "give one of them")
        if not isinstance(error, BaseException | str | None):
            problem = f"the error {error!r:.80} is neither an exception nor a text"
            raise InputError(f"trial {self.number}", problem, "give one of them")
        if error is not None:
            self._attempt.fail(self, error)
        else:
            self._attempt.finish(self, result)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.told:
            return
        if error is not None and not isinstance(error, Exception):
            self._attempt.interrupt()
            return
        if error is None:
            log.warning("trial %d: %s", self.number, UNTOLD)
        self._attempt.fail(self, error or UNTOLD)


class Attempt:
    """The one attempt at a trial that was asked for. Its lease is renewed by another thread than reports come from.

    Args:
        session: The session it belongs to.
        training: The trial.
        release: Called once it is ended.
    """

    def __init__(self, session: Session, training: Training, release: Callable[[Training], None]) -> None:
        self._session, self.training, self._release = session, training, release
        self._folder = session.folder / "trials" / f"{training.number:04d}-{training.run_id[:8]}-1"
        self._record = TrialLog(session, training, {}, self._folder)
        self._lock, self._go_on = threading.RLock(), True
        self.over, self._gone = False, ""
        try:
            self._prepared = prepare(session, training, self._folder)
        except BaseException:
            with self._ending():
                raise
        self.trial = AskedTrial(self, **self._prepared.job.given(self._receive, lambda: self._go_on))

    @property
    def stopped(self) -> str:
        return self._gone or self._session.stops.get(self.training.run_id, "")

    def _receive(self, message: FromObjective) -> None:
        with self._lock:
            self._go_on = not self.over and self._record.receive(message)

    def tick(self) -> None:
        """Write what is due, and renew the lease."""
        with self._lock:
            if self.over or self._gone:
                return
            try:
                self._record.tick()
            except TrackingRefusal as error:
                self._gone = f"trial {self.training.number} cannot be written to MLflow: {error}"
                log.warning(self._gone)

    def finish(self, trial: AskedTrial, result: Any) -> None:
        """End the trial with a result.

        Raises:
            InputError: It is none, or MLflow refuses it.
        """
        self._check_open()
        spec, job = self._session.ledger.spec, self._prepared.job
        if self.stopped:
            self.fail(trial, self.stopped)
            return
        try:
            metrics = told_metrics(spec, self._record, trial.number, result)
        except NotFinite as error:
            self.fail(trial, str(error))
            return
        if spec.needs_hypergradient:
            trial.check_hypergradient(metrics)
        trial.finish_checkpoint()
        if job.beats(metrics):
            trial.finish_best()
        self._end(trial, partial(record_result, metrics=metrics))

    def fail(self, trial: AskedTrial, error: BaseException | str) -> None:
        """End the trial without a result; if it was stopped, the reason for that counts, not what it led to."""
        self._check_open()
        error = self.stopped or error
        details = "" if isinstance(error, str) else "".join(traceback.format_exception(error))
        failed = TrialFailed(error if isinstance(error, str) else shown(error), retry=False, details=details)
        self._end(trial, partial(record_failure, error=failed))

    def interrupt(self) -> None:
        """End the trial because whoever trains it is being stopped; another one will take its place."""
        with self._lock, self._ending():
            self._record.finish(FAILED, reason=INTERRUPTED, lost="interrupted")

    def _check_open(self) -> None:
        if self.over:
            raise InputError(f"trial {self.training.number}", "it was told before", "tell each trial once")

    def _end(self, trial: AskedTrial, record: Callable[..., None]) -> None:
        with self._lock:
            self._check_open()
            self._record.receive(trial.use)
            try:
                with self._ending():
                    record(self._session, self.training, self._prepared, self._record)
            except TrialFailed as refused:
                raise InputError(f"trial {trial.number}", f"it is marked as failed: {refused.reason}") from None

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """End the attempt, whatever happens in the block."""
        try:
            with ended_in_any_case(self._session, self.training, self._record, self._folder):
                yield
        finally:
            self.over = True
            self._release(self.training)
