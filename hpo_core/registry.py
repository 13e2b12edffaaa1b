"""How champions follow each other in MLflow's model registry, where an alias is whatever was written last.

A registered model's versions are a log: MLflow numbers them without double, whoever registers at the same moment, and
the tags that a version is created with are there from its first moment. So a promotion is one atomic step, the creation
of a version with the tags ``hpo.decision = promoted`` and ``hpo.replaces`` = the version that it was compared with, and
the alias ``champion`` follows from the log:

* Of several versions that would replace the same champion, the first (lowest) does. The others are *outrun*: they were
  compared with a champion that reigns no more, and have to be compared with the new one. ``hpo.seen``, the last version
  that was known when the comparison was made, tells them from a version that came after a rollback and knew of it.
* The alias is set after the version exists and ``hpo.reigned`` after the alias, so that whoever comes by after a crash
  sees what is still to be done (:func:`settle`), and does it; doing it twice changes nothing.
* Who was champion before follows from ``hpo.replaces``, which :func:`rollback` goes back along. It never changes and
  always names a lower version, so that it leads to no circle.

An alias that a person moves by hand is obeyed: what has reigned is not promoted again by itself. An alias cannot be
written on a condition. A flow that stalls between looking and writing may set it back to a champion of before; it sees
that at its next look, and mends it. If it dies between the two, or another flow looks, that counts as set by hand.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hpo_core.errors import InputError

CHAMPION = "champion"
"""The alias of the version that is served."""

DECISION, PROMOTED, REFUSED = "hpo.decision", "promoted", "refused"
REPLACES, SEEN = "hpo.replaces", "hpo.seen"
REIGNED, OUTRUN, ROLLED_BACK = "hpo.reigned", "hpo.outrun", "hpo.rolled_back"


@dataclass(frozen=True)
class Version:
    """One version of a registered model.

    Args:
        number: From 1.
        run: The MLflow run whose model it is; empty where it was registered without one.
        tags: As MLflow keeps them.
    """

    number: int
    run: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def replaces(self) -> int | None:
        """The champion that it was promoted over; None if there was none."""
        return _number(self.tags.get(REPLACES, ""))

    @property
    def seen(self) -> int:
        """The last version that was known when it was compared; 0 if there was none."""
        return _number(self.tags.get(SEEN, "")) or 0


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 10 else None


def succession(versions: Sequence[Version]) -> list[Version]:
    """The versions that were promoted and not outrun, lowest first: a function of the log.

    >>> over_1 = {DECISION: PROMOTED, REPLACES: "1", SEEN: "1"}
    >>> log = [Version(1, tags={DECISION: PROMOTED}), Version(2, tags=over_1), Version(3, tags=over_1)]
    >>> [version.number for version in succession(log)]
    [1, 2]
    """
    found: list[Version] = []
    for version in versions:
        if version.tags.get(DECISION) != PROMOTED:
            continue
        if all(other.replaces != version.replaces or other.number <= version.seen for other in found):
            found.append(version)
    return found


def promotion(replaces: int | None, versions: Sequence[Version]) -> dict[str, str]:
    """The tags with which a version is created that is to be the champion.

    Args:
        replaces: The champion that it was compared with.
        versions: What was known then, as :func:`settle` answers both.
    """
    seen = max((version.number for version in versions), default=0)
    return {DECISION: PROMOTED, REPLACES: "" if replaces is None else str(replaces), SEEN: str(seen)}


class Registry(Protocol):
    """MLflow's model registry, as far as champions need it; errors as in :class:`hpo_core.store.Store`."""

    def champion(self, model: str) -> int | None:
        """The version with the alias ``champion``; None if no version or no such model has it.

        Raises:
            InputError: No model can have this name.
        """
        ...

    def versions(self, model: str) -> list[Version]:
        """All versions of a model, lowest number first; none of a model that does not exist."""
        ...

    def register(self, model: str, run: str, path: str, tags: Mapping[str, str], description: str) -> Version:
        """A new version of a model, which is created if need be, from one of a run's artifacts."""
        ...

    def crown(self, model: str, number: int) -> None:
        """Let a version be the one with the alias ``champion``."""
        ...

    def tag_version(self, model: str, number: int, tags: Mapping[str, str]) -> None:
        """Add tags to a version; a request each."""
        ...

    def delete_version(self, model: str, number: int) -> None:
        """Delete a version; the run's artifact stays."""
        ...

    def fetch_version(self, model: str, number: int, folder: Path) -> Path | None:
        """Copy a version's files into a folder; None if they cannot be had, for whatever reason."""
        ...


def settle(registry: Registry, model: str) -> tuple[int | None, list[Version]]:
    """Do what promotions have left to be done.

    Only what a crash has left, or what a flow does at this very moment, is ever found; two requests where nothing is.

    Returns:
        Which version is the champion now; and all versions, as they were known a moment before.
    """
    crowned: set[int | None] = set()
    while True:
        versions = registry.versions(model)
        champion = registry.champion(model)
        line = succession(versions)
        # What has reigned and does not is what a person wanted, unless the alias was set back just now by us: then
        # another flow was here between our look and our write, and what it did counts.
        waiting = [
            each
            for each in line
            if each.replaces == champion
            and ROLLED_BACK not in each.tags
            and (REIGNED not in each.tags or champion in crowned)
        ]
        if waiting:
            registry.crown(model, waiting[0].number)
            crowned.add(waiting[0].number)
            registry.tag_version(model, waiting[0].number, {REIGNED: now()})
            continue
        for each in versions:
            if each.number == champion and each in line and REIGNED not in each.tags:  # a flow died after its alias
                registry.tag_version(model, each.number, {REIGNED: now()})
            if each.tags.get(DECISION) == PROMOTED and each not in line and OUTRUN not in each.tags:
                registry.tag_version(model, each.number, {OUTRUN: now()})
        return champion, versions


def rollback(registry: Registry, model: str, reason: str = "") -> tuple[int, int]:
    """Make the champion before the present one the champion again.

    Args:
        registry: MLflow's.
        model: The registered model.
        reason: Kept as a tag of the version that is rolled back.

    Returns:
        The version that was rolled back, and the one that is the champion now.

    Raises:
        InputError: There is no champion, or none before it.
    """
    champion, known = settle(registry, model)
    if champion is None:
        raise InputError("MODEL", f"{model!r} has no version with the alias {CHAMPION!r}", "name a model that has one")
    versions = {each.number: each for each in known}
    previous = versions[champion].replaces
    if previous not in versions:
        problem = f"version {champion} of {model!r} is the champion and names none before it"
        if previous is not None:
            problem = f"version {previous} of {model!r}, the champion before version {champion}, was deleted"
        raise InputError("MODEL", problem, f"set the alias {CHAMPION!r} by hand in MLflow, or promote another study")
    # First the tag: a rollback that dies on the way must not be undone by who settles the model next.
    registry.tag_version(model, champion, {ROLLED_BACK: f"{now()} {reason}".strip()})
    registry.crown(model, previous)
    return champion, previous


def now() -> str:
    """The time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
