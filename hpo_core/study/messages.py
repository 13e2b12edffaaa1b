"""Translates pydantic's validation errors into this project's error messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.base.settings import near_or_known, problem_of
from hpo_core.study.sections import (
    BeliefSpec,
    ChampionSpec,
    FidelitySpec,
    FinalSpec,
    NotifySpec,
    Resources,
    RunnerSpec,
    Section,
    StopRules,
    WarmStart,
)
from hpo_core.study.spec import StudySpec

_TYPES = ("float", "int", "choice", "ordinal", "boolean", "fixed")


def explain(detail: Any) -> InputError:
    """Translate one pydantic error into an InputError."""
    loc = [str(part) for part in detail["loc"]]
    if len(loc) > 2 and loc[0] == "space" and loc[2] in _TYPES:
        del loc[2]  # the discriminator's tag, which is not in the file
    field, kind, value = ".".join(loc), detail["type"], detail["input"]
    if kind == "extra_forbidden":
        known = _known_keys(detail["loc"])
        return InputError(field, "there is no such key", near_or_known(loc[-1], known))
    if kind == "missing":
        return InputError(field, "is missing", "add it")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        found = value.get("type") if isinstance(value, dict) else value
        return InputError(f"{field}.type", f"{found!r} is not a type of parameter", near_or_known(str(found), _TYPES))
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(error := detail.get("ctx", {}).get("error"), InputError):
        return InputError(f"{field}.{error.field}" if field else error.field, error.problem, error.remedy)
    if kind == "value_error":
        if not field:  # from a check over several keys, whose message names the field
            field, _, message = message.partition(": ")
        problem, _, remedy = message.partition("; ")
        shown = f"{value!r}: " if isinstance(value, str | int | float) and repr(value) not in problem else ""
        return InputError(field, shown + problem, remedy)
    if kind == "model_type" and loc[:1] == ["prior"]:
        return InputError(field, f"{value!r} is no belief", f"write {{around: {value}}}")
    return InputError(field, problem_of(detail), "correct it")


def _known_keys(loc: Sequence[Any]) -> list[str]:
    """The keys allowed where an unknown one was found."""
    if loc[0] in _SECTIONS and len(loc) == 2:
        return [key for key in _SECTIONS[loc[0]].model_fields if key != "more"]  # written as a sign: trials: +20
    if loc[0] == "prior" and len(loc) == 3:
        return list(BeliefSpec.model_fields)
    if loc[0] == "notify" and len(loc) == 3:
        return list(NotifySpec.model_fields)
    if loc[0] == "warm_start" and len(loc) == 3:
        return list(WarmStart.model_fields)
    if loc[0] == "space" and len(loc) == 4:
        return list(_PARAMETER_FIELDS[loc[2]])
    return list(StudySpec.model_fields)


_SECTIONS: dict[str, type[Section]] = {
    "stop": StopRules,
    "fidelity": FidelitySpec,
    "final": FinalSpec,
    "champion": ChampionSpec,
    "runner": RunnerSpec,
    "resources": Resources,
}

_PARAMETER_FIELDS: dict[str, list[str]] = {
    "float": ["low", "high", "log", "reverse", "step", "when", "default"],
    "int": ["low", "high", "log", "reverse", "step", "when", "default"],
    "choice": ["choices", "when", "default"],
    "ordinal": ["choices", "when", "default"],
    "boolean": ["when", "default"],
    "fixed": ["value", "when", "default"],
}
