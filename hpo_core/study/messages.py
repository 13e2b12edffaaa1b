"""Translates pydantic's validation errors of a study into this project's error messages."""

from __future__ import annotations

from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.base.explaining import explained
from hpo_core.base.settings import near_or_known
from hpo_core.study.spec import StudySpec

_TYPES = ("float", "int", "choice", "ordinal", "boolean", "fixed")

_NOT_WRITTEN = ("more", "edition", "editions")
"""Keys that nobody writes: the first is the sign of trials: +20, the others the study keeps."""


def explain(detail: Any) -> InputError:
    """Translate one pydantic error into an InputError."""
    loc, kind, value = [str(part) for part in detail["loc"]], detail["type"], detail["input"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        found = value.get("type") if isinstance(value, dict) else value
        problem = f"{found!r} is not a type of parameter"
        return InputError(".".join([*loc, "type"]), problem, near_or_known(str(found), _TYPES))
    if kind == "model_type" and loc[:1] == ["prior"]:
        if value is None:
            return InputError(".".join(loc), "no belief is given", "write {around: VALUE}, or remove it")
        return InputError(".".join(loc), f"{value!r} is not a belief", f"write {{around: {value}}}")
    error = explained(detail, StudySpec, _NOT_WRITTEN)
    if len(loc) > 2 and loc[0] == "space" and loc[2] in _TYPES:
        # Without the discriminator's tag, which is not in the file.
        tagged = ".".join(loc[:3])
        return InputError(".".join(loc[:2]) + error.field.removeprefix(tagged), error.problem, error.remedy)
    return error
