"""Worker processes: each trains one trial at a time, lives for many, and can be killed alone.

A trial runs in a process of its own making because TensorFlow's memory, seeds and crashes have to stay inside
something; the process lives on because importing TensorFlow takes longer than many trainings. It is started as a
fresh interpreter (a fork after TensorFlow's start hangs, and ``multiprocessing``'s spawn would run the user's script
again) in a session of its own, so that a terminal's Ctrl-C does not reach it and killing its process group takes along
what the objective started.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from flows.context import MissingMetric, TrialContext, as_result
from flows.objective import Objective
from hpo_core.configuration import Scalar
from hpo_core.errors import InputError
from hpo_core.milestones import Milestones
from hpo_core.trial import Fold, Phase

MAX_TRIALS = 50
MAX_GROWTH = 1 << 30
"""A worker is replaced after so many trials, or once it has grown by so many bytes since its first one: TensorFlow
keeps some 6 MiB of a training for good, unless it is one of :mod:`flows.keras`."""

MEMORY_SECONDS = 0.5
"""How often a trial's memory is looked at, if it has a limit."""

OUTPUT_CHUNK = 65_536
"""Of what a trial prints the last chunk or two are kept; an objective may print a gigabyte."""


@dataclass(frozen=True)
class Job:
    """One attempt at one trial, as a worker needs it.

    Args:
        objective: What to call.
        metric: The study's metric.
        config, number, seed, fidelity: The trial.
        folder: A folder of the attempt's own.
        resume_from: The folder with the parent trial's checkpoint, if it goes on from one.
        milestones: At how many steps the trial asks whether to go on; None: never.
        callbacks: The study's callbacks, as plain data.
        phase, fold: What it is trained for.
        champion: The folder of the model that is to be scored instead, in phase ``champion``.
        sign: +1 if the metric is minimised, -1 if it is maximised.
        to_beat: The trial is the best so far if its loss is lower.
    """

    objective: Objective
    metric: str
    config: Mapping[str, Scalar]
    number: int
    seed: int
    fidelity: float | None
    folder: Path
    resume_from: Path | None = None
    milestones: Milestones | None = None
    callbacks: Sequence[Mapping[str, Mapping[str, Any]]] = ()
    phase: Phase = "search"
    fold: Fold | None = None
    champion: Path | None = None
    sign: int = 1
    to_beat: float = -math.inf


class TrialFailed(Exception):
    """A trial that gave no value.

    Args:
        reason: One line for people.
        retry: Whether another attempt may do better (a crash may; a NaN or a timeout comes again).
        details: A traceback or what the trial printed last; may be empty.
        misfit: The key of the study that is to blame rather than this trial, such as ``metric`` if the objective does
            not return that at all; empty if none is.
    """

    def __init__(self, reason: str, *, retry: bool, details: str = "", misfit: str = "") -> None:
        super().__init__(reason)
        self.reason, self.retry, self.details, self.misfit = reason, retry, details, misfit


class TrialCancelled(Exception):
    """The flow is being stopped; the trial was killed for it."""


class Flag(Protocol):
    """What says that a trial is to be killed, such as a :class:`threading.Event`."""

    def is_set(self) -> bool: ...


