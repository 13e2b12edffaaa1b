"""Connects to Prefect's server, starts a temporary one if none is named, and notices when it is lost.

What Prefect shows is only a view: a study that has started goes on without it. Prefect's background workers are
imported where they are needed, because most runs do not need them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from queue import Empty
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    temporary_settings,
)

from hpo_core.base.errors import Unreachable
from hpo_flows.base.waiting import waiting_for
from hpo_flows.loop.temporary_server import TemporaryServer, temporary_server

log = logging.getLogger("hpo")

LOOK_SECONDS = 2.0
"""How often the server's address is probed."""

ANSWER_SECONDS = 20.0
"""How long a server may take to respond; on a busy machine it is slow."""

TELL_SECONDS = 20.0
"""After this wait for the temporary server, a warning says that it is not there yet."""

START_SECONDS = 120.0
"""How long to wait for the temporary server, unless Prefect's own setting says otherwise."""

START_SETTING = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"

RETRIES = 1
"""How often Prefect's client retries a request, at some seconds each. Its default of five would hold a study up for a
minute, and the study does not need the answer."""


def named_server() -> str | None:
    """The address of Prefect's server, without credentials; None if none is named and a temporary one is needed."""
    url = PREFECT_API_URL.value()
    return re.sub(r"//[^/@]*@", "//", url) if url else None


@contextlib.contextmanager
def reached() -> Iterator[Link]:
    """Wait for Prefect's server, starting a temporary one if none is named; inside the block, Prefect uses it.

    Yields:
        The connection. It is lost from the start if a study cannot be shown; then a warning has said why.

    Raises:
        Unreachable: A server is named but does not respond.
    """
    if (url := named_server()) is not None:
        waiting_for(f"reaching Prefect's server at {url}")
        if (why := silence()) is not None:
            raise Unreachable(
                f"Prefect's server at {url} does not respond ({why}); start it, correct PREFECT_API_URL, or unset that "
                "for a temporary server"
            )
        yield Link()
        return
    if PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        try:
            server = temporary_server()
        except OSError as error:
            why = f"its temporary server cannot be started ({error})"
        else:
            why = _wait_for(server)
    else:
        why = "none is named, and Prefect's settings allow no temporary one"
    if why:
        log.warning("the study goes on without Prefect's view: %s", why)
        yield Link(lost=True)
        return
    with temporary_settings({PREFECT_API_URL: server.api_url}):
        yield Link(server=server)


def silence() -> str | None:
    """Why the named server does not respond as a Prefect server; None if it does."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        try:
            with get_client(httpx_settings={"timeout": ANSWER_SECONDS}, sync_client=True) as client:
                client.hello().raise_for_status()
        except Exception as error:  # anything may listen at that address, so any error may come
            return f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return None


def _wait_for(server: TemporaryServer) -> str:
    """Wait until the temporary server responds. Returns why it does not, or an empty string."""
    waiting_for("starting Prefect's temporary server")
    given = os.environ.get(START_SETTING, "")
    limit = float(given) if given.replace(".", "", 1).isdigit() else START_SECONDS
    began, said = time.monotonic(), False
    with httpx.Client(timeout=ANSWER_SECONDS) as client:  # one: each loads certificates, in the server's time
        while (waited := time.monotonic() - began) < limit:
            if (code := server.process.poll()) is not None:
                return f"its temporary server ended with exit code {code}"
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"{server.api_url}/health").is_success:
                    return ""
            if waited > TELL_SECONDS and not said:
                log.warning("Prefect's temporary server is not there yet; waiting for it up to %.0f s in all", limit)
                said = True
            time.sleep(0.1)
    server.end()
    return f"its temporary server does not respond within {limit:.0f} s; {START_SETTING} sets how long"


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Within this context, Prefect's client gives up quickly on a server that is gone, and a flow run ends at once.

    The end of a flow run waits up to a second for the thread that sends its heartbeats. The lease in its labels says
    the same, so heartbeats are sent only if the user's settings, or those of a scheduled run, ask for them.
    """
    patience = {PREFECT_CLIENT_MAX_RETRIES: RETRIES, PREFECT_API_REQUEST_TIMEOUT: ANSWER_SECONDS}
    with temporary_settings(patience, set_defaults={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


class Link:
    """One study run's connection to Prefect's server, used until the server fails to respond once.

    Attributes:
        lost: Whether the server is given up, so that no more requests go there.
        server: The temporary server of this process, which has no UI; None if another one is used.
    """

    def __init__(self, lost: bool = False, server: TemporaryServer | None = None) -> None:
        self.lost, self.server = lost, server
        self._due, self._direct = 0.0, True

    @property
    def ended(self) -> bool:
        """Whether the temporary server has ended: a Ctrl-C reaches it, too."""
        return self.server is not None and self.server.process.poll() is not None

    def look(self) -> None:
        """Probe the server's address now and then, so that a lost server is noticed before requests wait for it."""
        if self.lost or not self._direct or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + LOOK_SECONDS
        url = httpx.URL(PREFECT_API_URL.value())
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((url.host, port), timeout=ANSWER_SECONDS).close()
        except OSError as error:
            if silence() is None:
                self._direct = False  # a proxy is in between, so a direct connection proves nothing
            else:
                self.give_up(error)

    def failed(self, error: BaseException) -> None:
        """Handle a failed request: warn if the server refused only this one, give up if the server is lost."""
        if self.lost:
            return
        if silence() is None:
            what = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            log.warning("Prefect refuses something, and the study goes on: %s", what)
            return
        self.give_up(error)

    def give_up(self, error: BaseException) -> None:
        """Go on without Prefect, and say so."""
        if self.lost:
            return
        self.lost = True
        what = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        log.warning("Prefect's server is lost, and the study goes on without its view: %s", what)
        forget_events()


def forget_events() -> None:
    """Drop the events and logs that Prefect has not sent to its server yet.

    Otherwise Prefect reconnects for every single event, for seconds each, logs a long error for each, and delays the
    end of the process by all that.
    """
    logging.getLogger("prefect._internal").setLevel(logging.CRITICAL)
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    services: tuple[Any, ...] = (EventsWorker, APILogWorker)
    with contextlib.suppress(AttributeError):  # private attributes, which may change with a release
        for worker in [worker for service in services for worker in service._instances.values()]:
            with contextlib.suppress(Empty):
                while True:
                    worker._queue.get_nowait()
                    worker._queue.task_done()
            if hasattr(worker, "_client"):
                worker._client._reconnection_attempts = 0
