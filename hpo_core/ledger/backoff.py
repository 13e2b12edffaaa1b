"""Decides how long a flow that lost a claim waits, so that many flows on one study do not all try for one number."""

from __future__ import annotations

import random

FIRST_SECONDS = 0.05
"""The longest wait after one lost claim: about as long as a reservation takes."""

MOST_SECONDS = 6.4
"""The longest wait ever: 64 flows that wait so long make about as many attempts as one MLflow server can serve."""


class Backoff:
    """Random waits whose range doubles with every claim lost in a row (Metcalfe and Boggs 1976, section 4.2.4).

    Of *k* flows that try for the same number, one gets it, and each of the others has created a run in vain. The
    winner goes on at once and fills its slots, while the others wait.
    """

    def __init__(self) -> None:
        self._longest = 0.0
        self._random = random.SystemRandom()  # flows that start together, even from one seed, must not wait alike

    def won(self) -> None:
        """Note a claim that this flow got."""
        self._longest = 0.0

    def lost(self) -> None:
        """Note a claim that another flow got."""
        self._longest = min(max(FIRST_SECONDS, 2 * self._longest), MOST_SECONDS)

    def seconds(self) -> float:
        """How long to wait before the next attempt; 0 if the last claim was won."""
        return self._random.uniform(0, self._longest)
