"""Writes what concerns a study as a whole into its own run, and reads what people have told it there.

Each edition is a document under a key of its own, ``hpo.edition.<time>.<random>``, written once: the specification that
it began with, and the values that earlier trials count as having had. So two flows at once lose nothing, and a flow
that dies has either written one or not. The last document by its id is in force. ``hpo.spec`` has the settings that
changed since, as long as whoever wrote them knew the last edition; what a flow with the old space writes there counts
for nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hpo_core.base.errors import InputError, TrackingRefusal
from hpo_core.base.storable import plain
from hpo_core.history.history import History
from hpo_core.ledger import ownership
from hpo_core.ledger.store import Metric, Run, Store
from hpo_core.ledger.tags import TAG_LENGTH, Tag, join_tag, parse_count, split_tag
from hpo_core.selection.final_choice import Choice
from hpo_core.space.configuration import Scalar
from hpo_core.study.editions import KEPT
from hpo_core.study.instructions import Instruction, Instructions, Kind, new_id
from hpo_core.study.spec import StudySpec

STOPPED = "hpo stop was called"
"""Why a study ended that somebody stopped."""

NOTICED_MS = 10_000
"""How long flows take at most to notice that they are to stop; until then they may start another trial."""

STOP_HOLDS_MS = 60_000
"""For so long after ``hpo stop``, and after the trials that ran then, ``hpo ask`` gives none: a loop asks at once."""

FIRST = f"{0:013d}.{0:08x}"
"""Under this id stands what a study was before its space was changed. A trial of that time bears no edition."""

_ID = re.compile(r"[0-9]{13}\.[0-9a-f]{8}")

_KEY = re.compile(re.escape(Tag.EDITION) + rf"\.({_ID.pattern})")


class StudyRun:
    """The run of one study in MLflow.

    Args:
        store: MLflow.
        run: The run, as it was when the study was opened.
        name: The study's name.
    """

    def __init__(self, store: Store, run: Run, name: str) -> None:
        self.store, self.run, self.name = store, run, name
        self._stop = run.tags.get(Tag.STOP)

    def log(self, tags: Mapping[str, str], metrics: Sequence[Metric] = ()) -> None:
        """Write tags and metrics of the study; one request."""
        self.store.log(self.run.id, metrics, {}, tags)

    def describe(self, text: str) -> None:
        """Write the study's description, in Markdown."""
        self.log({"mlflow.note.content": text[:TAG_LENGTH]})

    def set_status(self, status: str) -> None:
        """Set the study's status in MLflow if it differs."""
        if status != self.run.status:
            self.store.set_status(self.run.id, status)
            self.run = replace(self.run, status=status)

    def end(self, history: History, reason: str) -> None:
        """Note why the study ended with these trials; one request, none if that stands there already."""
        text = f"{history.next_number}: {plain(reason)}"[:TAG_LENGTH]
        if self.run.tags.get(Tag.ENDED) != text:
            self.log({Tag.ENDED: text})
            self.run = replace(self.run, tags={**self.run.tags, Tag.ENDED: text})

    def request_stop(self) -> None:
        """Ask every flow working on the study to start no further trial."""
        self.log({Tag.STOP: str(ownership.now_ms())})

    @property
    def instructions(self) -> Instructions:
        """What people have told the study, as last read."""
        return instructions_of(self.run)

    def instruct(self, kind: Kind, value: Any = None, reason: str = "") -> Instruction:
        """Tell every flow that works on the study, or is going to; two requests.

        What is said later has the later id, also where the clock of whoever said the earlier thing is ahead.
        """
        known = instructions_of(self.check_there()).every
        instruction = Instruction(_id_after(max((each.id for each in known), default="")), kind, value, reason)
        self.log(instruction_tags([instruction]))
        return instruction

    def refresh(self, patience: float | None = None) -> list[Instruction]:
        """Read the study's run again; returns what people have told it since. One request.

        Args:
            patience: Seconds to keep retrying an unresponsive store; None for the store's default.

        Raises:
            InputError: The study was deleted in MLflow.
        """
        known, self.run = self.instructions, self.check_there(patience)
        return self.instructions.beyond(known)

    def check_there(self, patience: float | None = None) -> Run:
        """Read the study's run again; one request.

        Args:
            patience: As for :meth:`refresh`.

        Raises:
            InputError: It was deleted in MLflow.
        """
        id, experiment, field = self.run.id, self.run.experiment, f"study {self.name!r}"
        try:
            run = (self.store if patience is None else self.store.with_patience(patience)).get(id)
        except TrackingRefusal as error:
            raise InputError(field, f"its run {id} is gone from MLflow ({error})", "go on under another name") from None
        if run.deleted:
            raise InputError(
                field,
                f"it was deleted in MLflow (run {id} of experiment {experiment})",
                f"restore it (mlflow runs restore --run-id {id}; if the whole experiment was deleted, mlflow "
                f"experiments restore --experiment-id {experiment}) and run it again to go on",
            )
        return run

    @property
    def stop_requested(self) -> bool:
        """Whether a stop was requested since this ledger was opened, as last read."""
        return self.run.tags.get(Tag.STOP) != self._stop


def end_of(run: Run) -> tuple[int, str]:
    """How many trials a study had when it last ended, and why it ended; nothing if it never did.

    What begins after that is not covered by the reason.
    """
    count, _, reason = run.tags.get(Tag.ENDED, "").partition(": ")
    return parse_count(count, 15) or 0, reason


