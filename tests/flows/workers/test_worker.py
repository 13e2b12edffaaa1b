"""Workers and their pool: an answer belongs to the attempt that asked for it, whatever happens to either side."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.messages import DatasetUsed, Done, Ended, Failed, Report, Train, Use
from hpo_flows.objectives.reference import Objective
from hpo_flows.workers import worker as worker_module
from hpo_flows.workers.channel import Channel, Unreadable, shown
from hpo_flows.workers.job import Job, TrialCancelled, TrialFailed
from hpo_flows.workers.pool import WorkerPool

OBJECTIVE = Objective("tests.flows.workers.test_worker:answers", (str(Path(__file__).parents[3]),))


def job(number: int, folder: Path = Path("/dev/null/nowhere"), **config: Any) -> Job:
    return Job(OBJECTIVE, {"loss": 1}, config, number, seed=0, fidelity=None, folder=folder)


# -- a pool in which the children are played --------------------------------------------------------------------


class PlayedProcess:
    """A worker process played by a thread: whatever trial it is given, it does what the plan of its number says."""

    pids = itertools.count(1)
    alive: dict[int, PlayedProcess] = {}  # noqa: RUF012

    def __init__(self, command: list[str], **options: Any) -> None:
        self.pid, self.returncode = next(self.pids), None
        self.stdout = io.BytesIO()
        self.channel = Channel(Connection(os.dup(int(command[-1]))))
        self.socket = socket.socket(fileno=os.dup(int(command[-1])))
        self.alive[self.pid] = self
        self.trained: list[int] = []
        threading.Thread(target=self.live, daemon=True).start()

    def live(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                attempt, message = self.channel.receive()
                if isinstance(message, Train):
                    number = message.job.number
                    self.trained.append(number)
                    for kind in PLANS[number].child:
                        self.play(kind, attempt, number)

    def play(self, kind: str, attempt: int, number: int) -> None:
        done = Ended(Done({"loss": float(number)}), 1)
        match kind:
            case "report":
                self.channel.send(attempt, Report(0, {}))
            case "done":
                self.channel.send(attempt, done)
            case "failed":
                self.channel.send(attempt, Ended(Failed(f"of trial {number}"), 1))
            case "an older one's answer":
                self.channel.send(attempt - 1, Ended(Done({"loss": float(number - 1)}), 1))
            case "die":
                self.end()

    def end(self) -> None:
        self.returncode = -9
        with contextlib.suppress(OSError):  # twice, or the parent has closed its end
            self.socket.shutdown(socket.SHUT_RDWR)  # as seen from the other end, what the death of a process does

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> int:
        assert self.returncode is not None, "waited for a process that nobody has ended"
        return self.returncode


@dataclass
class Plan:
    """What a trial's child does once it is given the trial, and when its supervisor leaves."""

    child: list[str]
    raises_at: int | None
    """At which report the supervisor raises, from 0."""
    cancelled: bool = False
    seen: list[Any] = field(default_factory=list)


PLANS: list[Plan] = []


@contextlib.contextmanager
def played(plans: list[Plan]) -> Iterator[None]:
    def killpg(pid: int, number: int) -> None:
        PlayedProcess.alive[pid].end()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module.subprocess, "Popen", PlayedProcess)
        patch.setattr(worker_module.os, "killpg", killpg)
        patch.setattr(worker_module, "WATCH_SECONDS", 0.005)
        PLANS[:] = plans
        yield


CHILD = st.sampled_from(["report", "report", "done", "failed", "an older one's answer", "die"])
TRIALS = st.lists(
    st.builds(
        Plan,
        st.lists(CHILD, max_size=4).map(lambda plan: [*plan, "done"]),  # and perhaps again: a copy that was forked
        st.none() | st.integers(0, 2),
        st.booleans().flatmap(lambda rare: st.booleans() if rare else st.just(False)),
    ),
    min_size=2,
    max_size=5,
)


class LeftEarlyError(Exception):
    """As when MLflow refuses what a trial logs."""


@given(TRIALS)
def test_no_answer_is_taken_for_another_trials(plans: list[Plan]) -> None:
    """All interleavings of raise, kill, death, late and double answer, over one worker that is replaced at need."""
    with played(plans), WorkerPool(1, OBJECTIVE) as pool:
        for number, plan in enumerate(plans):
            reports = itertools.count()

            def receive(message: Any, plan: Plan = plan, reports: Iterator[int] = reports) -> None:
                if isinstance(message, Report) and next(reports) == plan.raises_at:
                    raise LeftEarlyError

            cancelled = threading.Event()
            if plan.cancelled:
                cancelled.set()
            try:
                with pool.worker() as worker:
                    process: Any = worker.process
                    metrics = worker.run(job(number), timeout=None, on_message=receive, cancelled=cancelled)
            except LeftEarlyError:
                assert process.returncode is not None, "its worker may still train"
            except TrialCancelled:
                assert plan.cancelled
                assert process.returncode is not None
            except TrialFailed as error:
                assert error.reason in (f"of trial {number}", "its process was killed by SIGKILL")
            else:
                assert metrics == {"loss": float(number)}
            # One that ends after its answer may be given the next trial, and is gone before it reads that.
            gone = process.returncode is not None
            assert process.trained[-1:] in ([number], []) or gone, "another one's worker"


# -- real processes ---------------------------------------------------------------------------------------------


class Hostile:
    """Cannot be unpickled anywhere but where it was made."""

    def __reduce__(self) -> Any:
        return (_refuse, ())


def _refuse() -> None:
    raise ModuleNotFoundError("no module of that name here")


class UnshowableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def answers(trial: TrialContext) -> Any:
    return BEHAVIOUR[str(trial.config["how"])](trial)


