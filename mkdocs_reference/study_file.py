"""Writes ``study-file.md`` from the models that read study files.

A key, a parameter type, a strategy or a rule that the code gains shows up here by itself. One without a description
is an error.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hpo_core.history.fidelity import Fidelity
from hpo_core.selection.early_stopping import RULES, make_rule
from hpo_core.space.parameters import Boolean, Choice, Fixed, Float, Int, Ordinal
from hpo_core.strategies.make import STRATEGIES, make_strategy
from hpo_core.study.callbacks import CALLBACKS, SCHEDULES
from hpo_core.study.resume import CHANGES_SPACE, MAY_CHANGE
from hpo_core.study.spec import StudySpec
from mkdocs_reference.text import Row, cell, first_sentence, section, summary, table

PARAMETERS: tuple[type[BaseModel], ...] = (Float, Int, Choice, Ordinal, Boolean, Fixed)
NAMED = {"StrategySpec": "strategies", "EarlyStopSpec": "early-stopping", "Parameter": "parameters"}
"""What the study file gives as a name with settings: the section that lists names and settings."""

SOME_FIDELITY = Fidelity("epochs", 1, 27)

INTRODUCTION = """# The study file

This page is generated from the models that read study files. Keys without a default have to be given; an unknown
key is an error that names the nearest one. `hpo validate STUDY.yaml` checks a file, and `--set KEY=VALUE` overrides
a key by its dotted path (`--set stop.minutes=5`). Both are read as YAML 1.2: `1e-4` is a number, `on`, `off`,
`yes`, `no` and `1:30` are texts, `010` is ten.

