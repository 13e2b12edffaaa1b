"""Keeps the specification of a study, and one for each edition of its space, in the tags of the study's run.

Each edition is a document under a key of its own, ``hpo.edition.<time>.<random>``, written once: the specification that
it began with, and the values that earlier trials count as having had. So two flows at once lose nothing, and a flow
that dies has either written one or not. The last document by its id is in force. ``hpo.spec`` has the settings that
changed since, as long as whoever wrote them knew the last edition; what a flow with the old space writes there counts
for nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from hpo_core.ledger import ownership
from hpo_core.ledger.tags import Tag, join_tag, split_tag
from hpo_core.space.configuration import Scalar
from hpo_core.study.editions import KEPT
from hpo_core.study.instructions import new_id
from hpo_core.study.spec import StudySpec

FIRST = f"{0:013d}.{0:08x}"
"""Under this id stands what a study was before its space was changed. A trial of that time bears no edition."""

_KEY = re.compile(re.escape(Tag.EDITION) + r"\.(\d{13}\.[0-9a-f]{8})")


def _documents(tags: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The editions' documents by id, in order; damaged ones are left out."""
    found: dict[str, dict[str, Any]] = {}
    for id in sorted(match[1] for key in tags if (match := _KEY.fullmatch(key))):
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(join_tag(f"{Tag.EDITION}.{id}", tags))
            if isinstance(document, dict) and isinstance(document.get("study"), dict):
                found[id] = document
    return found


def last_edition(tags: Mapping[str, str]) -> str:
    """The id of the edition in force; empty if the space was never changed."""
    return max((id for id in _documents(tags) if id != FIRST), default="")


def current_document(tags: Mapping[str, str]) -> Any:
    """The specification in force as plain data, with all earlier editions.

    Raises:
        ValueError: It is not JSON.
    """
    current, documents = json.loads(join_tag(Tag.SPEC, tags)), _documents(tags)
    last = max((id for id in documents if id != FIRST), default="")
    if not last or not isinstance(current, dict):
        return current
    if current.get("edition", "") != last:
        current = documents[last]["study"]
    earlier = [
        {
            "id": "" if id == FIRST else id,
            **{key: documents[id]["study"].get(key) for key in KEPT},
            "added": documents[following].get("added", {}),
        }
        for id, following in pairwise(documents)
    ]
    legacy = documents[FIRST]["study"].get("editions", []) if FIRST in documents else []
    return {**current, "edition": last, "editions": [*legacy, *earlier]}


def new_edition_id(tags: Mapping[str, str]) -> str:
    """An id that comes after all others, whatever the clocks that gave those."""
    last = last_edition(tags)
    return new_id(max(ownership.now_ms(), int(last[:13]) + 1 if last else 0))


def edition_tags(stored: StudySpec, new: StudySpec, added: Mapping[str, Scalar]) -> dict[str, str]:
    """The tags that begin a new edition.

    Args:
        stored: The study so far.
        new: The study in the new space, with the new edition's id.
        added: The values that earlier trials count as having had.
    """
    told = {f"{Tag.EDITION}.{new.edition}": {"study": new.stored(), "added": dict(added)}}
    if not stored.edition:
        told[f"{Tag.EDITION}.{FIRST}"] = {"study": stored.stored()}
    return {key: text for name, told_of in told.items() for key, text in split_tag(name, json.dumps(told_of)).items()}