def _forks(trial: TrialContext) -> float:
    if os.fork() == 0:
        return -1.0  # a copy that forgets to end
    os.wait()
    return float(trial.number)


def _thread_goes_on(trial: TrialContext) -> float:
    def report() -> None:
        for step in range(10**6):
            trial.report(step, {"ghost": 1.0})
            time.sleep(0.001)

    threading.Thread(target=report, daemon=True).start()
    time.sleep(0.05)
    return float(trial.number)


def _unshowable(trial: TrialContext) -> float:
    raise UnshowableError


def _sends_what_nobody_reads(trial: TrialContext) -> float:
    trial._send(DatasetUsed(Hostile()))
    time.sleep(600)
    return 0.0


def _reports_without_pause(trial: TrialContext) -> float:
    for step in itertools.count():
        trial.report(step, {"loss": 1.0})
    return 0.0


BEHAVIOUR: dict[str, Callable[[TrialContext], Any]] = {
    "number": lambda trial: float(trial.number),
    "fork": _forks,
    "thread": _thread_goes_on,
    "unshowable": _unshowable,
    "surrogate": lambda trial: exec("raise ValueError('caf\\udcff')"),
    "unreadable": _sends_what_nobody_reads,
    "without pause": _reports_without_pause,
}


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1, OBJECTIVE) as pool:
        yield pool


class Run:
    """Trains one after another in one worker, if that lives."""

    def __init__(self, pool: WorkerPool, folder: Path) -> None:
        self.pool, self.folder = pool, folder
        self.numbers = itertools.count(1)

    def __call__(self, how: str, **options: Any) -> dict[str, float]:
        number = next(self.numbers)
        folder = self.folder / str(number)
        options = {"timeout": None, "on_message": self.seen.append} | options
        with self.pool.worker() as worker:
            return worker.run(job(number, folder, how=how), **options)

    seen: list[Any] = []  # noqa: RUF012


@pytest.fixture
def train(pool: WorkerPool, tmp_path: Path) -> Run:
    Run.seen = []
    return Run(pool, tmp_path)


def test_a_copy_that_the_objective_forked_answers_for_nobody(train: Run) -> None:
    assert train("fork") == {"loss": 1.0}
    assert train("number") == {"loss": 2.0}


def test_a_thread_that_outlives_its_trial_is_heard_no_more(train: Run) -> None:
    assert train("thread") == {"loss": 1.0}
    heard = len(train.seen)
    assert heard > 1
    assert train("number") == {"loss": 2.0}
    assert [type(message) for message in train.seen[heard:]] == [Use]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("unshowable", "UnshowableError: (its text cannot be shown)"),
        ("surrogate", "ValueError: caf\udcff"),
        ("unreadable", "what it sent cannot be read here: ModuleNotFoundError: no module of that name here"),
    ],
)
def test_an_error_on_either_side_of_the_pipe_ends_the_trial_with_its_text(train: Run, how: str, reason: str) -> None:
    with pytest.raises(TrialFailed) as caught:
        train(how)
    assert caught.value.reason == reason
    assert train("number") == {"loss": 2.0}


def test_what_a_worker_cannot_read_ends_the_trial_with_its_text(train: Run) -> None:
    with pytest.raises(TrialFailed, match="cannot read its trial: ModuleNotFoundError: no module of that name"):
        with train.pool.worker() as worker:
            worker.run(job(1, train.folder, hostile=Hostile()), timeout=None, on_message=train.seen.append)
    with pytest.raises(TrialFailed, match="cannot be sent to a worker process: "), train.pool.worker() as worker:
        worker.run(job(1, train.folder, lock=threading.Lock()), timeout=None, on_message=train.seen.append)
    assert train("number") == {"loss": 1.0}


def test_time_is_up_whatever_arrives(train: Run) -> None:
    with pytest.raises(TrialFailed, match="timed out after 2 s"):
        train("without pause", timeout=2)


def test_time_is_up_even_while_the_supervisor_waits_for_somebody_else(train: Run) -> None:
    """As when MLflow's server accepts a request and never responds to it."""
    released = threading.Event()
    with train.pool.worker() as worker:
        worker.check()  # so that its two seconds are the trial's own

        def wait(message: Any) -> None:
            worker.process.wait()  # else for ever
            released.set()

        with pytest.raises(TrialFailed, match="timed out"):
            worker.run(job(1, train.folder, how="without pause"), timeout=2, on_message=wait)
    assert released.is_set()


def test_a_cancelled_trial_is_ended_whatever_arrives(train: Run) -> None:
    cancelled = threading.Event()
    with pytest.raises(TrialCancelled):
        train("without pause", cancelled=cancelled, on_message=lambda message: cancelled.set())


def test_an_error_of_the_supervisor_is_not_taken_for_the_workers(train: Run) -> None:
    def refuse(message: Any) -> None:
        raise ConnectionError("MLflow does not respond")

    with pytest.raises(ConnectionError, match="MLflow"):
        train("without pause", on_message=refuse)
    assert train("number") == {"loss": 2.0}


def test_a_channel_says_whose_message_it_cannot_read() -> None:
    ours, theirs = (Channel(end) for end in Pipe())
    theirs.send(3, DatasetUsed(Hostile()))
    theirs.send(4, Use())
    with pytest.raises(Unreadable) as caught:
        ours.receive()
    assert caught.value.attempt == 3
    assert ours.receive() == (4, Use())
    with pytest.raises((TypeError, pickle.PicklingError)):
        theirs.send(5, DatasetUsed(threading.Lock()))
    assert not ours.poll(0)


def test_an_exception_is_shown_whatever_its_text_does() -> None:
    assert shown(UnshowableError()) == "UnshowableError: (its text cannot be shown)"
    assert shown(KeyError()) == "KeyError"
    assert len(shown(ValueError("x" * 10**6))) <= 600
