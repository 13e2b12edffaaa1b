"""Decides whether the process that owns a run is still alive, from its lease and, on this machine, its pid."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hpo_core.ledger.store import Run
from hpo_core.ledger.tags import Tag, parse_count

LEASE_SECONDS = 240.0

RENEW_SECONDS = 60.0
"""A running trial renews its lease every minute and is presumed dead after four without renewal."""


def now_ms() -> int:
    # Wall clock, not monotonic: leases are compared across processes and machines, whose clocks must roughly agree.
    return int(time.time() * 1000)


def new_lease(seconds: float | None = None) -> str:
    """The value of the tag ``hpo.lease`` for a lease that starts now: its expiry, in milliseconds since 1970."""
    return str(now_ms() + int((LEASE_SECONDS if seconds is None else seconds) * 1000))


ASKER = "asked"
"""The owner of a trial that a command asked for, which has ended: only the lease tells whether anybody trains it."""


@dataclass(frozen=True)
class Owner:
    """The process that owns a trial; the start time guards against a reused pid."""

    host: str
    pid: int
    started: str

    @classmethod
    def of_this_process(cls) -> Self:
        return cls(_host(), os.getpid(), _process_start(os.getpid()))

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}/{self.started}"

    @staticmethod
    def surely_gone(text: str) -> bool:
        """Whether an owner ran on this machine and has ended. False if that cannot be determined."""
        host, pid, started = [*text.split("/"), "", ""][:3]
        return (
            host == _host()
            and parse_count(pid, 12) is not None
            and bool(started)
            and _process_start(int(pid)) != started
        )


def _host() -> str:
    """Identifies this machine, its boot and its pid namespace, since containers may share a host name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        boot = namespace = ""
    return f"{socket.gethostname()}.{boot}.{namespace}"


def _process_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty if it does not exist or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def lost_because(run: Run) -> str:
    """Why the flow that owns a running run is presumed dead; empty if it is not."""
    return dead_because(run.tags)


def dead_because(tags: Mapping[str, str]) -> str:
    """Why the process named by these owner and lease tags is presumed dead; empty if it is not.

    An unreadable lease counts as expired, since nobody will renew it.
    """
    if Owner.surely_gone(tags.get(Tag.OWNER, "")):
        return "its process is gone"
    lease = parse_count(tags.get(Tag.LEASE, ""), 15) or 0
    return "its lease ran out" if lease <= now_ms() else ""
