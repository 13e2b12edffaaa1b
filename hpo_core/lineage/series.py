"""Decides which study of a file is current, and when changed data start a new one.

Losses on different data are not comparable. So a study keeps the data of its first run. Once their digest changes, a
new study named by date continues in its place, warm-started from it. The order of such a *series* follows from
MLflow alone, by the write-once params of each study's claims:

* ``data`` is the digest of the study's data;
* ``next`` is the name of the study that follows it. If several flows see changed data at once, one wins the claim and
  all continue with the same study. A flow that dies between claim and study leaves the name; the next flow uses it.

Tags of the study's run repeat what a search has to find: ``hpo.series``, ``hpo.generation`` (0, 1, ...), and
``hpo.follows``, the id of the study's run before.
"""

from __future__ import annotations

import datetime
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpo_core.base.errors import InputError, TrackingRefusal
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import Dataset, Run, Store
from hpo_core.ledger.tags import Tag, parse_count
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.study.file import study_from
from hpo_core.study.names import MAX_NAME_LENGTH
from hpo_core.study.spec import StudySpec

log = logging.getLogger("hpo")

DATA, NEXT = "data", "next"

ROUNDS = 5
"""How often to retry when another flow concurrently starts a study of other data, before giving up."""


@dataclass(frozen=True)
class Member:
    """A study of a series.

    Args:
        spec: The study file's specification under the study's own name, warm-started from the study before.
        tags: What its run says of its place.
        why: Why it is the current one.
    """

    spec: StudySpec
    tags: Mapping[str, str]
    why: str


def newest(store: Store, spec: StudySpec) -> Run | None:
    """The run of the current study of a series; None if none has begun."""
    experiment = store.experiment(spec.experiment, create=False)
    if experiment is None:
        return None
    members = _studies(store, experiment, {Tag.SERIES: spec.name}) or _studies(
        store, experiment, {Tag.STUDY: spec.name}
    )
    return max(members, key=lambda run: (_generation(run), run.start, run.id), default=None)


def find_current(store: Store, spec: StudySpec) -> Ledger:
    """The stored study that a study file stands for: its own, or the current one of its series.

    Raises:
        StudyUnknown: It has not been started.
    """
    current = newest(store, spec) if spec.data else None
    return find_study(store, spec.name if current is None else current.tags[Tag.STUDY], spec.experiment)


def open_current(
    store: Store,
    spec: StudySpec,
    data: Dataset,
    *,
    on_message: Callable[[str], Any] = log.info,
    today: datetime.date | None = None,
    change_space: bool = False,
) -> Ledger:
    """The study of a file that is of these data: the current one, or a new one if the data have changed.

    Args:
        store: MLflow.
        spec: The specification of the file, by whose name the series goes.
        data: What the file's data are now.
        on_message: Told what was decided and why.
        today: The date in the name of a new study.
        change_space: As for :func:`hpo_core.lineage.opening.open_study`.

    Raises:
        InputError: As :func:`hpo_core.lineage.opening.open_study`; or the flows that begin studies of this file do not
            agree on the data.
    """
    for _ in range(ROUNDS):
        member = _choose(store, spec, data, today or datetime.date.today())
        ledger = open_study(store, member.spec, on_message=on_message, tags=member.tags, change_space=change_space)
        if ledger.claim(DATA, data.digest):
            _note(ledger, spec, data, member.why)
            on_message(f"{member.spec.name}: {member.why}")
            return ledger
    raise InputError(
        "data", f"flows of {spec.name!r} find other data at the same moment", "let all of them read the same data"
    )


def _choose(store: Store, spec: StudySpec, data: Dataset, today: datetime.date) -> Member:
    run, label = newest(store, spec), f"{data.name} ({data.digest})"
    if run is None:
        return Member(spec, _tags(spec, 0, None), f"the data {label} are the first")
    generation, name = _generation(run), run.tags[Tag.STUDY]
    claims = store.get(run.tags[Tag.CLAIMS])
    if (before := claims.params.get(DATA, data.digest)) == data.digest:
        follows = run.tags.get(Tag.FOLLOWS) or None
        return Member(
            _under(spec, name, follows), _tags(spec, generation, follows), f"the data {label} are those of before"
        )
    follower = _free_name(store, run.experiment, spec, today)
    if not store.claim(claims.id, NEXT, follower):
        follower = store.get(claims.id).params[NEXT]
    why = f"the data {label} are not those of {name} ({before}), on which losses do not compare: a new study begins"
    return Member(_under(spec, follower, run.id), _tags(spec, generation + 1, run.id), why)


def _studies(store: Store, experiment: str, tags: Mapping[str, str]) -> list[Run]:
    """The runs with these tags that are studies, those apart that lost an election."""
    found = store.search([experiment], {Tag.ROLE: "study"} | dict(tags))
    return [run for run in found if run.params.get("study") == run.tags[Tag.STUDY]]


def _generation(run: Run) -> int:
    return parse_count(run.tags.get(Tag.GENERATION, ""), 6) or 0


def _tags(spec: StudySpec, generation: int, follows: str | None) -> dict[str, str]:
    tags = {Tag.SERIES: spec.name, Tag.GENERATION: str(generation)}
    return tags if follows is None else tags | {Tag.FOLLOWS: follows}


def _under(spec: StudySpec, name: str, follows: str | None) -> StudySpec:
    """The specification under the name of a study, which learns from the one that it follows."""
    if follows is None:
        return spec
    last = {"experiment": spec.experiment, "query": f"tags.`mlflow.parentRunId` = '{follows}'"}
    data = spec.model_dump(mode="json")
    return study_from(data | {"name": name, "warm_start": [*data["warm_start"], last]}, reading=True)


def _free_name(store: Store, experiment: str, spec: StudySpec, today: datetime.date) -> str:
    """The name, cut if it is too long for that, and the date; with a number from the second study of a day on."""
    for n in itertools.count(1):
        end = f"-{today.isoformat()}" + (f"-{n}" if n > 1 else "")
        name = spec.name[: MAX_NAME_LENGTH - len(end)].rstrip() + end
        if not _studies(store, experiment, {Tag.STUDY: name}):
            return name
    raise AssertionError("numbers do not end")


def _note(ledger: Ledger, spec: StudySpec, data: Dataset, why: str) -> None:
    """Say on the study's run which data it is of, and why it is the current study."""
    store, run = ledger.store, ledger.study_run
    store.log(run.id, [], {}, {Tag.DATA: f"{data.name} {data.digest}"[:500], Tag.DATA_WHY: why[:500]})
    try:
        store.log_dataset(run.id, data, spec.data)
    except TrackingRefusal as error:
        log.warning("MLflow refuses the data set %r of %s: %s", data.name, ledger.spec.name, error)
