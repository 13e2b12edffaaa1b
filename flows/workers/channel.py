"""The pipe between a flow and a worker process. Every message carries the number of its attempt.

A message is pickled separately, inside an envelope of plain data. So an unreadable message still names its attempt, and
fails only that attempt rather than the listener.
"""

from __future__ import annotations

import threading
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

from hpo_flows.objectives.messages import Message


class Unreadable(Exception):
    """A received message cannot be unpickled here.

    Args:
        attempt: The attempt it belongs to.
        reason: The error that unpickling raised, as text.
    """

    def __init__(self, attempt: int, reason: str) -> None:
        super().__init__(reason)
        self.attempt = attempt


class Channel:
    """One end of the pipe. Any thread may send; one may receive.

    Args:
        connection: That end.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, attempt: int, message: Message) -> None:
        """Send a message.

        Raises:
            OSError: The other side is gone.
            Exception: Pickling the message failed with this; nothing was sent.
        """
        data = bytes(ForkingPickler.dumps(message))
        with self._lock:  # two messages at once would be interleaved
            self._connection.send((attempt, data))

    def poll(self, seconds: float | None) -> bool:
        """Whether a message, or the end of the other side, arrives within ``seconds``; None waits without limit."""
        return self._connection.poll(seconds)

    def receive(self) -> tuple[int, Message]:
        """The next message, after the number of its attempt.

        Raises:
            EOFError: The other side is gone.
            OSError: The other side is gone, or this side is closed.
            Unreadable: The message cannot be unpickled.
        """
        attempt, data = self._connection.recv()
        try:
            message: Message = ForkingPickler.loads(data)
        except Exception as error:  # unpickling runs foreign code, which may raise anything
            raise Unreadable(attempt, shown(error)) from None
        return attempt, message

    def close(self) -> None:
        self._connection.close()


def shown(error: BaseException) -> str:
    """An exception as one line, even if its own text is long, has several lines or raises.

    >>> shown(ValueError("two\\n lines"))
    'ValueError: two lines'
    """
    try:
        text = " ".join(str(error).split())
    except Exception:  # its class has a __str__ that raises
        text = "(its text cannot be shown)"
    return f"{type(error).__name__}: {text}"[:600].removesuffix(": ")
