"""Reads study files, with overrides of single keys, and turns them into a study specification."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpo_core.base.errors import InputError
from hpo_core.base.explaining import all_of
from hpo_core.study.definition import FOLDERS, KEPT_WISHES
from hpo_core.study.messages import explain
from hpo_core.study.sections import MORE, READING
from hpo_core.study.spec import StudySpec
from hpo_core.study.yaml import YAMLError, parse_yaml

MAX_FILE_BYTES = 1_000_000


def load_study(path: Path, overrides: Sequence[str] = (), *, reading: bool = False) -> StudySpec:
    """The validated study of a file.

    Args:
        path: The YAML file.
        overrides: ``key=value`` each; the key is a dotted path (``stop.trials``), the value is read as YAML.
        reading: As for :func:`study_from`.

    Raises:
        InputError: The file is absent, is not YAML, or says something that cannot be used.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(str(path), f"{path.stat().st_size} bytes", f"a study file has at most {MAX_FILE_BYTES}")
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", "check the path") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"is not a YAML file that can be read: {error}", "correct it there") from None
    if not isinstance(data, dict):
        raise InputError(
            str(path), f"holds {type(data).__name__}, not keys and values", "see the README for an example"
        )
    _override(data, overrides)
    return study_from(data, reading=reading, folders=(os.getcwd(), str(path.absolute().parent)))


def override_spec(
    spec: StudySpec, overrides: Sequence[str], option: str = "--set", *, reading: bool = False
) -> StudySpec:
    """A stored study with keys overridden, as :func:`load_study` does for a file.

    Args:
        spec: The study.
        overrides: ``key=value`` each.
        option: What the user knows them by, for error messages.
        reading: As for :func:`study_from`.

    Raises:
        InputError: An override is not ``key=value``, or says something that cannot be used.
    """
    data = spec.model_dump(mode="json")
    _override(data, overrides, option)
    return _validated(data, {READING: reading, KEPT_WISHES: (spec.prefer, spec.limits)})


def settings_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Settings that are given one by one, ``key=value`` each.

    Raises:
        InputError: One is not.

    >>> settings_of(["start=5", "sampler.name=tpe"])
    {'start': 5, 'sampler': {'name': 'tpe'}}
    """
    settings: dict[str, Any] = {}
    _override(settings, overrides)
    return settings


def _override(data: dict[str, Any], overrides: Sequence[str], option: str = "--set") -> None:
    """Set keys, of which none may take back what another one says.

    Raises:
        InputError: One is not ``key=value``, or two say something of the same key.
    """
    given: dict[tuple[str, ...], tuple[str, Any]] = {}
    for override in overrides:
        path, value = _parsed(override, option)
        if path in given:
            raise _given_twice(path, given[path][0], override, option)
        given[path] = override, value
    for path in sorted(given, key=len):  # so strategy=tpe does not undo strategy.start=5, in whatever order they come
        override, value = given[path]
        for length in range(1, len(path)):
            whole, inside = given.get(path[:length], ("", None))
            if _says(inside, path[length:]):
                raise _given_twice(path, whole, override, option)
        _set(data, path, value, override, option)


def _given_twice(path: Sequence[str], one: str, other: str, option: str) -> InputError:
    return InputError(option, f"{'.'.join(path)!r} is given twice, by {one!r} and {other!r}", "keep one")


def _parsed(override: str, option: str) -> tuple[tuple[str, ...], Any]:
    """The keys that lead to a value, and the value."""
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise InputError(option, f"{override!r} is not key=value", "write it as stop.minutes=5")
    if path == "stop.trials" and MORE.fullmatch(text.strip()):
        return ("stop", "trials"), text.strip()
    try:
        return tuple(path.split(".")), parse_yaml(text)
    except YAMLError as error:
        raise InputError(option, f"the value in {override!r} is not YAML ({error})", "quote it") from None


def _says(value: Any, path: Sequence[str]) -> bool:
    """Whether a value has something at a place inside it; a text is the name of a strategy."""
    for key in path:
        value = {"name": value} if isinstance(value, str) else value
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


def _set(data: dict[str, Any], path: Sequence[str], value: Any, override: str, option: str) -> None:
    *parents, last = path
    for parent in parents:
        if parent == "strategy" and isinstance(data.get(parent), str):
            data[parent] = {"name": data[parent]}
        child = data.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError(option, f"{override!r}: {parent!r} has no keys of its own", "name the whole path")
        data = child
    data[last] = value


def study_from(data: Mapping[str, Any], *, reading: bool = False, folders: Sequence[str] = ()) -> StudySpec:
    """The validated study of plain data.

    Args:
        data: The keys of a study file.
        reading: Whether the study is only looked at, which must be possible where the user's own strategy is not: it
            is not imported.
        folders: Where it is looked for before anywhere else; the working folder if none is given.

    Raises:
        InputError: Each thing that cannot be used, a line each.
    """
    return _validated(data, {READING: reading, FOLDERS: folders})


def _validated(data: Mapping[str, Any], context: Mapping[str, Any]) -> StudySpec:
    try:
        return StudySpec.model_validate(data, context=context)
    except ValidationError as error:
        lines = [explain(detail) for detail in error.errors()]
    raise all_of(lines) from None
