"""Makes several proposals one by one, each as if those before it were running."""

from __future__ import annotations

from collections.abc import Callable

from hpo_core.history.history import History
from hpo_core.history.trial import Proposal


def one_by_one(history: History, n: int, propose: Callable[[History], Proposal | None]) -> list[Proposal]:
    """Up to ``n`` proposals.

    Args:
        history: All trials so far.
        n: The number of proposals wanted.
        propose: Makes one proposal, given the history with those before it as pending; None if it has none.
    """
    proposals: list[Proposal] = []
    while len(proposals) < n:
        proposal = propose(history.with_pending(proposals) if proposals else history)
        if proposal is None:
            break
        proposals.append(proposal)
    return proposals
