"""Trains in the flow's own process (``isolation: none``), one trial at a time, in the thread that runs the loop.

That is the main thread, where user code may need to be: signal handlers, debuggers and plots work there alone. Messages
pass through queues in place of a pipe, to the same supervision as a worker's, in a thread of the trial's own. So the
lease is renewed and reports reach MLflow whatever the objective is doing.

The objective and its data are the script's own objects, never copies. They see the context variables with which the
study was started, not those of Prefect's flow run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from bdb import BdbQuit
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Any

from hpo_flows.base.gpus import SHARING
from hpo_flows.base.stopping import Stopped
from hpo_flows.objectives.messages import Answer, Ended, Failed, FromObjective, Message
from hpo_flows.objectives.reference import Objective
from hpo_flows.workers.attempt import Attempt, logging_to_run, result_of, supervise, train
from hpo_flows.workers.channel import shown
from hpo_flows.workers.job import Flag, Job, TrialCancelled
from hpo_flows.workers.output import Printed
from hpo_flows.workers.surroundings import HANDLERS, OURS, flush, remember, seed_all
from hpo_flows.workers.watchdog import WATCH_SECONDS


class ThisProcess:
    """Has the interface of a :class:`hpo_flows.workers.pool.WorkerPool` with one worker: this process.

    Args:
        objective: What its trials train.
    """

    variables: Mapping[str, str] = MappingProxyType({})
    """Its environment variables beyond this process's own."""

    shows_output = True
    """What a trial prints is printed; it is kept as well."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._function: Callable[..., Any] | None = None
        self._context, self.pid, self._thread = copy_context(), os.getpid(), threading.get_ident()
        self._printed = Printed()
        self._inside = False  # whether the objective runs now, so that a signal may raise
        self._lend: Callable[[Callable[[], None]], object] = _nobody_lends
        self._quit: Callable[[int], object] = lambda number: None
        self.cancelled = _Flag()

    def serve(self, lend: Callable[[Callable[[], None]], object], quit: Callable[[int], object]) -> None:
        """Set who gives trials the main thread.

        Args:
            lend: Has a function called in the main thread, soon. Any thread may call this.
            quit: Stops the study, as the signal of that number would; called in the main thread.
        """
        self._lend, self._quit = lend, quit

    def check(self, timeout: float | None = None) -> None:
        """Import the objective, unless that is done.

        Raises:
            InputError: It cannot be imported.
        """
        put_back = remember(HANDLERS)
        try:
            self._function = self._function or self._objective.load()
        finally:
            put_back()

    @contextlib.contextmanager
    def worker(self) -> Iterator[ThisProcess]:
        """Lend this process for one trial."""
        yield self

    def printed(self) -> str:
        """What the last trial printed through ``sys.stdout`` and ``sys.stderr``; if long, its beginning and its end."""
        return self._printed.text()

    def run(
        self,
        job: Job,
        *,
        timeout: float | None = None,
        memory_limit: int | None = None,
        on_message: Callable[[FromObjective], bool | None],
        on_tick: Callable[[], None] = lambda: None,
        cancelled: Flag | None = None,
    ) -> dict[str, float]:
        """Train one trial; called in its own thread. As :meth:`hpo_flows.workers.worker.Worker.run`.

        A study with a timeout or a memory limit is refused before, since these need a process that can be killed.
        """
        inbox: SimpleQueue[Message] = SimpleQueue()
        attempt = _Attempt(inbox.put, self)
        self._printed = Printed()

        def ended_early() -> bool:
            return self.cancelled.is_set() or (cancelled is not None and cancelled.is_set())

        def receive() -> Message | None:
            if ended_early():
                attempt.end()  # it ends at its next message
            try:
                return inbox.get(timeout=WATCH_SECONDS)
            except Empty:
                return None

        def reply(answer: Answer) -> None:
            attempt.answers.put(answer.go_on)

        self._lend(partial(self._train, job, attempt, inbox.put))
        try:
            ended = supervise(receive, reply, on_message, on_tick)
        finally:
            attempt.end()
        if ended_early():  # even if there is a result: the objective may have caught the interruption
            raise TrialCancelled
        return result_of(ended)

    # -- in the main thread -----------------------------------------------------------------------------------------

    def interrupt(self, number: int) -> None:
        """Cancel the trials of this process; called by a signal handler.

        Raises:
            Stopped: An objective runs now.
        """
        self.cancelled.set()
        if self._inside:
            raise Stopped(number)

    def end_in_vain(self, attempt: Attempt) -> None:
        """Raise :class:`Stopped` if called by an objective that runs here now, and nobody waits for its result."""
        in_vain = attempt.over or self.cancelled.is_set()
        if in_vain and self._inside and threading.get_ident() == self._thread:
            raise Stopped(signal.SIGINT)

    def _train(self, job: Job, attempt: _Attempt, send: Callable[[Message], object]) -> None:
        """Train, then restore the state of the process."""
        outcome: Any = Failed("it was cancelled before it began")
        try:
            if not (attempt.over or self.cancelled.is_set()):
                outcome = self._trained(job, attempt)
        except BaseException as error:  # from the setup or cleanup; train reports the objective's own errors
            outcome = Failed(shown(error), details=traceback.format_exc())
        finally:
            self._inside = False
            send(Ended(outcome, size=0))

    def _trained(self, job: Job, attempt: _Attempt) -> Any:
        put_back = remember(OURS)
        try:
            sys.stdout, sys.stderr = _Tee(sys.stdout, self._printed), _Tee(sys.stderr, self._printed)
            seed_all(job.seed)
            context = self._context.copy()
            with logging_to_run(job, attempt):
                return train(job, lambda trial: context.run(self._call, attempt, trial), attempt)
        finally:
            if os.getpid() != self.pid:
                os._exit(0)  # a fork by the objective that returned from it; only the original reports the trial
            flush()
            put_back()

    def _call(self, attempt: Attempt, trial: Any) -> Any:
        assert self._function is not None
        try:
            self._inside = True
            self.end_in_vain(attempt)  # a signal may have come just before
            return self._function(trial)
        except (BdbQuit, KeyboardInterrupt):
            # Whoever leaves the debugger wants to be back at the shell, not in the next trial, and so does who presses
            # Ctrl-C while a debugger, or the objective itself, handles signals.
            if not (attempt.over or self.cancelled.is_set()):
                self._quit(signal.SIGINT)
            raise
        finally:
            self._inside = False

    # -- the life of the pool ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Cancel the trial that runs, if one does."""
        self.cancelled.set()

    def __enter__(self) -> ThisProcess:
        self._added = [name for name in SHARING if name not in os.environ]
        os.environ.update({name: SHARING[name] for name in self._added})  # read once TensorFlow or JAX use a GPU
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        for name in self._added:
            os.environ.pop(name, None)


class _Attempt(Attempt):
    """An attempt in this process, which ends the objective at its next message if nobody waits for it any more."""

    def __init__(self, send: Callable[[Message], object], process: ThisProcess) -> None:
        super().__init__(send)
        self._process = process

    def send(self, message: Message) -> None:
        self._process.end_in_vain(self)
        super().send(message)


class _Flag:
    """A flag without a lock, since a signal handler sets it."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


class _Tee:
    """A stream that also keeps what is written to it. Otherwise it is like the stream, so that a debugger can use it.

    Args:
        stream: The stream; None if the process has none.
        kept: Where the text is kept.
    """

    def __init__(self, stream: Any, kept: Printed) -> None:
        self._stream, self._kept = stream, kept

    def write(self, text: str) -> int:
        self._kept.add(text.encode(errors="replace"))
        if self._stream is not None:
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _nobody_lends(function: Callable[[], None]) -> None:
    raise AssertionError("no loop has offered its thread")
