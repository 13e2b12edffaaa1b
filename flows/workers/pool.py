"""Keeps a pool of worker processes: starts them, hands them out for one trial each, and replaces worn ones."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Any

from hpo_flows.objectives.by_value import SCRIPT
from hpo_flows.objectives.reference import Objective
from hpo_flows.workers.output import log as output
from hpo_flows.workers.worker import Worker


class WorkerPool:
    """A pool with one worker per parallel trial.

    Args:
        size: How many workers to start now. One more is started whenever all are taken.
        objective: Imported by the workers as soon as they start.
        variables: Given a slot, the environment variables of its workers beyond this process's own.
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
        self._script = _script_file(objective)
        for _ in range(size):
            self._idle.put(self._start())

    def _start(self) -> Worker:
        """Start a worker for the first slot that has none."""
        with self._lock:  # two trials that start at once must not get the same slot, and so the same GPUs
            slot = next(number for number in range(len(self._all) + 1) if number not in self._all)
            variables = dict(self._variables(slot)) | ({SCRIPT: self._script.name} if self._script is not None else {})
            worker = self._all[slot] = Worker(self._path, slot, variables)
        with contextlib.suppress(ConnectionError):
            worker.preload(self._objective)
        return worker

    @property
    def shows_output(self) -> bool:
        """Whether what trials print is shown as they run."""
        return output.isEnabledFor(logging.INFO)

    def check(self, timeout: float | None = None) -> None:
        """Wait until a worker has imported the objective.

        Args:
            timeout: The longest wait in seconds; None waits without limit.

        Raises:
            InputError: The objective cannot be imported.
        """
        with self.worker() as worker:
            worker.check(timeout)

    @contextlib.contextmanager
    def worker(self) -> Iterator[Worker]:
        """Lend a worker for one trial. A worker that is dead or worn is replaced, before the trial and after it."""
        try:
            worker = self._fresh(self._idle.get_nowait())
        except Empty:
            worker = self._start()
        try:
            yield worker
        finally:
            self._idle.put(self._fresh(worker))

    def _fresh(self, worker: Worker) -> Worker:
        """The worker itself, or another one for its slot if it is dead or worn."""
        if self.cancelled.is_set() or not worker.worn:
            return worker
        worker.kill()
        with self._lock:
            del self._all[worker.slot]
        return self._start()

    def close(self) -> None:
        """End all workers."""
        self.cancelled.set()
        with self._lock:
            for worker in self._all.values():
                worker.kill()
        if self._script is not None:
            self._script.close()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _script_file(objective: Objective) -> Any:
    """The file from which processes spawned by the objective read its script; None if it comes from a module."""
    if objective.pickled is None:
        return None
    with contextlib.suppress(OSError):  # if the disk is full, only objectives that spawn processes fail
        file = tempfile.NamedTemporaryFile(prefix="hpo-script-")
        file.write(objective.pickled)
        file.flush()
        return file
    return None
