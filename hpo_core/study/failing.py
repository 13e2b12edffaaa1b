"""Tells whether trials fail for the same reason, so that the next one will fail, too."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hpo_core.history.trial import Trial

SAME_ERRORS = 3
"""How many trials that failed alike, and no other, say that the next will; more, where more begin at once."""

_NUMBER = re.compile(r"[\w.+-]*\d[\w.+-]*")


def failed_alike(failed: Sequence[Trial], parallel: int) -> Trial | None:
    """The last failed trial if enough failed to tell, and all for the same reason; lost ones do not count.

    Args:
        failed: Failed trials, by number.
        parallel: How many trials begin at once.
    """
    failures = [trial for trial in failed if not trial.lost]
    if len(failures) < max(SAME_ERRORS, parallel) or len({_error_of(trial) for trial in failures}) > 1:
        return None
    return failures[-1]


def _error_of(trial: Trial) -> str:
    """Why a trial failed, without the numbers in it: its own, those of its configuration, addresses, folders."""
    return _NUMBER.sub("#", trial.reason)
