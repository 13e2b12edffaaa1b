"""Captures what each trial prints, up to a limit, and keeps the output of a worker's trials apart.

A worker's stdout and stderr are one pipe, which also captures output of C libraries. The child writes a mark into it
where a trial begins and where it ends, and the parent cuts there. So output that is read late still belongs to its
trial, and output between two trials, from a thread left behind, belongs to none.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from typing import IO

log = logging.getLogger("hpo.output")
"""Logs each line that a trial prints, at level INFO. It is off by default, whatever the level of other loggers."""

log.setLevel(logging.WARNING)

PRINTED = "output.txt"
"""The artifact of a trial's run with its output, warnings included. There is none if it printed nothing."""

MAX_BYTES = 1 << 20
"""How much of a trial's output is kept, half of it from the beginning and half from the end."""

CHUNK = 65_536

MAX_LINE = 8_192
"""Longer lines are logged in pieces."""

SETTLE_SECONDS = 60.0
"""How long reading a trial's output may take after it has ended. The output is in the pipe already."""

_MARK_LENGTH = 100


class Printed:
    """The beginning and the end of a text of any length.

    Args:
        most: How many bytes are kept.
    """

    def __init__(self, most: int = MAX_BYTES) -> None:
        self._half = most // 2
        self._head, self._tail, self._dropped = bytearray(), bytearray(), 0

    def add(self, data: bytes) -> None:
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._half:
            self._trim()

    def _trim(self) -> None:
        self._dropped += max(len(self._tail) - self._half, 0)
        del self._tail[: -self._half]

    def text(self) -> str:
        """The kept text. A line in the middle says how much is missing there, if any."""
        self._trim()
        gap = b"\n[... %d bytes are left out here ...]\n" % self._dropped if self._dropped else b""
        return bytes(self._head + gap + self._tail).decode(errors="replace")


def last_lines(text: str, lines: int = 10, characters: int = 1_000) -> str:
    """The end of some output, for display.

    >>> last_lines("one\\ntwo\\nthree\\n", lines=2)
    'two\\nthree'
    """
    return "\n".join(text[-characters:].rstrip().splitlines()[-lines:])


class Output:
    """Reads what a worker process prints, in its own thread; the parent's side.

    Args:
        stream: The process's stdout and stderr.
        token: Makes the marks unlike anything that a trial prints.
    """

    def __init__(self, stream: IO[bytes], token: str) -> None:
        self._stream, self._mark = stream, re.compile(rb"\0hpo %s (begin|end) (\d+)\0" % token.encode())
        self._lock = threading.Lock()
        self._attempt = 0
        self._echo: Callable[[str], object] = _nobody
        self._inside = self._over = False
        self._printed, self._around = Printed(), Printed()
        self._line, self._rest = b"", b""
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def expect(self, attempt: int, echo: Callable[[str], object] | None = None) -> None:
        """Prepare for an attempt.

        Args:
            attempt: Its number. Output before its mark does not count as its own.
            echo: Called with each line it prints, in the reading thread.
        """
        with self._lock:
            self._attempt, self._echo = attempt, echo or _nobody
            self._printed, self._around = Printed(), Printed(CHUNK)
            if not self._over:
                self._settled.clear()

    def settle(self) -> bool:
        """Wait until the attempt's output is read to its end; False if that takes too long."""
        return self._settled.wait(SETTLE_SECONDS)

    def text(self) -> str:
        """The attempt's output so far."""
        with self._lock:
            return self._printed.text()

    def end(self) -> str:
        """The end of the attempt's output, or else of what came before: the process may have died while importing."""
        with self._lock:
            return (self._printed.text() or self._around.text())[-CHUNK:]

    def join(self, timeout: float) -> None:
        """Wait until the process, and all others that can print to its pipe, are gone."""
        self._thread.join(timeout)

    def _read(self) -> None:
        with self._stream as stream:
            while chunk := stream.read1(CHUNK):  # type: ignore[attr-defined]
                with self._lock:
                    self._feed(self._rest + chunk)
        with self._lock:
            self._take(self._rest)
            self._tell(last=True)
            self._over = True
            self._settled.set()

    def _feed(self, data: bytes) -> None:
        while (mark := self._mark.search(data)) is not None:
            self._take(data[: mark.start()])
            data = data[mark.end() :]
            self._inside = mark[1] == b"begin" and int(mark[2]) == self._attempt
            if mark[1] == b"end" and int(mark[2]) == self._attempt:
                self._tell(last=True)
                self._settled.set()
        cut = data.find(b"\0", max(len(data) - _MARK_LENGTH, 0))  # the chunk may end inside a mark
        cut = len(data) if cut < 0 else cut
        self._take(data[:cut])
        self._rest = data[cut:]

    def _take(self, data: bytes) -> None:
        (self._printed if self._inside else self._around).add(data)
        if self._inside and self._echo is not _nobody:
            self._line += data
            self._tell()

    def _tell(self, *, last: bool = False) -> None:
        *lines, self._line = self._line.split(b"\n")
        if self._line and (last or len(self._line) > MAX_LINE):
            lines, self._line = [*lines, self._line], b""
        for line in lines:
            # A progress bar rewrites its line with carriage returns; only its last state is shown.
            self._echo(line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace"))


def _nobody(line: str) -> None:
    """The echo that drops each line."""


class Marks:
    """Writes the marks; the child's side. It duplicates the pipe's descriptor, since a trial may redirect its stdout.

    Args:
        token: As in :class:`Output`.
    """

    def __init__(self, token: str) -> None:
        self._token, self._descriptor = token, os.dup(1)

    def write(self, kind: str, attempt: int) -> None:
        """Mark where an attempt begins or ends."""
        os.write(self._descriptor, f"\0hpo {self._token} {kind} {attempt}\0".encode())
