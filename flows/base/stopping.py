"""Handles SIGINT and SIGTERM: the first ends a study in order, the second kills the process wherever it waits.

Python runs signal handlers in the main thread, and only between two bytecode instructions. A main thread that waits
inside a database or a library, or for other threads at exit, may not run one for minutes. But Python writes the number
of a signal to a pipe at once (:func:`signal.set_wakeup_fd`), and a separate thread reads that pipe.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The process was told to stop by a signal.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


ENDINGS: list[Callable[[], object]] = []
"""Callbacks that end what must not outlive the process, such as servers it started; called once, from any thread."""


class _Watch:
    """Counts incoming signals in its own thread, and ends the process at the second one."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._count = 0
        self._caught_up = threading.Event()
        threading.Thread(target=self._read, name="hpo-signals", daemon=True).start()

    def _read(self) -> None:
        while numbers := os.read(self._reader, 64):
            if self._before != -1:  # pass it on to the previous owner, such as a notebook's event loop
                with contextlib.suppress(OSError):
                    os.write(self._before, numbers)
            for number in numbers:
                self._count += number in SIGNALS
                if self._count > 1:
                    end_now(number)
            if 0 in numbers:  # written by count(): all signals before it are counted now
                self._caught_up.set()
        os.close(self._reader)

    def count(self) -> int:
        """How many signals have come, including those that the thread has not read yet."""
        self._caught_up.clear()
        os.write(self._writer, b"\0")
        self._caught_up.wait(10)
        return self._count

    def forget(self) -> None:
        """Restart the count."""
        self._count -= self.count()

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._writer)  # the thread reads the end of the pipe and ends


def end_now(number: int) -> None:
    """End the process and everything in :data:`ENDINGS` at once. Only the terminal is restored."""
    for end in ENDINGS:
        with contextlib.suppress(Exception):
            end()
    with contextlib.suppress(Exception):
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), b"\x1b[?25h\n")  # the cursor, which live progress hides
    os._exit(128 + number)  # not sys.exit, which would wait for threads


_watch: _Watch | None = None


@contextlib.contextmanager
def second_signal_ends() -> Iterator[None]:
    """Within this context, a second SIGINT or SIGTERM ends the process at once; after a first one, also beyond it.

    A first SIGTERM raises :class:`Stopped`, as Ctrl-C raises KeyboardInterrupt, unless a handler is installed. Does
    nothing outside the main thread, which cannot handle signals, or when nested.
    """
    global _watch
    if threading.current_thread() is not threading.main_thread() or (_watch is not None and not _watch.count()):
        yield
        return
    watch = begin()
    try:
        yield
    finally:
        if not watch.count():
            watch.close()
            _watch = None
            if signal.getsignal(signal.SIGTERM) is _stop:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)


def begin() -> _Watch:
    """From now on, a second SIGINT or SIGTERM ends the process at once. Call it in the main thread only."""
    global _watch
    _watch = _watch or _Watch()
    _watch.forget()  # an earlier study of this process may have been stopped by a signal
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _stop)
    return _watch


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)


@contextlib.contextmanager
def noted(note: Callable[[int], None]) -> Iterator[None]:
    """Within this context, SIGINT and SIGTERM only call ``note``. Does nothing outside the main thread.

    Args:
        note: Called in the main thread with the signal's number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda number, frame: note(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
