"""Decides what a resumed study may change and what it takes over from the new file."""

from __future__ import annotations

import json
import shlex
from typing import Any

from hpo_core.base.errors import StudyConflict
from hpo_core.study.spec import StudySpec

MAY_CHANGE = {
    "objective", "strategy", "stop", "early_stop", "parallel", "isolation", "retries", "rerun_lost", "trial_timeout",
    "memory_limit", "seed", "first", "warm_start", "repeats", "final", "data", "champion", "notify", "runner",
    "resources", "limits", "prior",
}  # fmt: skip
"""Keys that a resumed study takes from the new file. All others determine what the stored losses mean."""


def compare(stored: StudySpec, given: StudySpec) -> list[str]:
    """What a resumed study takes over from the given specification, one line per changed value.

    Raises:
        StudyConflict: A difference makes old and new trials incomparable.
    """
    old, new = stored.stored(), given.stored()
    changed = [key for key in old if not _same(old[key], new[key])]
    if forbidden := [key for key in changed if key not in MAY_CHANGE]:
        lines = [line for key in forbidden for line in _difference(key, old[key], new[key])]
        raise StudyConflict(
            given.name,
            lines,
            "give the new one a name of its own (name: ...), or, if the stored one is worth nothing, delete that: "
            f"hpo delete {shlex.quote(given.name)}",
        )
    return [line for key in changed for line in _difference(key, old[key], new[key])]


def _same(old: Any, new: Any) -> bool:
    """Equal including types and key order; Python's ``==`` ignores both (1 == True)."""
    return json.dumps(old) == json.dumps(new)


def _difference(path: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        lines = [
            line
            for key in keys
            if not _same(old.get(key), new.get(key))
            for line in _difference(f"{path}.{key}", old.get(key), new.get(key))
        ]
        return lines or [f"{path}: the order differs: {', '.join(old)} -> {', '.join(new)}"]
    return [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]
