"""Says in this project's words what pydantic finds wrong with a model: one line for each thing, with what to do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

from hpo_core.base.errors import InputError
from hpo_core.base.settings import near_or_known, problem_of

if TYPE_CHECKING:  # it has no public name
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class Explaining(ModelMetaclass):
    """Makes models that refuse bad values with an :class:`InputError` where they are called, as user code does.

    What is made from data (``model_validate``) is not called, so errors of models within models keep their places.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        model = cast(type[BaseModel], cls)
        if args:
            needed = [name for name, field in model.model_fields.items() if field.is_required()]
            example = ", ".join(f"{name}=..." for name in needed)
            raise InputError(cls.__name__, f"{args[0]!r} is given without a name", f"write {cls.__name__}({example})")
        try:
            return super().__call__(**kwargs)
        except ValidationError as error:
            # A tag such as type: float is for files; in Python, the class says it.
            tags = [name for name, field in model.model_fields.items() if len(get_args(field.annotation)) == 1]
            lines = [explained(detail, model, hidden=tags) for detail in error.errors()]
        raise all_of([line.below(cls.__name__) for line in lines]) from None


def all_of(errors: Sequence[InputError]) -> InputError:
    """The first of several errors, with a line for each of them as its message."""
    first = errors[0]
    first.args = ("\n".join(map(str, errors)),)
    return first


def explained(detail: Any, model: type[BaseModel], hidden: Collection[str] = ()) -> InputError:
    """One error of pydantic as an InputError; its field is empty if it is about the whole.

    Args:
        detail: The error, one of ``ValidationError.errors()``.
        model: What was to be made.
        hidden: Keys that a remedy does not offer.
    """
    loc = [str(part) for part in detail["loc"]]
    field, kind, value = ".".join(loc), detail["type"], detail["input"]
    if loc[-1:] == ["[key]"]:  # pydantic's word for a name in a mapping
        return InputError(field.removesuffix(".[key]"), f"the name {value!r} is not text", "quote it")
    if kind == "extra_forbidden":
        known = [key for key in _known_keys(detail["loc"], model) if key not in hidden]
        return InputError(field, "unknown key", near_or_known(loc[-1], known))
    if kind == "missing":
        return InputError(field, "is missing", "add it")
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(error := detail.get("ctx", {}).get("error"), InputError):
        return error.below(field)
    if kind == "value_error":
        if not field:  # from a check over several keys, whose message may name the field
            head, colon, rest = message.partition(": ")
            field, message = (head, rest) if colon and " " not in head else ("", message)
        problem, _, remedy = message.partition("; ")
        shown = f"{value!r}: " if isinstance(value, str | int | float) and repr(value) not in problem else ""
        return InputError(field, shown + problem, remedy)
    if kind == "list_type" and isinstance(value, str | int | float):
        return InputError(
            field, problem_of(detail), f"write [{value!r}]" if len(repr(value)) < 80 else "write it in []"
        )
    return InputError(field, problem_of(detail), "correct it")


def _known_keys(loc: Sequence[Any], model: type[BaseModel]) -> list[str]:
    """The keys allowed where an unknown one was found."""
    found: list[Any] = [model]
    for part in loc[:-1]:
        found = [inner for kind in found for inner in _inside(kind, part)]
    return [key for kind in found if _is_model(kind) for key in _own_first(kind)]


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
