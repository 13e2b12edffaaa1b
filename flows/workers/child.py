"""The program of a worker process: imports the objective, then trains one attempt after another until the flow ends."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.objectives.messages import (
    Answer,
    Done,
    Ended,
    Failed,
    Loaded,
    Message,
    Preload,
    Train,
    Unloadable,
)
from hpo_flows.objectives.reference import Objective
from hpo_flows.workers.attempt import OUT_OF_GPU_MEMORY, Attempt, logging_to_run, train
from hpo_flows.workers.channel import Channel, Unreadable, shown
from hpo_flows.workers.gpu import SHARE, bound_memory
from hpo_flows.workers.job import Job
from hpo_flows.workers.output import Marks
from hpo_flows.workers.surroundings import flush, remember, seed_all
from hpo_flows.workers.watchdog import resident_bytes


class _Parent:
    """The child's side of the pipe to the parent. The child ends when the parent does."""

    def __init__(self, connection: Connection) -> None:
        self._channel = Channel(connection)
        self.inbox: SimpleQueue[tuple[int, Message | Unreadable]] = SimpleQueue()
        self._current: tuple[int, Attempt] | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                attempt, message = self._channel.receive()
            except (EOFError, OSError):
                os.killpg(0, signal.SIGKILL)  # the flow is gone: end this process group, with all the objective started
            except Unreadable as error:
                self.inbox.put((error.attempt, error))
            else:
                if not isinstance(message, Answer):
                    self.inbox.put((attempt, message))
                elif (current := self._current) is not None and current[0] == attempt:
                    current[1].answers.put(message.go_on)

    def send(self, attempt: int, message: Message) -> None:
        self._channel.send(attempt, message)

    @contextlib.contextmanager
    def attempt(self, number: int) -> Iterator[Attempt]:
        """Make an attempt current, so that the parent's answers reach it."""
        attempt = Attempt(partial(self.send, number))
        self._current = number, attempt
        try:
            yield attempt
        finally:
            attempt.end()
            self._current = None


class _Child:
    """The child's main loop: loads the objective, then trains every job until the parent is gone."""

    def __init__(self, parent: _Parent, marks: Marks) -> None:
        self._parent, self._marks, self._pid = parent, marks, os.getpid()
        self._objective: Objective | None = None
        self._function: Callable[..., Any] = lambda trial: None

    def live(self) -> None:
        while True:
            number, message = self._parent.inbox.get()
            self._marks.write("begin", number)
            left = ""
            try:
                outcome, left = self._obey(number, message)
            except Exception as error:  # from the setup or cleanup; train reports the objective's own errors
                outcome = Failed(shown(error), details=traceback.format_exc())
            flush()
            self._marks.write("end", number)
            self._parent.send(number, Ended(outcome, resident_bytes(self._pid), left))

    def _obey(self, number: int, message: Message | Unreadable) -> tuple[Loaded | Unloadable | Done | Failed, str]:
        """Do what a message asks for.

        Returns:
            The outcome, and the changes to the process that could not be undone.
        """
        match message:
            case Preload(objective):
                try:
                    self._load(objective)
                except InputError as error:
                    return Unloadable(error.field, error.problem, error.remedy), ""
                return Loaded(), ""
            case Train(job):
                try:
                    self._load(job.objective)
                except InputError as error:
                    return Failed(str(error), details=traceback.format_exc()), ""
                with self._parent.attempt(number) as attempt:
                    return self._train(job, attempt)
        return Failed(f"the worker process cannot read its trial: {message}"), ""

    def _train(self, job: Job, attempt: Attempt) -> tuple[Done | Failed, str]:
        """Train, then restore the state of the process."""
        with logging_to_run(job, attempt):
            put_back = remember()
            try:
                seed_all(job.seed)
                outcome = train(job, self._function, attempt)
            finally:
                if os.getpid() != self._pid:
                    os._exit(0)  # a fork by the objective that returned from it; only the original reports the trial
                left = put_back()
        if isinstance(outcome, Failed) and outcome.reason.startswith(OUT_OF_GPU_MEMORY):
            left = left or OUT_OF_GPU_MEMORY  # so that the process is replaced: frameworks keep what they have taken
        return outcome, left

    def _load(self, objective: Objective) -> None:
        # Only once, so that a function sent by value keeps its caches, such as its data, from trial to trial.
        if self._objective != objective:
            self._function, self._objective = objective.load(), objective


def main(token: str, descriptor: int) -> None:
    """Run a worker process.

    Args:
        token: Makes the marks in the output unique; see :class:`hpo_flows.workers.output.Output`.
        descriptor: The file descriptor of the pipe.
    """
    if (share := os.environ.get(SHARE)) is not None:
        bound_memory(float(share))
    faulthandler.enable()  # so that a crash leaves a traceback and not only a signal's name
    _Child(_Parent(Connection(descriptor)), Marks(token)).live()


if __name__ == "__main__":
    # Imported under its real name, so that classes unpickled here are the ones that the parent pickled.
    from hpo_flows.workers.child import main as _main

    _main(sys.argv[1], int(sys.argv[2]))