class Worker:
    """A child process that trains, seen from its parent.

    Args:
        path: Its ``sys.path``.
        slot: Which of the trials at a time are its own, from 0.
        variables: What its environment has beyond this process's.
    """

    def __init__(self, path: list[str], slot: int, variables: Mapping[str, str]) -> None:
        self.slot = slot
        self._connection, theirs = Pipe()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"} | dict(variables)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.worker", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=environment,
        )
        theirs.close()
        self.trials = 0
        self.first_size = 0
        self.size = 0
        self._output: deque[bytes] = deque(maxlen=2)
        self._drain = threading.Thread(target=self._read_output, daemon=True)
        self._drain.start()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            while chunk := stream.read1(OUTPUT_CHUNK):  # type: ignore[attr-defined]
                self._output.append(chunk)

    def output(self) -> str:
        """The end of what the process has printed since its current trial began."""
        return b"".join(self._output).decode(errors="replace")

    def preload(self, objective: Objective) -> None:
        """Let the process import the objective's module while there is nothing to train yet."""
        self._connection.send({"kind": "preload", "objective": objective})

    def check(self, timeout: float | None = None) -> None:
        """Wait until the objective is imported.

        Args:
            timeout: Seconds after which the process is killed; None to wait as long as it takes.

        Raises:
            InputError: It cannot be, or takes longer.
        """
        try:
            if not self._connection.poll(timeout):
                self.kill()
                raise InputError("objective", f"importing it takes longer than {timeout:g} s", "correct it there")
            message = self._connection.recv()
        except (EOFError, OSError):
            self.kill()
            reason = f"importing the objective: {_how_it_ended(self.process.wait())}\n{self.output()[-2000:]}"
            raise InputError("objective", reason, "correct it there") from None
        if message["kind"] == "unloadable":
            raise InputError(message["field"], message["problem"], message["remedy"])

    def run(
        self,
        job: Job,
        *,
        timeout: float | None,
        memory_limit: int | None = None,
        on_message: Callable[[Mapping[str, Any]], bool | None],
        on_tick: Callable[[], None] = lambda: None,
        cancelled: Flag | None = None,
    ) -> dict[str, float]:
        """Train one trial and answer its metrics, among which the study's is finite.

        Args:
            job: What to train.
            timeout: Seconds after which the process is killed.
            memory_limit: Bytes that the process and what it started may hold before it is killed.
            on_message: Called with each report, artifact, data set and note on what was used, in order. Of a report
                at a milestone it answers whether to go on.
            on_tick: Called about once a second.
            cancelled: When set, the process is killed.

        Raises:
            TrialFailed: It raised, died, hung or returned no value. After a death, the worker is closed.
            TrialCancelled: ``cancelled`` was set.
        """
        self._output.clear()
        self.trials += 1
        started = look_at_memory = time.monotonic()
        try:
            self._connection.send({"kind": "train", "job": job})
            while True:
                if self._connection.poll(0.25 if timeout is None or timeout > 2 else 0.02):
                    message = self._connection.recv()
                    if message["kind"] == "done":
                        self._note_size(message["size"])
                        return message["metrics"]  # type: ignore[no-any-return]
                    if message["kind"] == "failed":
                        self._note_size(message["size"])
                        del message["kind"], message["size"]
                        raise TrialFailed(**message)
                    if message["kind"] in ("report", "artifact", "dataset", "use"):
                        go_on = on_message(message)
                        if "milestone" in message:
                            self._connection.send({"kind": "answer", "go_on": go_on is not False})
                elif cancelled is not None and cancelled.is_set():
                    self.kill()
                    raise TrialCancelled
                elif timeout is not None and time.monotonic() - started > timeout:
                    self.kill()
                    raise TrialFailed(f"timed out after {timeout:g} s", retry=False, details=self.output())
                if memory_limit is not None and time.monotonic() > look_at_memory:
                    look_at_memory = time.monotonic() + MEMORY_SECONDS
                    if (held := resident_bytes(self.process.pid)) > memory_limit:
                        self.kill()
                        limit = f"the memory_limit of {memory_limit / 2**20:.0f} MiB"
                        reason = f"held {held / 2**20:.0f} MiB, above {limit}"
                        raise TrialFailed(reason, retry=False, details=self.output())
                on_tick()
        except (EOFError, OSError):
            self.kill()
            if cancelled is not None and cancelled.is_set():
                raise TrialCancelled from None
            raise TrialFailed(_how_it_ended(self.process.wait()), retry=True, details=self.output()) from None

    def _note_size(self, size: int) -> None:
        self.size = size
        self.first_size = self.first_size or size

    @property
    def worn(self) -> bool:
        """Whether the next trial should get a fresh process."""
        dead = self.process.poll() is not None
        return dead or self.trials >= MAX_TRIALS or self.size - self.first_size > MAX_GROWTH

    def kill(self) -> None:
        """End the process and all that it started, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._drain.join(timeout=5)
        self._connection.close()


def resident_bytes(pid: int) -> int:
    """What a process and its descendants hold in memory; 0 if it is gone."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
    return total


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


