"""Decides which registered versions became champion, from their tags alone."""

from __future__ import annotations

from collections.abc import Sequence

from hpo_core.ledger.store import Version
from hpo_core.ledger.tags import Tag

PROMOTED, REFUSED = "promoted", "refused"


def succession(versions: Sequence[Version]) -> list[Version]:
    """The versions that were promoted and not outrun, lowest first. Depends only on the log, so all flows agree.

    >>> over_1 = {Tag.DECISION: PROMOTED, Tag.REPLACES: "1", Tag.SEEN: "1"}
    >>> log = [Version(1, tags={Tag.DECISION: PROMOTED}), Version(2, tags=over_1), Version(3, tags=over_1)]
    >>> [version.number for version in succession(log)]
    [1, 2]
    """
    found: list[Version] = []
    for version in versions:
        if version.tags.get(Tag.DECISION) != PROMOTED:
            continue
        if all(other.replaces != version.replaces or other.number <= version.seen for other in found):
            found.append(version)
    return found


def promotion(replaces: int | None, versions: Sequence[Version]) -> dict[str, str]:
    """The tags for creating a version that should become champion.

    Args:
        replaces: The champion it was compared with.
        versions: The versions known then; :func:`settle` returns both.
    """
    seen = max((version.number for version in versions), default=0)
    return {Tag.DECISION: PROMOTED, Tag.REPLACES: "" if replaces is None else str(replaces), Tag.SEEN: str(seen)}
