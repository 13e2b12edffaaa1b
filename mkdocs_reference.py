"""Writes the page ``reference.md`` of the site from the models that read study files; the hooks of ``mkdocs.yml``.

A key, a parameter type, a strategy or a rule that the code gains shows up here by itself. One without a description
ends the build.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import posixpath
import re
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hpo_core.history.fidelity import Fidelity
from hpo_core.selection.early_stopping import RULES, make_rule
from hpo_core.space.parameters import Boolean, Choice, Fixed, Float, Int, Ordinal
from hpo_core.strategies.make import STRATEGIES, make_strategy
from hpo_core.study.resume import MAY_CHANGE
from hpo_core.study.spec import StudySpec

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

PARAMETERS: tuple[type[BaseModel], ...] = (Float, Int, Choice, Ordinal, Boolean, Fixed)
NAMED = {"StrategySpec": "strategies", "EarlyStopSpec": "early-stopping", "Parameter": "parameters"}
"""What the study file gives as a name with settings: the section that lists names and settings."""

SOME_FIDELITY = Fidelity("epochs", 1, 27)

INTRODUCTION = """# The study file

Generated from the models that read study files, so what stands here is what is accepted. Keys without a default have to
be given; an unknown key is an error that names the nearest one. `hpo validate STUDY.yaml` checks a file, and `--set
KEY=VALUE` overrides a key by its dotted path (`--set stop.minutes=5`). Both are read as YAML 1.2: `1e-4` is a number,
`on`, `off`, `yes`, `no` and `1:30` are texts, `010` is ten.

A study that exists takes over from a changed file the keys marked "on resume: yes"; a change of another one is an error
that prints the difference.
"""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put all decisions behind the last section of the navigation; called by mkdocs."""
    folder = Path(config.docs_dir)
    (section,) = config.nav[-1].values()
    section += [path.relative_to(folder).as_posix() for path in sorted(folder.glob("decisions/*.md"))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated page; called by mkdocs."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference.md", content=page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave the words of links to files outside of ``docs/``, which the site does not have; called by mkdocs."""
    folder = PurePosixPath(page.file.src_uri).parent

    def keep(link: re.Match[str]) -> str:
        inside = not posixpath.normpath(folder / link[2]).startswith("..")
        return link[0] if inside else link[1]

    return re.sub(r"\[([^\]]+)\]\((\.\./[^)#]+)\)", keep, markdown)


def page() -> str:
    """The whole page in Markdown."""
    sections = dict(_sections(StudySpec))
    parts = [INTRODUCTION, _table(_rows(StudySpec, resume=True), "on resume")]
    for name, model in sections.items():
        parts += [f"## `{name}`", _summary(model), _table(_rows(model))]
    parts += ["## Parameters", "The values of `space`, each `NAME: {type: ..., ...}`."]
    for parameter in PARAMETERS:
        parts += [f"### `{parameter.model_fields['type'].default}`", _summary(parameter), _table(_rows(parameter))]
    parts += ["## Strategies", "`strategy: NAME`, or `strategy: {name: NAME, SETTING: VALUE}`."]
    for name, strategy in STRATEGIES.items():
        parts += [f"### `{name}`", _summary(strategy), _table(_settings(make_strategy(name, {}, SOME_FIDELITY)))]
    parts += ["## Early stopping", "`early_stop: RULE`, or `early_stop: {rule: RULE, SETTING: VALUE}`."]
    for name, rule in RULES.items():
        parts += [f"### `{name}` {{ #early-{name} }}", _summary(rule), _table(_settings(make_rule(name, {})))]
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


Row = tuple[str, ...]


def _rows(model: type[BaseModel], *, resume: bool = False) -> Iterator[Row]:
    fields = dict(model.model_fields)
    fields.pop("type", None)  # the heading of a parameter's section
    if "when" in fields:  # inherited, and so first
        fields["when"] = fields.pop("when")
    for name, field in fields.items():
        meaning = field.description or next((_first_sentence(inner) for inner in _models(field.annotation)), "")
        row = _row(f"{model.__name__}.{name}", name, _type(name, field), _default(field), meaning)
        yield (*row, "yes" if name in MAY_CHANGE else "no") if resume else row


def _settings(default: Any) -> Iterator[Row]:
    """The settings of a strategy or rule: a dataclass, here as it is without any, whose docstrings describe them."""
    cls = type(default)
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        meanings |= _arguments(base.__doc__ or "")
    hints = typing.get_type_hints(cls, include_extras=True)
    nested = getattr(cls, "nested", {})  # a rule has none
    for field in dataclasses.fields(cls):
        if field.init and field.name != "fidelity":  # which is the study's
            value = getattr(default, field.name)
            shown = f"`{value.name}`" if field.name in nested and value else _value(value)
            kind = "a strategy" if field.name in nested else _named(hints[field.name])
            yield _row(f"{cls.__name__}.{field.name}", field.name, kind, shown, meanings.get(field.name, ""))


def _row(where: str, name: str, kind: str, default: str, meaning: str) -> Row:
    if not meaning:
        raise ValueError(f"{where} has no description; give it one where it is declared")
    return f"`{name}`", kind, default, _markdown(meaning)


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
    if not lines:
        return "No settings."
    heads = ["key", "type", "default", "meaning", *further]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *lines])


def _first_sentence(cls: type[Any]) -> str:
    return re.split(r"(?<=\.)\s", inspect.getdoc(cls) or "", maxsplit=1)[0]


def _summary(cls: type[Any]) -> str:
    """A docstring's paragraphs, without its list of arguments and its examples."""
    paragraphs = re.split(r"\n\n+", inspect.getdoc(cls) or "")
    return _markdown("\n\n".join(each for each in paragraphs if not each.startswith(("Args:", ">>>", "Attributes:"))))


def _arguments(doc: str) -> dict[str, str]:
    """The descriptions under ``Args:``, by name."""
    match = re.search(r"^Args:\n((?:    .*\n?)+)", inspect.cleandoc(doc), re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", match[1] if match else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _markdown(text: str) -> str:
    """Docstrings are written in reStructuredText: ``code`` and :class:`links`."""
    text = re.sub(r":(?:class|attr):`~?(?:[\w.]*\.)?(\w+)`|:\w+:`([\w.]+)`", r"`\1\2`", text)
    return re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL).replace("|", "\\|")