class WorkerPool:
    """As many workers as trials run at a time.

    Args:
        size: How many are started at once; a further one starts when all are taken.
        objective: Imported by the workers as soon as they start.
        variables: What the environment of the workers of a slot has beyond this process's.
    """

    def __init__(
        self, size: int, objective: Objective, variables: Callable[[int], Mapping[str, str]] = lambda slot: {}
    ) -> None:
        self._objective, self._variables = objective, variables
        self._path = [*objective.path, *(folder for folder in sys.path if folder not in objective.path)]
        self._path = [os.path.abspath(folder) for folder in self._path]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self._all: dict[int, Worker] = {}  # by slot
        self._lock = threading.Lock()
        self.cancelled = threading.Event()
        for _ in range(size):
            self._idle.put(self._start())

    def _start(self) -> Worker:
        """A worker for the first slot that has none."""
        with self._lock:
            slot = next(number for number in range(len(self._all) + 1) if number not in self._all)
            worker = self._all[slot] = Worker(self._path, slot, self._variables(slot))
        with contextlib.suppress(ConnectionError):
            worker.preload(self._objective)
        return worker

    def check(self, timeout: float | None = None) -> None:
        """Wait until a worker has imported the objective.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Raises:
            InputError: It cannot be imported.
        """
        with self.worker() as worker:
            worker.check(timeout)

    @contextlib.contextmanager
    def worker(self) -> Iterator[Worker]:
        """A worker for one trial; replaced behind it if it is dead or worn."""
        try:
            worker = self._idle.get_nowait()
        except Empty:
            worker = self._start()
        try:
            yield worker
        finally:
            if worker.worn and not self.cancelled.is_set():
                worker.kill()
                with self._lock:
                    del self._all[worker.slot]
                worker = self._start()
            self._idle.put(worker)

    def close(self) -> None:
        """End all workers."""
        self.cancelled.set()
        with self._lock:
            for worker in self._all.values():
                worker.kill()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


# -- the child's side -------------------------------------------------------------------------------------------


class _Parent:
    """The pipe to the parent, as the child uses it; the child ends when the parent does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.inbox: SimpleQueue[dict[str, Any]] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                self.inbox.put(self._connection.recv())
            except (EOFError, OSError):
                os.killpg(0, signal.SIGKILL)  # the flow is gone, and so is whoever could take the result

    def send(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._connection.send(message)


def _train(job: Job, function: Callable[..., Any], parent: _Parent) -> dict[str, Any]:
    scratch, outbox = job.folder / "scratch", job.folder / "outbox"
    scratch.mkdir(parents=True, exist_ok=True)
    context = TrialContext(
        config=job.config,
        number=job.number,
        seed=job.seed,
        fidelity=job.fidelity,
        scratch=scratch,
        outbox=outbox,
        send=parent.send,
        resume_from=job.resume_from,
        milestones=job.milestones,
        answer=lambda: bool(parent.inbox.get()["go_on"]),
        callbacks=job.callbacks,
        phase=job.phase,
        fold=job.fold,
        champion=job.champion,
    )
    try:
        returned = function(context)
    except InputError as error:
        answer = {"kind": "failed", "reason": str(error), "retry": False, "details": traceback.format_exc()}
        return answer | {"misfit": error.field}
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        return {
            "kind": "failed",
            "reason": f"{type(error).__name__}: {text}",
            "retry": True,
            "details": traceback.format_exc(),
        }
    except SystemExit as error:
        return {
            "kind": "failed",
            "reason": f"the objective called sys.exit({error.code})",
            "retry": True,
            "details": "",
        }
    finally:
        parent.send(context.use)
    try:
        metrics = as_result(returned, job.metric)
        if job.objective.needs_hypergradient:
            context.check_hypergradient(metrics)
    except ValueError as error:
        misfit = "metric" if isinstance(error, MissingMetric) else ""
        return {"kind": "failed", "reason": str(error), "retry": False, "details": "", "misfit": misfit}
    if job.sign * metrics[job.metric] < job.to_beat:
        context.finish_best()
    return {"kind": "done", "metrics": metrics}


def main(descriptor: int) -> None:
    """The child's life: preload, then train whatever comes until the parent is gone."""
    parent = _Parent(Connection(descriptor))
    objective: Objective | None = None
    while True:
        message = parent.inbox.get()
        job: Job | None = message.get("job")
        try:
            # Loaded once: a function that came by value keeps what it caches, such as its data, from trial to trial.
            wanted = message["objective"] if job is None else job.objective
            if objective != wanted:
                function, objective = wanted.load(), wanted
        except InputError as error:
            answer: dict[str, Any] = {"kind": "unloadable"} | {
                "field": error.field,
                "problem": error.problem,
                "remedy": error.remedy,
            }
            if job is not None:
                answer = {"kind": "failed", "reason": str(error), "retry": False, "details": traceback.format_exc()}
        else:
            answer = {"kind": "loaded"} if job is None else _train(job, function, parent)
        parent.send(answer | {"size": resident_bytes(os.getpid())})


if __name__ == "__main__":
    # As a module of its real name, so that classes unpickled here are the ones that the parent pickled.
    from flows.worker import main as _main

    _main(int(sys.argv[1]))
