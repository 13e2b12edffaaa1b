"""Promotes, rolls back and settles champions in MLflow's model registry, where the last writer of an alias wins.

A registered model's versions are a log: MLflow never assigns a number twice, even to concurrent callers, and creates a
version together with its tags. So a promotion is one atomic step: creating a version with the tags
``hpo.decision = promoted`` and ``hpo.replaces`` = the version that it was compared with. The alias ``champion`` follows
from the log:

* Of several versions that would replace the same champion, the first (lowest) does. The others are *outrun*: they were
  compared with a former champion and must be compared with the new one. ``hpo.seen``, the last version known at the
  time of the comparison, distinguishes them from a version that came after a rollback and knew of it.
* The alias is set after the version exists and ``hpo.reigned`` after the alias, so after a crash the next
  flow sees what remains to be done and does it (:func:`settle`, which is idempotent).
* The previous champion follows from ``hpo.replaces``, which :func:`rollback` walks back. It never changes and always
  names a lower version, so it cannot form a cycle.

An alias moved by hand is respected: a former champion is never promoted again automatically. MLflow cannot set an alias
conditionally, so a flow that stalls between reading and writing may set it back to a former champion; it sees and
corrects that at its next read. If it dies in between, or another flow reads first, the alias counts as set by hand.
"""

from __future__ import annotations

import time

from hpo_core.base.errors import InputError
from hpo_core.champion.publication import publish_model
from hpo_core.champion.record import champion_spec, registered_by
from hpo_core.champion.succession import (
    PROMOTED,
    promotion,
    succession,
)
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import CHAMPION, Registry, Version
from hpo_core.ledger.tags import MODEL, Tag


def settle(registry: Registry, model: str) -> tuple[int | None, list[Version]]:
    """Complete unfinished promotions, left by a crash or in progress in another flow. Two requests if there are none.

    Returns:
        The current champion, and all versions as read just before it.
    """
    set_here: set[int | None] = set()
    while True:
        versions = registry.versions(model)
        champion = registry.champion(model)
        line = succession(versions)
        # A former champion lost the alias because a person wanted that, unless we ourselves just set the alias back:
        # then another flow acted between our read and our write, and its promotion counts.
        waiting = [
            each
            for each in line
            if each.replaces == champion
            and Tag.ROLLED_BACK not in each.tags
            and (Tag.BECAME_CHAMPION not in each.tags or champion in set_here)
        ]
        if waiting:
            registry.set_champion(model, waiting[0].number)
            set_here.add(waiting[0].number)
            registry.tag_version(model, waiting[0].number, {Tag.BECAME_CHAMPION: now()})
            continue
        # A replaced version was champion too, even if its flow died between setting the alias and this tag.
        reigned = {champion, *(each.replaces for each in line)}
        for each in versions:
            if each.number in reigned and each in line and Tag.BECAME_CHAMPION not in each.tags:
                registry.tag_version(model, each.number, {Tag.BECAME_CHAMPION: now()})
            if each.tags.get(Tag.DECISION) == PROMOTED and each not in line and Tag.SUPERSEDED not in each.tags:
                registry.tag_version(model, each.number, {Tag.SUPERSEDED: now()})
        return champion, versions


def rollback(registry: Registry, model: str, reason: str = "") -> tuple[int, int]:
    """Make the previous champion the champion again.

    Args:
        registry: MLflow's model registry.
        model: The registered model.
        reason: Kept as a tag of the version that is rolled back.

    Returns:
        The version that was rolled back, and the new champion.

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
    # Tag first: if this process dies half way, the next settle() must not undo the rollback.
    registry.tag_version(model, champion, {Tag.ROLLED_BACK: f"{now()} {reason}".strip()})
    registry.set_champion(model, previous)
    return champion, previous


def now() -> str:
    """The current time in readable form, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def promote(ledger: Ledger, *, force: bool = False, reason: str = "") -> str:
    """Make the study's registered model the champion by hand, after a refusal or a rollback.

    Registers it again, with the reason, so that the log of versions shows who was champion when.

    Returns:
        A readable summary of what was done.

    Raises:
        InputError: The study has no registered model, or the verdict is against it and ``force`` is not given.
    """
    registry, model = ledger.store, champion_spec(ledger).model
    champion, versions = settle(registry, model)
    own = registered_by(versions, ledger)
    if not own:
        problem = f"study {ledger.spec.name!r} has no version of {model!r} yet"
        raise InputError("STUDY", problem, "run it to its end: hpo tune STUDY")
    last = own[-1]
    if last.number == champion:
        return f"{model}: version {champion} of study {ledger.spec.name} is the champion"
    if not force:
        state = "it was rolled back" if Tag.ROLLED_BACK in last.tags else last.tags.get(Tag.REASON, "")
        problem = f"version {last.number} of {model!r} is not the champion ({last.tags[Tag.DECISION]}: {state})"
        raise InputError("--force", problem, "give --force --reason TEXT to promote it all the same")
    if not reason.strip():
        raise InputError(
            "--reason", "is missing, and the registry keeps it with a promotion by hand", "give --reason TEXT"
        )
    kept = {key: value for key, value in last.tags.items() if key not in (Tag.BECAME_CHAMPION, Tag.ROLLED_BACK)}
    tags = kept | promotion(champion, versions) | {Tag.FORCED: reason[:1000]}
    logged = publish_model(ledger, [last.run])
    version = registry.register(model, last.run, MODEL, tags, f"promoted by hand: {reason}", logged)
    if settle(registry, model)[0] != version.number:
        raise InputError("STUDY", f"another version of {model!r} was promoted at this moment", "look at it, and repeat")
    noted = {Tag.CHAMPION_DECISION: PROMOTED, Tag.CHAMPION_VERSION: str(version.number), Tag.FORCED: reason[:1000]}
    ledger.study.log({Tag.CHAMPION_MODEL: model} | noted)
    return f"{model}: version {version.number} is the champion (before: {champion or 'none'}; by hand: {reason})"