def why_ended(run: Run, history: History) -> str:
    """Why a study has ended, as its last flow noted it; empty if it goes on, or none did."""
    count, reason = end_of(run)
    return reason if count == history.next_number and not history.under_way else ""


def winner_of(run: Run, history: History) -> int | None:
    """The number of the winner that the final choice of a study that has ended came to; None if there is none."""
    return parse_count(run.tags.get(Tag.WINNER, ""), 6) if why_ended(run, history) else None


def stop_asked(run: Run, history: History) -> int | None:
    """When ``hpo stop`` was called, in milliseconds since 1970; None if trials have begun since, or it never was."""
    asked = parse_count(run.tags.get(Tag.STOP, ""), 15)
    return None if asked is None or any(trial.start > asked + NOTICED_MS for trial in history.every) else asked


def stop_holds(run: Run, history: History, now_ms: int) -> bool:
    """Whether ``hpo stop`` is also meant for whoever asks for a trial by single commands, which remember nothing."""
    if (asked := stop_asked(run, history)) is None:
        return False
    last = max([asked, *(now_ms if trial.end is None else trial.end for trial in history.every)])
    return now_ms - last < STOP_HOLDS_MS


def instructions_of(run: Run) -> Instructions:
    """What people have told a study, from its run."""
    start = f"{Tag.INSTRUCTION}."
    texts = {key.removeprefix(start): text for key, text in run.tags.items() if key.startswith(start)}
    return Instructions.of(texts)


def instruction_tags(instructions: Iterable[Instruction]) -> dict[str, str]:
    """The tags of instructions, each under a key of its own."""
    return {f"{Tag.INSTRUCTION}.{each.id}": each.text for each in instructions}


def name_winner(study: StudyRun, spec: StudySpec, choice: Choice) -> None:
    """Write the winner into the study's run: tags that name it, the mean over its folds, and its score on the test set.

    Idempotent: each value carries the time at which it became known, so a repeat writes the same points.
    """
    winner = choice.winner
    if winner is None or spec.final is None:
        return
    ends = [fold.end or 0 for fold in winner.folds.values()]
    values: dict[str, float] = {}
    for i, each in enumerate(spec.objectives):
        own = winner.by(i)
        values[f"final/{each.metric}"] = each.sign * own.mean
        values[f"final/{each.metric}_standard_error"] = own.standard_error
    metrics = [Metric(key, value, max(ends)) for key, value in values.items()]
    if choice.test is not None:
        metrics += [Metric(f"test/{key}", value, choice.test.end or 0) for key, value in choice.test.metrics.items()]
    tags = {
        Tag.WINNER: str(winner.trial.number),
        Tag.WINNER_RUN: winner.trial.run_id,
        Tag.WINNER_RULE: spec.final.rule,
    }
    study.log(tags, metrics)


def _documents(tags: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The editions' documents by id, in order; damaged ones are left out."""
    found: dict[str, dict[str, Any]] = {}
    for id in sorted(match[1] for key in tags if (match := _KEY.fullmatch(key))):
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(join_tag(f"{Tag.EDITION}.{id}", tags))
            if isinstance(document, dict) and isinstance(document.get("study"), dict):
                found[id] = document
    return found


def last_edition(tags: Mapping[str, str]) -> str:
    """The id of the edition in force; empty if the space was never changed."""
    return max((id for id in _documents(tags) if id != FIRST), default="")


def current_document(tags: Mapping[str, str]) -> Any:
    """The specification in force as plain data, with all earlier editions.

    Raises:
        ValueError: It is not JSON.
    """
    current, documents = json.loads(join_tag(Tag.SPEC, tags)), _documents(tags)
    last = max((id for id in documents if id != FIRST), default="")
    if not last or not isinstance(current, dict):
        return current
    if current.get("edition", "") != last:
        current = documents[last]["study"]
    earlier = [
        {
            "id": "" if id == FIRST else id,
            **{key: documents[id]["study"].get(key) for key in KEPT},
            "added": documents[following].get("added", {}),
        }
        for id, following in pairwise(documents)
    ]
    legacy = documents[FIRST]["study"].get("editions", []) if FIRST in documents else []
    return {**current, "edition": last, "editions": [*legacy, *earlier]}


def new_edition_id(tags: Mapping[str, str]) -> str:
    """An id that comes after all others, whatever the clocks that gave those."""
    return _id_after(last_edition(tags))


def _id_after(last: str) -> str:
    """An id that comes after another one, whatever the clock that gave that."""
    earliest = int(last[:13]) + 1 if _ID.fullmatch(last) else 0
    return new_id(max(ownership.now_ms(), earliest))


def edition_tags(stored: StudySpec, new: StudySpec, added: Mapping[str, Scalar]) -> dict[str, str]:
    """The tags that begin a new edition.

    Args:
        stored: The study so far.
        new: The study in the new space, with the new edition's id.
        added: The values that earlier trials count as having had.
    """
    documents = {f"{Tag.EDITION}.{new.edition}": {"study": new.stored(), "added": dict(added)}}
    if not stored.edition:
        documents[f"{Tag.EDITION}.{FIRST}"] = {"study": stored.stored()}
    return {key: text for name, each in documents.items() for key, text in split_tag(name, json.dumps(each)).items()}