A study that exists takes over from a changed file the keys marked "on resume: yes"; a change of another one is an
error that prints the difference. The space changes [on request](../how-to/running-study.md#another-space).
"""


PARAMETER_NOTE = """\
The values of `space`, each `NAME: {type: ..., ...}`. A name may have any characters that can be printed;
[MLflow's key](mlflow.md#a-trial) is the same wherever MLflow takes it."""

CALLBACK_NOTE = """\
`callbacks: [NAME, {NAME: {SETTING: VALUE}}]`: Keras' callbacks with Keras' defaults. `TerminateOnNaN` has no
settings; `LearningRateScheduler` has a `schedule` with settings of its own, or `schedule: module:function`, a
function of (epoch, rate)."""


def page() -> str:
    """The whole page in Markdown."""
    sections = dict(_sections(StudySpec))
    parts = [INTRODUCTION, _table(_rows(StudySpec, resume=True), "on resume")]
    for name, model in sections.items():
        parts += [f"## `{name}`", summary(model.__doc__), _table(_rows(model))]
    parts += ["## Parameters", PARAMETER_NOTE]
    for parameter in PARAMETERS:
        parts += [
            f"### `{parameter.model_fields['type'].default}`",
            summary(parameter.__doc__),
            _table(_rows(parameter)),
        ]
    parts += ["## Strategies", "`strategy: NAME`, or `strategy: {name: NAME, SETTING: VALUE}`."]
    for name, strategy in STRATEGIES.items():
        parts += [f"### `{name}`", summary(strategy.__doc__), _table(_settings(make_strategy(name, {}, SOME_FIDELITY)))]
    parts += ["## Early stopping", "`early_stop: RULE`, or `early_stop: {rule: RULE, SETTING: VALUE}`."]
    for name, rule in RULES.items():
        parts += [f"### `{name}`", summary(rule.__doc__), _table(_settings(make_rule(name, {})))]
    parts += ["## Callbacks", CALLBACK_NOTE]
    for name, cls in [*CALLBACKS.items(), *((f"schedule: {name}", cls) for name, cls in SCHEDULES.items())]:
        if dataclasses.fields(cls):
            parts += [f"### `{name}`", table(["setting", "type", "default"], _callback(cls))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside an annotation such as ``list[WarmStart] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The keys that hold keys of their own, by dotted path, but for those that have a list of names."""
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            if inner not in PARAMETERS and inner.__name__ not in NAMED:
                yield f"{path}{name}", inner
                yield from _sections(inner, f"{path}{name}.")


def _rows(model: type[BaseModel], *, resume: bool = False) -> Iterator[Row]:
    fields = dict(model.model_fields)
    if model in PARAMETERS:
        del fields["type"]  # the heading of its section
    if "when" in fields:  # inherited, and so first
        fields["when"] = fields.pop("when")
    for name, field in fields.items():
        meaning = field.description or next((first_sentence(inner.__doc__) for inner in _models(field.annotation)), "")
        row = _row(f"{model.__name__}.{name}", name, _type(name, field), _default(field), meaning)
        yield (*row, _on_resume(name)) if resume else row


def _on_resume(key: str) -> str:
    if key in CHANGES_SPACE:
        return "with `--change-space`"
    return "yes" if key in MAY_CHANGE else "no"


def _settings(default: Any) -> Iterator[Row]:
    """The settings of a strategy or rule: a dataclass, here as it is without any, whose docstrings describe them."""
    cls = type(default)
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        meanings |= section(base.__doc__, "Args")
    hints = typing.get_type_hints(cls, include_extras=True)
    nested = getattr(cls, "nested", {})  # a rule has none
    for field in dataclasses.fields(cls):
        if field.init and field.name != "fidelity":  # which is the study's
            value = getattr(default, field.name)
            shown = f"`{value.name}`" if field.name in nested and value else _value(value)
            kind = "a strategy" if field.name in nested else _named(hints[field.name])
            yield _row(f"{cls.__name__}.{field.name}", field.name, kind, shown, meanings.get(field.name, ""))


def _callback(cls: type[Any]) -> Iterator[Row]:
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        default = "*required*" if field.default is dataclasses.MISSING else _value(field.default)
        yield f"`{field.name}`", _named(hints[field.name]), default


def _row(where: str, name: str, kind: str, default: str, meaning: str) -> Row:
    if not meaning:
        raise ValueError(f"{where} has no description; give it one where it is declared")
    return f"`{name}`", kind, default, cell(meaning)


def _type(name: str, field: FieldInfo) -> str:
    if any(inner in PARAMETERS for inner in _models(field.annotation)):
        return "[parameters](#parameters) by name"
    text = _named(field.annotation).replace("#keys", f"#{name}")
    return ", ".join([text, *_bounds(field.metadata)])


def _bounds(metadata: Iterable[Any]) -> list[str]:
    """What pydantic says of a number, besides its type."""
    return [f"{sign} {getattr(each, key)}" for each in metadata for key, sign in SIGNS.items() if hasattr(each, key)]


SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any JSON scalar"}


def _named(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in PLAIN:
        return PLAIN[annotation]
    if origin is typing.Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if origin is typing.Annotated:
        inside = [found for each in arguments[1:] if isinstance(each, FieldInfo) for found in each.metadata]
        return ", ".join([_named(arguments[0]), *_bounds(inside)])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_named(each) for each in arguments if each is not type(None)))
    if origin is list:
        return f"list of {_named(arguments[0])}"
    if origin is not None and len(arguments) == 2:  # dict, Mapping
        return f"{_named(arguments[1])} by name"
    if annotation.__name__ in NAMED:
        return f"[a name, or with settings](#{NAMED[annotation.__name__]})"
    return "[keys](#keys)"


def _default(field: FieldInfo) -> str:
    return _value(field.get_default(call_default_factory=True))


def _value(value: Any) -> str:
    """A default as it would stand in the file; nothing where it has to be given, or where absence is the default."""
    if value is PydanticUndefined:
        return "*required*"
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True)
        value = next(iter(value.values())) if len(value) == 1 else value
    return "" if value is None or value in ("", [], {}) else f"`{json.dumps(value).strip(chr(34))}`"


def _table(rows: Iterable[Row], *further: str) -> str:
    lines = list(rows)
    return table(["key", "type", "default", "meaning", *further], lines) if lines else "No settings."
