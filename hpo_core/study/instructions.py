"""Defines what people may tell a study that runs: a configuration to try next, settings, a trial to stop, a pause.

An instruction is a text under an id of its own, so nothing is lost when two people say something at once. The ids begin
with the time, which puts the instructions in order. None is ever taken back: what they come to follows from all of
them. A configuration is taken up by whoever reserves a trial with it, exactly once, since it then is in the history.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from hpo_core.space.configuration import Config

Kind = Literal["enqueue", "set", "stop", "pause", "resume"]

SETTLED = "settled"
"""The key of the changed settings that no longer hold: a study file that was changed later has overruled them."""

ENQUEUED = "enqueued"
"""The strategy, and the note with the instruction's id, of a trial whose configuration was enqueued."""


@dataclass(frozen=True)
class Instruction:
    """One instruction that somebody gave a study.

    Args:
        id: When it was said, in milliseconds since 1970 with 13 digits, and a random part.
        kind: What it is about.
        value: ``enqueue``: a configuration. ``set``: ``key=value`` for each changed key. ``stop``: the trial's number.
        reason: Why, if that was said.
        settled: Of ``set``: the keys of changes that no longer hold.
    """

    id: str
    kind: Kind
    value: Any = None
    reason: str = ""
    settled: tuple[str, ...] = ()

    def __str__(self) -> str:
        match self.kind:
            case "enqueue":
                said = f"hpo enqueue {json.dumps(self.value, ensure_ascii=False)}"
            case "set":
                said = f"hpo set {' '.join(map(str, self.value))}"
            case "stop":
                said = f"hpo stop --trial {self.value}"
            case _:
                said = f"hpo {self.kind}"
        return f"{said}: {self.reason}" if self.reason else said

    @property
    def text(self) -> str:
        """The instruction without its id, as JSON."""
        document = {self.kind: self.value} | ({"reason": self.reason} if self.reason else {})
        return json.dumps(document | ({SETTLED: list(self.settled)} if self.settled else {}))

    @property
    def holding(self) -> list[str]:
        """The changes of settings that hold."""
        return [] if self.kind != "set" else [each for each in self.value if key_of(each) not in self.settled]

    @classmethod
    def parse(cls, id: str, text: str) -> Instruction | None:
        """The inverse of :attr:`text`; None if it is damaged, or of a later version of this project."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(document, dict) or not (kinds := [kind for kind in get_args(Kind) if kind in document]):
            return None
        kind = kinds[0]
        value, fits = document[kind], {"enqueue": dict, "set": list, "stop": int}.get(kind, object)
        if not isinstance(value, fits):
            return None
        settled = document.get(SETTLED)
        if not isinstance(settled, list):  # earlier versions settled an instruction as a whole
            settled = [key_of(each) for each in document[kind]] if settled and kind == "set" else []
        return cls(id, kind, value, str(document.get("reason", "")), tuple(map(str, settled)))


def key_of(change: object) -> str:
    """The key of a change ``key=value``."""
    return str(change).partition("=")[0]


def new_id(now_ms: int) -> str:
    """An id for an instruction that is given now."""
    return f"{now_ms:013d}.{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Instructions:
    """All instructions that a study was given.

    >>> found = Instructions.of({"2.b": '{"pause": null}', "1.a": '{"enqueue": {"x": 1}}', "3.c": "damaged"})
    >>> found.paused, found.queue
    (True, {'1.a': {'x': 1}})
    """

    every: tuple[Instruction, ...] = ()

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> Instructions:
        """The instructions, from their texts by id."""
        found = (Instruction.parse(id, text) for id, text in sorted(texts.items()))
        return cls(tuple(each for each in found if each is not None))

    @cached_property
    def queue(self) -> dict[str, Config]:
        """The configurations to try next, by the ids of their instructions; those that were tried are among them."""
        return {each.id: each.value for each in self.every if each.kind == "enqueue"}

    @property
    def paused(self) -> bool:
        """Whether no trial is to start for now."""
        return next((each.kind == "pause" for each in reversed(self.every) if each.kind in ("pause", "resume")), False)

    def beyond(self, known: Instructions) -> list[Instruction]:
        """The instructions that are not among the known ones."""
        ids = {each.id for each in known.every}
        return [each for each in self.every if each.id not in ids]
