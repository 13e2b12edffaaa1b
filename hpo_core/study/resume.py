"""Decides what of a study may change, on resume or while it runs, and what it takes over."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Sequence
from typing import Any

from hpo_core.base.errors import InputError, StudyConflict
from hpo_core.study.file import override_spec
from hpo_core.study.spec import StudySpec

log = logging.getLogger("hpo")

MAY_CHANGE = {
    "objective", "strategy", "stop", "early_stop", "parallel", "isolation", "retries", "rerun_lost", "trial_timeout",
    "memory_limit", "seed", "first", "warm_start", "repeats", "final", "data", "champion", "notify", "runner",
    "resources", "limits", "prior",
}  # fmt: skip
"""Keys that a resumed study takes from the new file. All others determine what the stored losses mean."""


SETTABLE = ("parallel", "stop", "rerun_lost", "trial_timeout", "memory_limit")
"""Keys that may change while a study runs; flows take them up without starting anything anew."""


def with_changes(spec: StudySpec, changes: Sequence[str]) -> StudySpec:
    """The specification with changed settings.

    Args:
        spec: The study.
        changes: ``key=value`` each, as :func:`check_changes` lets through. ``stop.trials=+20`` adds to the total.
    """
    try:
        changed = override_spec(spec, changes)
    except InputError as error:  # someone else's hand, or another version of this project
        log.warning("%s: a change of its settings is left out: %s", spec.name, error)
        return spec
    return changed.with_total((spec.stop.trials or 0) + (changed.stop.trials or 0)) if changed.stop.more else changed


def check_changes(spec: StudySpec, changes: Sequence[str]) -> None:
    """Check what somebody wants to change while the study runs.

    Raises:
        InputError: It is not ``key=value``, the key may not change now, or the value cannot be used.
    """
    for change in changes:
        key = change.partition("=")[0]
        if key.partition(".")[0] not in SETTABLE or key == "stop":
            known = "parallel, trials, stop.minutes and the like, rerun_lost, trial_timeout or memory_limit"
            remedy = f"set {known}; for others start it anew with hpo tune --set"
            raise InputError("KEY=VALUE", f"{change!r}: this cannot change while the study runs", remedy)
    override_spec(spec, changes, "KEY=VALUE")


def compare(stored: StudySpec, given: StudySpec) -> list[str]:
    """What a resumed study takes over from the given specification, one line per changed value.

    Raises:
        StudyConflict: A difference makes old and new trials incomparable.
    """
    old, new = stored.stored(), given.stored()
    changed = [key for key in dict.fromkeys((*old, *new)) if not _same(old.get(key), new.get(key))]
    if forbidden := [key for key in changed if key not in MAY_CHANGE]:
        lines = [line for key in forbidden for line in _difference(key, old.get(key), new.get(key))]
        raise StudyConflict(
            given.name,
            lines,
            "give the new one a name of its own (name: ...), or, if the stored one is worth nothing, delete that: "
            f"hpo delete {shlex.quote(given.name)}",
        )
    return [line for key in changed for line in _difference(key, old.get(key), new.get(key))]


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
