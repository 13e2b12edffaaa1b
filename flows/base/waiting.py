"""Says what a study waits for before its first trial: whoever shows its progress listens to this log."""

from __future__ import annotations

import logging

log = logging.getLogger("hpo.waiting")
"""Off by default, whatever the level of other loggers."""

log.setLevel(logging.WARNING)


def waiting_for(what: str) -> None:
    """Say what takes its time now, such as "importing the objective"."""
    log.info("%s ...", what)
