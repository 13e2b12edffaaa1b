"""Makes settings that a user has written: strict pydantic dataclasses, and one error in plain words for what is wrong.

Strict means that no value is converted: ``true`` is not the number 1, and ``"3"`` is not 3. A whole number serves where
any number does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Annotated, Any, TypeVar, cast

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as checking

from hpo_core.base.errors import InputError

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
"""The configuration of a class of settings: ``@dataclass(frozen=True, config=STRICT)``."""

Count = Annotated[int, Field(ge=1)]
"""A whole number of at least 1."""

Positive = Annotated[float, Field(gt=0)]
"""A finite number above 0."""

Share = Annotated[float, Field(gt=0, le=1)]
"""A number above 0 and up to 1."""


def make_settings(
    cls: Callable[..., T], given: Mapping[str, Any], *, name: str, field: str, hidden: Collection[str] = ()
) -> T:
    """Make the object of a class of settings.

    Args:
        cls: The class.
        given: The settings by name.
        name: What has the settings, such as the name of a strategy, for messages.
        field: Where the user wrote them, as a dotted path.
        hidden: The fields of the class that a user cannot set; messages do not list them.

    Raises:
        InputError: A setting does not exist, or has a value that it cannot have.

    >>> from pydantic.dataclasses import dataclass
    >>> @dataclass(frozen=True, config=STRICT)
    ... class Grid:
    ...     steps: Count = 5
    >>> make_settings(Grid, {"steps": 0}, name="grid", field="strategy")
    Traceback (most recent call last):
    hpo_core.base.errors.InputError: strategy.steps: 0 is not a whole number of at least 1; correct it
    >>> make_settings(Grid, {"step": 3}, name="grid", field="strategy")
    Traceback (most recent call last):
    hpo_core.base.errors.InputError: strategy.step: 'grid' has no setting 'step'; did you mean 'steps'?
    """
    parameters = signature(cls).parameters
    known = [key for key in parameters if key not in hidden]
    if not hasattr(cls, "__pydantic_validator__") and not _is_typed(cls):
        return _plain(cls, given, known, name=name, field=field)
    try:
        return cls(**given) if hasattr(cls, "__pydantic_validator__") else _checked(cls, given)
    except ValidationError as error:
        details = error.errors()
    except Exception as error:  # of a __post_init__
        raise _refused(error, given, known, name=name, field=field) from None
    if not details[0]["loc"]:  # of a __post_init__, too, where pydantic calls it
        raise _refused(details[0].get("ctx", {}).get("error", details[0]["msg"]), given, known, name=name, field=field)
    detail, key = details[0], str(details[0]["loc"][0])
    if detail["type"] == "unexpected_keyword_argument":
        raise InputError(f"{field}.{key}", f"{name!r} has no setting {key!r}", near_or_known(key, known))
    if detail["type"] == "missing":
        raise InputError(f"{field}.{key}", f"{name!r} needs it", "add it")
    if isinstance(given[key], Mapping) and not isinstance(detail["input"], Mapping):
        key = ".".join(map(str, detail["loc"]))  # a value inside
    several = [problem_of(each) for each in details if each["loc"][0] == detail["loc"][0]]  # of a union, one each
    problem, *others = several if len({repr(each["input"]) for each in details}) == 1 else several[:1]
    wanted = [problem, *(other.partition(" is not ")[2] or other for other in others)]
    raise InputError(f"{field}.{key}", " or ".join(wanted), "correct it")


def _is_typed(cls: Callable[..., Any]) -> bool:
    """Whether it is a dataclass that is made from its fields; an ``__init__`` of its own takes what it likes."""
    if not is_dataclass(cast(Any, cls)):
        return False
    return {each.name for each in fields(cast(Any, cls)) if each.init} == signature(cls).parameters.keys()


def _checked(cls: Callable[..., T], given: Mapping[str, Any]) -> T:
    """The object of a dataclass of the standard library, its fields checked by their types as with :data:`STRICT`."""
    frozen = cast(Any, cls).__dataclass_params__.frozen
    checked = checking(cast(Any, cls), frozen=frozen, config=STRICT)(**given)
    # Not the checked one, whose class is made here and cannot be pickled.
    return cls(**{each.name: getattr(checked, each.name) for each in fields(cast(Any, cls)) if each.init})


def _plain(cls: Callable[..., T], given: Mapping[str, Any], known: Sequence[str], *, name: str, field: str) -> T:
    """The object of a class whose settings have no types to be checked by."""
    several = any(each.kind is Parameter.VAR_KEYWORD for each in signature(cls).parameters.values())
    for key in () if several else given.keys() - set(known):
        raise InputError(f"{field}.{key}", f"{name!r} has no setting {key!r}", near_or_known(key, known))
    try:
        return cls(**given)
    except Exception as error:
        raise _refused(error, given, given, name=name, field=field) from None


def _refused(error: object, given: Mapping[str, Any], known: Collection[str], *, name: str, field: str) -> InputError:
    """What a class says itself against its settings."""
    why = str(error) if isinstance(error, str | ValueError) else f"{type(error).__name__}: {error}"
    settings = {key: value for key, value in given.items() if key in known}
    return InputError(field, f"{name!r} refuses its settings {settings} ({why})", "correct them")


def near_or_known(name: str, known: Collection[str]) -> str:
    """A remedy for a name that does not exist: the one that was probably meant, or all there are.

    >>> near_or_known("step", ["steps"]), near_or_known("x", ["a", "b"]), near_or_known("x", [])
    ("did you mean 'steps'?", 'choose one of a, b', 'there is none')
    """
    if near := get_close_matches(name, known, 1):
        return f"did you mean {near[0]!r}?"
    return f"choose one of {', '.join(known)}" if known else "there is none"


def problem_of(detail: Any) -> str:
    """What is wrong with a value, from one error of pydantic: the value, and what it should be.

    >>> problem_of({"type": "less_than", "input": 2.0, "msg": "Input should be less than 1", "ctx": {"lt": 1.0}})
    '2.0 is not a number below 1'
    """
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    shown = repr(value) if len(repr(value)) < 80 else repr(value)[:77] + "..."
    match kind:
        case "greater_than":
            wanted = _bounded("above", context["gt"])
        case "greater_than_equal":
            wanted = _bounded("of at least", context["ge"])
        case "less_than":
            wanted = _bounded("below", context["lt"])
        case "less_than_equal":
            wanted = _bounded("of at most", context["le"])
        case "finite_number":
            wanted = "a finite number"
        case "int_type" | "int_from_float" | "int_parsing":
            wanted = "a whole number"
        case "float_type" | "float_parsing":
            wanted = "a number"
        case "bool_type" | "bool_parsing":
            wanted = "true or false"
        case "string_type":
            wanted = "text"
        case "literal_error":
            wanted = f"one of {_plain_list(context['expected'])}"
        case "dict_type" | "mapping_type":
            wanted = "a mapping of names to values"
        case "list_type":
            wanted = "a list"
        case "model_type" | "model_attributes_type" | "dataclass_type":
            wanted = "a mapping of keys to values"
        case "string_too_short" | "too_short":
            least = context["min_length"]
            what = ("character" if kind == "string_too_short" else "entry") if least == 1 else "of them"
            return f"{shown} is too short: give at least {least} {what}"
        case _:
            message = detail["msg"].removeprefix("Value error, ")
            return f"{shown}: {message[0].lower()}{message[1:]}"
    return f"{shown} is not {wanted}"


def _bounded(word: str, bound: float) -> str:
    """Pydantic gives the bound of a whole number as an int, and that of any other number as a float.

    >>> _bounded("below", 2**32), _bounded("above", 0.5)
    ('a whole number below 4294967296', 'a number above 0.5')
    """
    if isinstance(bound, int):
        return f"a whole number {word} {bound}"
    return f"a number {word} {bound:g}"


def _plain_list(expected: str) -> str:
    """Pydantic's list of alternatives, without quotes.

    >>> _plain_list("'adam' or 'sgd'"), _plain_list("'a', 'b' or 'c'")
    ('adam, sgd', 'a, b, c')
    """
    return expected.replace("'", "").replace(" or ", ", ")
