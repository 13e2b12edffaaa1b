"""Ends a trial that runs too long, holds too much memory or is cancelled, whatever its worker is doing.

psutil is imported only when a process's memory is measured.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, Protocol, Self

from hpo_flows.workers.job import Flag, TrialCancelled, TrialFailed

WATCH_SECONDS = 0.25
"""How often the clock is checked while a trial runs."""

MEMORY_SECONDS = 0.5
"""How often a trial's memory is measured, if it has a limit."""


class Watched(Protocol):
    """What the watchdog needs from a worker."""

    @property
    def pid(self) -> int: ...

    def end(self) -> None: ...

    def kill(self) -> None: ...

    def output(self) -> str: ...


class Watchdog:
    """Watches a trial's time, memory and cancellation in its own thread.

    The thread is needed because the supervising thread may be busy with a trial that reports without pause, or may wait
    for a server.

    Args:
        worker: The worker that trains.
        timeout: Seconds after which the trial is ended; None for never.
        memory_limit: Bytes that it may hold; None for no limit.
        cancelled: The trial is ended when this is set.
    """

    def __init__(
        self, worker: Watched, timeout: float | None, memory_limit: int | None, cancelled: Flag | None
    ) -> None:
        self._worker, self._timeout, self._memory_limit, self._cancelled = worker, timeout, memory_limit, cancelled
        self._started = self._look_at_memory = time.monotonic()
        self._over = threading.Event()
        self._verdict: TrialFailed | TrialCancelled | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def bark(self, *, dead: bool = False) -> None:
        """Raise the reason for which the worker was ended, if it was.

        Args:
            dead: The worker is gone. If the trial is cancelled, that is the reason, since cancelling all trials may end
                the workers directly.
        """
        if self._verdict is None and dead and self._cancelled is not None and self._cancelled.is_set():
            self._verdict = TrialCancelled()
        if self._verdict is None:
            return
        self._worker.kill()
        if isinstance(self._verdict, TrialFailed):
            self._verdict.details = self._worker.output()
        raise self._verdict

    def _watch(self) -> None:
        period = WATCH_SECONDS if self._timeout is None else min(WATCH_SECONDS, self._timeout / 10)
        while not self._over.wait(period):
            if (verdict := self._judge()) is not None:
                self._verdict = verdict  # set before the kill, so that the supervisor knows why the worker died
                self._worker.end()
                return

    def _judge(self) -> TrialFailed | TrialCancelled | None:
        now = time.monotonic()
        if self._timeout is not None and now - self._started > self._timeout:
            return TrialFailed(f"timed out after {self._timeout:g} s", retry=False)
        if self._memory_limit is not None and now >= self._look_at_memory:
            self._look_at_memory = now + MEMORY_SECONDS
            if (held := resident_bytes(self._worker.pid)) > self._memory_limit:
                limit = f"the memory_limit of {self._memory_limit / 2**20:.0f} MiB"
                return TrialFailed(f"held {held / 2**20:.0f} MiB, above {limit}", retry=False)
        if self._cancelled is not None and self._cancelled.is_set():
            return TrialCancelled()
        return None


def tree(pid: int) -> list[Any]:
    """A process and its descendants, as psutil knows them; none if it is gone."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def resident_bytes(pid: int) -> int:
    """The resident memory of a process and its descendants; 0 if it is gone."""
    import psutil

    total = 0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total
