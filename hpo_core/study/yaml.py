"""Reads YAML 1.2 by ruamel.yaml, without what could surprise in a study file.

To ruamel.yaml, ``on`` is a text and ``1e-4`` a number, and a key may occur only once. Here, too, a date is a text, no
alias is followed, and ``trials: +20`` keeps its sign.
"""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, ScalarNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.scanner import Scanner
from ruamel.yaml.tag import Tag

from hpo_core.study.sections import MORE

__all__ = ["YAMLError", "parse_yaml"]

_TEXT, _BOOL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:bool"

_UNREAD = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "merge", "value")}
"""Types that a plain word could have in YAML 1.1: a date, ``<<`` and ``=``."""


_SMALL = re.compile(r"[-+]?\.[0-9]+[eE][-+]?[0-9]+")
"""A number such as ``.5e1``, which ruamel.yaml reads as a text."""


class _Resolver(VersionedResolver):
    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0] and _SMALL.fullmatch(value):
            return Tag(suffix="tag:yaml.org,2002:float")
        tag = super().resolve(kind, value, implicit)
        return Tag(suffix=_TEXT) if str(tag) in _UNREAD or _is_grouped(kind, value, str(tag)) else tag


def _is_grouped(kind: Any, value: Any, tag: str) -> bool:
    """Whether a word would be a number only in YAML 1.1: ``1_000``, or ``0b11``."""
    return kind is ScalarNode and tag.endswith((":int", ":float")) and ("_" in value or "b" in value[:3].lower())


class _Scanner(Scanner):
    """Takes ``>= 0.9`` for a text, as ``<= 0.9`` is one; to YAML ``>`` begins a folded text, and ``=`` is an error."""

    def fetch_folded(self) -> Any:
        return self.fetch_plain() if self._is_bound() else super().fetch_folded()

    def check_plain(self) -> Any:
        return self._is_bound() or super().check_plain()

    def _is_bound(self) -> bool:
        return bool(self.reader.prefix(2) == ">=")


class _Composer(Composer):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.parser.check_event(AliasEvent):
            raise YAMLError("aliases (*name) are not read, since a few of them can stand for gigabytes")
        return super().compose_node(parent, index)

    def compose_document(self) -> Any:
        """Compose the document; ``stop: {trials: +20}`` keeps its sign, the only place where it has a meaning."""
        node = super().compose_document()
        for stop in _values(node, "stop"):
            for trials in _values(stop, "trials"):
                if isinstance(trials, ScalarNode) and MORE.fullmatch(trials.value):
                    trials.tag = _TEXT
        return node


def _values(node: Any, key: str) -> list[Any]:
    """The value of a key of a mapping."""
    pairs = node.value if isinstance(node, MappingNode) else []
    return [value for name, value in pairs if name.value == key]


class _Constructor(SafeConstructor):
    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        for key, _ in node.value if isinstance(node, MappingNode) else []:
            if not isinstance(key, ScalarNode):
                raise YAMLError(f"a list or a mapping is used as a key (line {key.start_mark.line + 1})")
            if key.tag == _BOOL:
                key.tag = _TEXT  # a parameter may be called true
        return super().construct_mapping(node, deep)

    def construct_text(self, node: Any) -> str:
        """A text; JSON writes a character beyond the first 65,536 as two halves, which are one here too."""
        try:
            return str(self.construct_scalar(node)).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise YAMLError(f"half a character (line {node.start_mark.line + 1}); write the other, too") from None


_Constructor.add_constructor(_TEXT, _Constructor.construct_text)
for _name in ("timestamp", "binary", "set", "omap", "pairs"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_name}", SafeConstructor.construct_undefined)


def parse_yaml(text: str) -> Any:
    """Parse YAML 1.2 safely: plain data only, no aliases, no key twice.

    Raises:
        YAMLError: The text is not such YAML; the message is one line.

    >>> parse_yaml("{low: 1e-4, on: [finished], log: true, kind: [off, yes, 010, 1:30, 2026-01-01]}")
    {'low': 0.0001, 'on': ['finished'], 'log': True, 'kind': ['off', 'yes', 10, '1:30', '2026-01-01']}
    >>> parse_yaml("{recall: >= 0.9, ms: <= 20}")
    {'recall': '>= 0.9', 'ms': '<= 20'}
    """
    if odd := re.search("[\x85\u2028\u2029]", text):  # they end lines in YAML 1.1, but not in YAML 1.2
        raise YAMLError(f"it contains the character {odd[0]!r}; write that as an escape sequence in double quotes")
    reader = YAML(typ="safe", pure=True)
    reader.Scanner, reader.Resolver, reader.Composer, reader.Constructor = _Scanner, _Resolver, _Composer, _Constructor
    try:
        return reader.load(text)
    except DuplicateKeyError as error:
        key = re.search(r'found duplicate key "(.*?)" with value', str(error.problem), re.DOTALL)
        line = error.problem_mark.line + 1
        raise YAMLError(f"the key {key[1] if key else ''!r} is given twice (line {line})") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise YAMLError(f"{error.problem or error.context}{where}") from None
    except YAMLError:
        raise
    except Exception as error:  # whatever int(), float() and the like raise for what only looks like one
        raise YAMLError(f"{error}") from None
