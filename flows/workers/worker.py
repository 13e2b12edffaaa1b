"""Starts, supervises and kills worker processes. Each trains one trial at a time, and many in its life.

Trials run in separate processes to contain TensorFlow's memory, seeds and crashes. A process is reused, because
importing TensorFlow takes longer than many trainings. It is started as a fresh interpreter: a fork hangs once
TensorFlow has started, and ``multiprocessing``'s spawn would run the user's script again. It gets its own session, so
that a terminal's Ctrl-C does not reach it, and killing its process group also ends what the objective started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import partial
from multiprocessing.connection import Pipe
from typing import TypeVar

from hpo_core.base.errors import InputError
from hpo_flows.objectives.messages import (
    Answer,
    Ended,
    Failed,
    FromObjective,
    Message,
    Preload,
    Train,
    Unloadable,
)
from hpo_flows.objectives.reference import Objective
from hpo_flows.workers.attempt import result_of, supervise
from hpo_flows.workers.channel import Channel, Unreadable, shown
from hpo_flows.workers.job import Flag, Job, TrialFailed
from hpo_flows.workers.output import Output
from hpo_flows.workers.output import log as output
from hpo_flows.workers.watchdog import WATCH_SECONDS, Watchdog

MAX_TRIALS = 50

MAX_GROWTH = 1 << 30
"""A worker is replaced after ``MAX_TRIALS`` trials, or once it has grown by ``MAX_GROWTH`` bytes since its first trial:
TensorFlow leaks some 6 MiB per training, except in those of :mod:`hpo_flows.keras`."""

T = TypeVar("T")


class Worker:
    """The parent's side of a child process that trains.

    A worker is *free* once it has reported the end of its last attempt. Only then may it get another; if the supervisor
    leaves an attempt earlier, for whatever reason, it kills the worker.

    Args:
        path: The child's ``sys.path``.
        slot: The slot it serves, from 0.
        variables: Its environment variables beyond this process's own.
    """

    def __init__(self, path: list[str], slot: int, variables: Mapping[str, str]) -> None:
        self.slot, self.variables = slot, variables
        ours, theirs = Pipe()
        token = secrets.token_hex(16)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"} | dict(variables)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hpo_flows.workers.child", token, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=environment,
        )
        theirs.close()
        self._channel = Channel(ours)
        self._attempt = 0
        self._free = True
        self.first_size = 0
        self.size = 0
        self._left = ""
        assert self.process.stdout is not None
        self._output = Output(self.process.stdout, token)

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """The end of what the process has printed since its current trial started."""
        return self._output.end()

    def printed(self) -> str:
        """The output of the last trial; if it is long, its beginning and its end."""
        return self._output.text()

    def preload(self, objective: Objective) -> None:
        """Make the process import the objective's module while there is nothing to train yet."""
        self._channel.send(0, Preload(objective))

    def check(self, timeout: float | None = None) -> None:
        """Wait until the objective is imported.

        Args:
            timeout: Seconds after which the process is killed; None waits without limit.

        Raises:
            InputError: The import fails or takes longer.
        """
        try:
            if not self._channel.poll(timeout):
                self.kill()
                raise InputError("objective", f"importing it takes longer than {timeout:g} s", "correct it there")
            _, message = self._channel.receive()
        except (EOFError, OSError):
            self.kill()
            reason = f"importing the objective: {_how_it_ended(self.process.wait())}\n{self.output()[-2000:]}"
            raise InputError("objective", reason, "correct it there") from None
        match message:
            case Ended(Unloadable(field, problem, remedy)):
                raise InputError(field, problem, remedy)
            case Ended(Failed(reason)):
                raise InputError("objective", reason, "correct it there")

    def run(
        self,
        job: Job,
        *,
        timeout: float | None,
        memory_limit: int | None = None,
        on_message: Callable[[FromObjective], bool | None],
        on_tick: Callable[[], None] = lambda: None,
        cancelled: Flag | None = None,
    ) -> dict[str, float]:
        """Train one trial and return its metrics. The study's metric is among them and finite.

        Args:
            job: What to train.
            timeout: Seconds after which the process is killed.
            memory_limit: Bytes that the process and its descendants may hold before it is killed.
            on_message: Called with each report, fold, artifact, dataset and usage note, in order. For a report at a
                milestone, and for a fold that asks, it returns whether to continue.
            on_tick: Called about once a second.
            cancelled: The process is killed when this is set.

        Raises:
            TrialFailed: The objective raised, died, hung or returned no value.
            TrialCancelled: ``cancelled`` was set.
            Exception: Whatever ``on_message`` and ``on_tick`` raise.
        """
        self._attempt += 1
        self._free = False
        streamed = output.isEnabledFor(logging.INFO)
        # In this thread's context, which knows whose progress shows the lines.
        echo = partial(copy_context().run, output.info, "trial %d | %s", job.number)
        self._output.expect(self._attempt, echo if streamed else None)
        try:
            with Watchdog(self, timeout, memory_limit, cancelled) as watchdog:
                return self._supervise(job, on_message, on_tick, watchdog)
        finally:
            if not self._free:
                self.kill()  # it may still be training, and its result would be taken for the next trial's

    def _supervise(
        self,
        job: Job,
        on_message: Callable[[FromObjective], bool | None],
        on_tick: Callable[[], None],
        watchdog: Watchdog,
    ) -> dict[str, float]:
        attempt = self._attempt

        def send(message: Train | Answer) -> None:
            self._with_child(lambda: self._channel.send(attempt, message), watchdog)

        send(Train(job))
        ended = supervise(lambda: self._with_child(lambda: self._next(attempt), watchdog), send, on_message, on_tick)
        self._release(ended)
        return result_of(ended)

    def _next(self, attempt: int) -> Message | None:
        """The next message of an attempt; None if none came, or only one of another attempt."""
        if self._channel.poll(WATCH_SECONDS):
            whose, message = self._channel.receive()
            if whose == attempt:
                return message
        return None

    def _with_child(self, action: Callable[[], T], watchdog: Watchdog) -> T:
        """Use the pipe to the child; if that fails, raise how the child ended.

        Wrap nothing else in it: an ``OSError`` may also come from MLflow, and must not be blamed on the child.
        """
        try:
            done = action()
        except (EOFError, OSError):
            self.kill()
            watchdog.bark(dead=True)
            raise TrialFailed(_how_it_ended(self.process.wait()), retry=True, details=self.output()) from None
        except Unreadable as error:
            raise TrialFailed(f"what it sent cannot be read here: {error}", retry=False) from None
        except Exception as error:
            raise TrialFailed(f"it cannot be sent to a worker process: {shown(error)}", retry=False) from None
        watchdog.bark()
        return done

    def _release(self, message: Ended) -> None:
        self._free = self._output.settle()
        self.size, self._left = message.size, message.left
        self.first_size = self.first_size or self.size

    @property
    def worn(self) -> bool:
        """Whether the next trial should get a fresh process."""
        used_up = self._attempt >= MAX_TRIALS or self.size - self.first_size > MAX_GROWTH
        return self.process.poll() is not None or not self._free or bool(self._left) or used_up

    def end(self) -> None:
        """Kill the process and all that it started, without waiting. Any thread may call this."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS raises the second if the group is gone
            os.killpg(self.process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill the process and all that it started, and wait until it is gone."""
        self.end()
        self.process.wait()
        self._output.join(timeout=5)
        self._channel.close()


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"
