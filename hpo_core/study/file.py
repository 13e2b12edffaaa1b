"""Reads study files: YAML 1.2 without its traps, turned into a study specification."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError

from hpo_core.base.errors import InputError
from hpo_core.study.messages import explain
from hpo_core.study.sections import MORE
from hpo_core.study.spec import StudySpec

MAX_FILE_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema instead of PyYAML's 1.1, in which ``on`` is true, ``010`` is 8 and ``1:30`` is 90.

    It also rejects duplicate keys and reads a key ``true`` as a name.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (as PyYAML has it)
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "float", "seq", "map")
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read, since a few of them can stand for gigabytes")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:bool":
                key_node.tag = "tag:yaml.org,2002:str"
            if key_node.value == "<<" and key_node.style is None:
                raise yaml.YAMLError("merge keys (<<) are not of YAML 1.2; write out what they stand for")
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} stands twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_document(self) -> Any:
        """Compose the document; ``stop: {trials: +20}`` keeps its sign, the only place where it has a meaning."""
        node = super().compose_document()
        for stop in _values(node, "stop"):
            for trials in _values(stop, "trials"):
                if isinstance(trials, yaml.ScalarNode) and MORE.fullmatch(trials.value):
                    trials.tag = "tag:yaml.org,2002:str"
        return node

    def construct_text(self, node: Any) -> str:
        """A text; JSON writes a character beyond the first 65,536 as two halves, which are one here too."""
        try:
            return str(self.construct_scalar(node)).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise yaml.YAMLError(f"half a character (line {node.start_mark.line + 1}); write the other, too") from None

    def construct_whole(self, node: Any) -> int:
        """A whole number; a leading zero means nothing, and only ``0o`` and ``0x`` begin another base."""
        text = str(self.construct_scalar(node))
        return int(text[2:], _BASES[text[:2]]) if text[:2] in _BASES else int(text)


_BASES = {"0o": 8, "0x": 16}


def _values(node: Any, key: str) -> list[Any]:
    """The value of a key of a mapping."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return [value for name, value in pairs if name.value == key]


# Chapter 10.3.2 of the specification. Of each: how it is written, and with what it may begin.
for _name, _written, _begins in (
    ("null", r"(null|Null|NULL|~|)", ["n", "N", "~", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_written + r"\Z"), _begins)

_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)

_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


def parse_yaml(text: str) -> Any:
    """Parse YAML 1.2 safely: plain data only, no aliases, no key twice.

    Raises:
        yaml.YAMLError: The text is not such YAML.

    >>> parse_yaml("{low: 1e-4, on: [finished], log: true, kind: [off, yes, 010, 1:30, 2026-01-01]}")
    {'low': 0.0001, 'on': ['finished'], 'log': True, 'kind': ['off', 'yes', 10, '1:30', '2026-01-01']}
    """
    if odd := re.search("[\x85\u2028\u2029]", text):  # to PyYAML they end lines, in YAML 1.2 they do not
        raise yaml.YAMLError(f"the character {odd[0]!r} stands in it; write it as an escape between double quotes")
    try:
        return yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError:
        raise
    except Exception as error:  # whatever int(), date() and the like raise for what only looks like one
        raise yaml.YAMLError(f"{error}") from None


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """The validated study of a file.

    Args:
        path: The YAML file.
        overrides: ``key=value`` each; the key is a dotted path (``stop.trials``), the value is read as YAML.

    Raises:
        InputError: The file is absent, is not YAML, or says something that cannot be used.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(str(path), f"{path.stat().st_size} bytes", f"a study file has at most {MAX_FILE_BYTES}")
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", "check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"is not a YAML file that can be read: {error}", "correct it there") from None
    if not isinstance(data, dict):
        raise InputError(
            str(path), f"holds {type(data).__name__}, not keys and values", "see the README for an example"
        )
    for override in overrides:
        _override(data, override)
    return study_from(data)


def override_spec(spec: StudySpec, overrides: Sequence[str]) -> StudySpec:
    """A stored study with keys overridden, as :func:`load_study` does for a file.

    Raises:
        InputError: An override is not ``key=value``, or says something that cannot be used.
    """
    data = spec.model_dump(mode="json")
    for override in overrides:
        _override(data, override)
    return study_from(data)


def _override(data: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise InputError("--set", f"{override!r} is not key=value", "write it as --set stop.minutes=5")
    try:
        value = text.strip() if path == "stop.trials" and MORE.fullmatch(text.strip()) else parse_yaml(text)
    except yaml.YAMLError as error:
        raise InputError("--set", f"the value in {override!r} is not YAML ({error})", "quote it") from None
    *parents, last = path.split(".")
    for parent in parents:
        if parent == "strategy" and isinstance(data.get(parent), str):
            data[parent] = {"name": data[parent]}
        child = data.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError("--set", f"{override!r}: {parent!r} has no keys of its own", "name the whole path")
        data = child
    data[last] = value


def study_from(data: Mapping[str, Any]) -> StudySpec:
    """The validated study of plain data.

    Raises:
        InputError: Each thing that cannot be used, a line each.
    """
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        lines = [explain(detail) for detail in error.errors()]
    message = "\n".join(str(line) for line in lines)
    first = lines[0]
    first.args = (message,)
    raise first from None
