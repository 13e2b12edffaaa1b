"""Translates pydantic's validation errors into this project's error messages."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from hpo_core.base.errors import InputError
from hpo_core.base.settings import near_or_known, problem_of
from hpo_core.study.spec import StudySpec

_TYPES = ("float", "int", "choice", "ordinal", "boolean", "fixed")

_NOT_WRITTEN = ("more", "edition", "editions")
"""Keys that nobody writes: the first is the sign of trials: +20, the others the study keeps."""


def explain(detail: Any) -> InputError:
    """Translate one pydantic error into an InputError."""
    loc = [str(part) for part in detail["loc"]]
    if len(loc) > 2 and loc[0] == "space" and loc[2] in _TYPES:
        del loc[2]  # the discriminator's tag, which is not in the file
    field, kind, value = ".".join(loc), detail["type"], detail["input"]
    if loc[-1:] == ["[key]"]:  # pydantic's word for a name in a mapping
        return InputError(field.removesuffix(".[key]"), f"the name {value!r} is not text", "quote it")
    if kind == "extra_forbidden":
        known = _known_keys(detail["loc"])
        return InputError(field, "unknown key", near_or_known(loc[-1], known))
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
        if value is None:
            return InputError(field, "no belief is given", "write {around: VALUE}, or remove it")
        return InputError(field, f"{value!r} is not a belief", f"write {{around: {value}}}")
    return InputError(field, problem_of(detail), "correct it")


def _known_keys(loc: Sequence[Any]) -> list[str]:
    """The keys allowed where an unknown one was found."""
    found: list[Any] = [StudySpec]
    for part in loc[:-1]:
        found = [inner for kind in found for inner in _inside(kind, part)]
    return [key for kind in found if _is_model(kind) for key in _own_first(kind) if key not in _NOT_WRITTEN]


def _own_first(model: type[BaseModel]) -> list[str]:
    """The keys of a model, those that it does not share with others of its kind first."""
    return sorted(model.model_fields, key=lambda key: key not in model.__annotations__)


def _inside(kind: Any, part: Any) -> list[Any]:
    """The types that a value of a type may have at a key or a position; itself, if the part is the tag of its kind."""
    if get_origin(kind) in (dict, list):
        return _alternatives(get_args(kind)[-1])
    if _is_model(kind) and part in kind.model_fields:
        return _alternatives(kind.model_fields[part].annotation)
    tag = kind.model_fields.get("type") if _is_model(kind) else None
    return [kind] if tag is not None and tag.default == part else []


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for each in get_args(annotation) for kind in _alternatives(each)]
    return [annotation]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
