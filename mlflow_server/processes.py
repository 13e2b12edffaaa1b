"""Runs a server as a child process: starts it, waits until it responds, and ends it with all that it started."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeAlias

from hpo_core.base.errors import InputError, TrackingError

TAIL = 15
"""How many of the last lines of a server's output are shown where it does not start."""
START_SECONDS = 300.0
STOP_SECONDS = 30.0

Answers: TypeAlias = "Callable[[Process], bool]"
"""Whether a process does its work already."""

_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class Process:
    """A server in a session of its own.

    Args:
        name: What messages call it.
        command: Its command line, which every user of the machine can read: no secrets.
        answers: Whether it does its work already; must not wait long.
        environment: What it sees beside this process's environment; here secrets may stand.
        log: The file that its output is appended to; by default it joins this process's own.
        stop_signal: What ends it in order.
        user: The user id that it runs as, if not this process's own.
        after: What it needs from its first moment on: :func:`start_side_by_side` launches it once these respond.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        answers: Answers,
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: int | None = None,
        after: Sequence[Process] = (),
    ) -> None:
        self.name, self.command, self.answers = name, list(command), answers
        self.environment, self.log = dict(environment or {}), log
        self.stop_signal, self.user, self.after = stop_signal, user, after
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._deadline = 0.0

    def start(self) -> None:
        """Start it, and wait until it responds.

        Raises:
            TrackingError: It ended, or did not respond in time; with the last lines of its output.
        """
        start_side_by_side([self])

    def launch(self) -> None:
        """Start it without waiting. Call it in the main thread: Linux takes the end of a thread for the parent's."""
        self._deadline = time.monotonic() + START_SECONDS
        self._process = subprocess.Popen(
            self.command,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=self.user,
            preexec_fn=self._prepare,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def answering(self) -> bool:
        """Whether it responds by now.

        Raises:
            TrackingError: It ended, or should have responded long ago; with the last lines of its output.
        """
        if self.ended:
            raise TrackingError(self.obituary())
        if self.answers(self):
            return True
        if time.monotonic() > self._deadline:
            raise TrackingError(f"{self.name} does not respond after {START_SECONDS:.0f} s{self._last_lines()}")
        return False

    def _prepare(self) -> None:
        """What the child does before its program begins."""
        # A shell that starts us in the background has us ignore it; a Prefect worker ends by sending it to itself.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if _libc is not None:  # a dead parent must not leave a server behind that holds its port
            _libc.prctl(_SET_PARENT_DEATH_SIGNAL, int(self.stop_signal))

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with self._output() as output, process.stdout:
            for line in process.stdout:
                self.tail.append(line.decode(errors="replace").rstrip())
                with contextlib.suppress(OSError):  # nobody reads any longer; the server must not wait for that
                    output.write(line)
                    output.flush()

    def _output(self) -> contextlib.AbstractContextManager[IO[bytes]]:
        return contextlib.nullcontext(sys.stderr.buffer) if self.log is None else open(self.log, "ab")

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def obituary(self) -> str:
        """How it ended by itself, with the last lines that it printed."""
        code = None if self._process is None else self._process.poll()
        if self._reader is not None:
            self._reader.join(timeout=2)
        return f"{self.name} ended with code {code}{self._last_lines()}"

    def _last_lines(self) -> str:
        return "".join(f"\n  {line}" for line in self.tail)

    def stop(self) -> None:
        """End it in order; by force if it takes too long."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self.stop_signal)  # does nothing where it has ended
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the rest of its session
        process.wait()
        if self._reader is not None:
            self._reader.join(timeout=2)


def start_side_by_side(processes: Sequence[Process], ready: Callable[[Process], object] = lambda _: None) -> None:
    """Start several servers at once, and wait until all respond. If one fails, the others are ended.

    Args:
        processes: The servers. One that is ``after`` others is launched when these respond.
        ready: Called with each as soon as it responds.

    Raises:
        TrackingError: One ended, or did not respond in time; with the last lines of its output.
    """
    launched: list[Process] = []
    answering: set[Process] = set()
    try:
        while True:
            for process in processes:
                if process not in launched and answering.issuperset(process.after):
                    launched.append(process)
                    process.launch()
                elif process in launched and process not in answering and process.answering():
                    answering.add(process)
                    ready(process)
            if answering.issuperset(processes):
                return
            time.sleep(0.1)
    except BaseException:
        for process in reversed(launched):
            process.stop()
        raise


def check_port(host: str, port: int, option: str) -> None:
    """Check that a server can listen on a port.

    Raises:
        InputError: It is taken, or no port; names the option that gave it.
    """
    if not 1 <= port <= 65535:
        raise InputError(option, f"{port} is not a port", "give 1 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise InputError(
                    option, f"{host}:{port} is taken", "end what uses it, or choose another port"
                ) from None
            raise InputError(option, f"{host}:{port} cannot be listened on ({error})", "choose another") from None
        except UnicodeError as error:
            raise InputError("--host", f"{host!r} is not a name of a machine ({error})", "choose another") from None


def http_answers(url: str) -> Answers:
    """Whether a server responds to requests at an address; a refusal is a response."""

    def answers(_: Process) -> bool:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310  (an address made here)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code < 500
        except OSError:
            return False
        return True

    return answers


@contextlib.contextmanager
def until_stopped(processes: Sequence[Process]) -> Iterator[Callable[[], None]]:
    """Turn SIGTERM and SIGINT into an orderly end; gives a function that waits for one of them.

    The function raises TrackingError where one of the processes ends by itself.
    """
    stopped = threading.Event()

    def wait() -> None:
        while not stopped.wait(0.5):
            for process in processes:
                if process.ended:
                    raise TrackingError(process.obituary())

    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: stopped.set()) for number in signals]
    try:
        yield wait
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
