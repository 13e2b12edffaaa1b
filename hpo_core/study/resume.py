"""Decides which settings of a study may change, on resume or while it runs, and which it takes over."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hpo_core.base.errors import InputError, StudyConflict
from hpo_core.space.configuration import Scalar
from hpo_core.space.parameters import Listed, Parameter
from hpo_core.study.editions import KEPT
from hpo_core.study.file import override_spec, study_from
from hpo_core.study.instructions import Instruction, key_of
from hpo_core.study.spec import StudySpec

log = logging.getLogger("hpo")

MAY_CHANGE = {
    "objective", "strategy", "stop", "early_stop", "parallel", "isolation", "retries", "rerun_lost", "trial_timeout",
    "memory_limit", "seed", "first", "warm_start", "repeats", "final", "data", "champion", "notify", "runner",
    "resources", "limits", "prior", "cost", "prefer",
}  # fmt: skip
"""Keys that a resumed study takes from the new file. All others determine what the stored losses mean."""

CHANGES_SPACE = {"space", "constraints"}
"""Keys that a resumed study takes from the new file if the user says so: a new edition of its space begins."""

SETTABLE = ("parallel", "stop", "rerun_lost", "trial_timeout", "memory_limit")
"""Keys that may change while a study runs; flows take them up without starting anything anew."""


def with_changes(spec: StudySpec, changes: Sequence[str]) -> StudySpec:
    """The specification with changed settings.

    Args:
        spec: The study.
        changes: ``key=value`` each, as :func:`check_changes` lets through. ``stop.trials=+20`` adds to the total.
    """
    try:
        changed = override_spec(spec, changes, reading=True)
    except InputError as error:  # someone else's hand, or another version of this project
        log.warning("%s: a change of its settings is left out: %s", spec.name, error)
        return spec
    return changed.with_total((spec.stop.trials or 0) + (changed.stop.trials or 0)) if changed.stop.more else changed


def with_space_of(spec: StudySpec, stored: StudySpec) -> StudySpec:
    """A specification that goes on in the edition and the space of the stored one.

    Where its settings do not fit that space (``final.prefer`` names a parameter that is gone, say), the stored ones
    are taken.
    """
    kept = (*KEPT, "edition", "editions")
    try:
        return study_from({**spec.model_dump(), **{key: stored.model_dump()[key] for key in kept}})
    except InputError as error:
        log.warning("%s: the settings of the changed study are taken, since its own do not fit: %s", spec.name, error)
        return stored


def news_in(before: StudySpec, after: StudySpec) -> str:
    """What an objective written for one space may not know of another one; empty if it knows all of that."""
    old, new = before.space, after.space
    changes = [f"new: {name}" for name in new if name not in old]
    changes += [f"gone: {name}" for name in old if name not in new]
    for name in (name for name in old if name in new):
        if isinstance(parameter := new[name], Listed):
            changes += [f"{name}: {value!r}" for value in parameter.options if not _has(old[name], value)]
        elif parameter.type != old[name].type:
            changes.append(f"{name} is of the type {parameter.type}")
    return ", ".join(changes)


def _has(parameter: Parameter, value: Scalar) -> bool:
    try:
        parameter.encode(value)
    except (ValueError, OverflowError):
        return False
    return True


def check_changes(spec: StudySpec, changes: Sequence[str]) -> None:
    """Check what somebody wants to change while the study runs.

    Raises:
        InputError: It is not ``key=value``, the key may not change now or is given twice, or the value cannot be used.
    """
    seen = set[str]()
    for change in changes:
        key = key_of(change)
        if key in seen:
            raise InputError("KEY=VALUE", f"{key!r} is given twice", "keep one")
        seen.add(key)
        if "=" in change and (key.partition(".")[0] not in SETTABLE or key == "stop"):
            known = "parallel, trials, stop.minutes and the like, rerun_lost, trial_timeout or memory_limit"
            remedy = f"set {known}; for others start it anew with hpo tune --set"
            raise InputError("KEY=VALUE", f"{change!r}: this cannot change while the study runs", remedy)
    changed = override_spec(spec, changes, "KEY=VALUE", reading=True)
    if changed.stop.endless and not spec.stop.endless:
        raise InputError("KEY=VALUE", "no stop rule is left, so the study would never end", "give another one as well")


def with_what_holds(
    written: StudySpec, given: StudySpec, instructions: Sequence[Instruction]
) -> tuple[StudySpec, list[Instruction]]:
    """A specification with the changes of settings that still hold: those of keys that it has not changed itself.

    Args:
        written: What the study's specification said before, without these changes.
        given: What it says now.
        instructions: What people have told the study.

    Returns:
        The specification with what holds, and the instructions that it overrules, with what is now settled in them.
    """
    before, after = written.stored(), given.stored()
    now, overruled = given, []
    for each in instructions:
        keys = [key_of(change) for change in each.holding]
        if settled := [key for key in keys if not _same(_at(before, key), _at(after, key))]:
            each = replace(each, settled=(*each.settled, *settled))
            overruled.append(each)
        if each.holding:
            now = with_changes(now, each.holding)
    return now, overruled


def _at(data: Any, path: str) -> Any:
    """The value of a dotted key; None if there is none."""
    for key in path.split("."):
        data = data.get(key) if isinstance(data, dict) else None
    return data


def compare(stored: StudySpec, given: StudySpec) -> list[str]:
    """What a resumed study takes over from the given specification, one line per changed value.

    Raises:
        StudyConflict: A difference makes old and new trials incomparable.
    """
    old, new = stored.stored(), given.stored()
    changed = [key for key in dict.fromkeys((*old, *new)) if not _same(old.get(key), new.get(key))]
    if forbidden := [key for key in changed if key not in MAY_CHANGE]:
        lines = [line for key in forbidden for line in difference(key, old.get(key), new.get(key))]
        remedy = (
            "give the new one a name of its own (name: ...), or, if the stored one is worth nothing, delete that: "
            f"hpo delete {shlex.quote(given.name)}"
        )
        if set(forbidden) <= CHANGES_SPACE:
            remedy = (
                "to go on in the changed space, where trials outside it no longer count, add --change-space "
                f"(Python: change_space=True); or {remedy}"
            )
        raise StudyConflict(given.name, lines, remedy)
    return [line for key in changed for line in difference(key, old.get(key), new.get(key))]


def _same(old: Any, new: Any) -> bool:
    """Equal including types and key order; Python's ``==`` ignores both (1 == True)."""
    return json.dumps(old) == json.dumps(new)


def difference(path: str, old: Any, new: Any) -> list[str]:
    """What differs between two values, a line each."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        lines = [
            line
            for key in keys
            if not _same(old.get(key), new.get(key))
            for line in difference(f"{path}.{key}", old.get(key), new.get(key))
        ]
        return lines or [f"{path}: the order differs: {', '.join(old)} -> {', '.join(new)}"]
    return [f"{path}: {json.dumps(old, ensure_ascii=False)} -> {json.dumps(new, ensure_ascii=False)}"]
