"""Finds and removes checkpoints of studies that ended long ago, and what was deleted in MLflow long ago."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpo_core.base.errors import InputError, TrackingError
from hpo_core.ledger.store import RUNNING
from hpo_core.ledger.tags import CHECKPOINT, Tag
from mlflow_server.artifacts import Artifacts
from mlflow_server.database import Database, run_mlflow

if TYPE_CHECKING:
    from hpo_core.ledger.store import Store

_CHECKPOINT_KEY = re.compile(rf"(?:^|/)([0-9a-f]{{32}})/artifacts/{re.escape(CHECKPOINT)}$")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# What `mlflow gc --older-than` removes, by its own rules; it has no dry run.
_DELETED = {
    "runs": "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'deleted' AND deleted_time <= :time",
    "experiments": "SELECT experiment_id FROM experiments"
    " WHERE lifecycle_stage = 'deleted' AND last_update_time < :time",
    "models": "SELECT model_id FROM logged_models"
    " WHERE lifecycle_stage = 'deleted' AND last_updated_timestamp_ms <= :time",
}


def seconds_of(age: str) -> float:
    """An age such as ``30d``, ``12h``, ``90m`` or ``0s`` in seconds.

    >>> seconds_of("30d")
    2592000.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", age)
    if match is None:
        raise InputError("--older-than", f"{age!r} is not an age", "write 30d, 12h, 90m or 0s")
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Garbage:
    """What can be removed.

    Attributes:
        checkpoints: Keys of checkpoint files, of trials of studies that have ended.
        size: Their size together, in bytes.
        deleted: Ids by kind (``runs``, ``experiments``, ``models``) of what lies in MLflow's trash.
    """

    checkpoints: list[str] = field(default_factory=list)
    size: int = 0
    deleted: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        deleted = ", ".join(f"{len(ids)} {kind}" for kind, ids in self.deleted.items())
        return f"{len(self.checkpoints)} checkpoint files ({self.size / 1e6:.1f} MB); deleted in MLflow: {deleted}"


def find_garbage(store: Store, database: Database, artifacts: Artifacts, age: float) -> Garbage:
    """Everything that ended or was deleted at least the given seconds ago.

    A study has ended when its run is not RUNNING. It may still be resumed: a trial that would have gone on from a
    checkpoint is then trained from scratch.
    """
    limit = int((time.time() - age) * 1000)
    trials = _trials_of_ended_studies(store, limit)
    checkpoints = [
        stored
        for stored in artifacts.stored()
        if (match := _CHECKPOINT_KEY.search(stored.key)) is not None and match[1] in trials
    ]
    deleted = {kind: [str(id) for (id,) in database.query(query, time=limit)] for kind, query in _DELETED.items()}
    return Garbage([each.key for each in checkpoints], sum(each.size for each in checkpoints), deleted)


def _trials_of_ended_studies(store: Store, limit: int) -> set[str]:

    found: set[str] = set()
    for study in store.search(store.experiments(), {Tag.ROLE: "study"}):
        if study.status != RUNNING and study.end is not None and study.end <= limit:
            trials = store.search([study.experiment], {"mlflow.parentRunId": study.id})
            found |= {run.id for run in trials if run.status != RUNNING}
    return found


def remove(garbage: Garbage, database: Database, artifacts: Artifacts, tracking_uri: str, age: float) -> None:
    """Delete checkpoints, and empty MLflow's trash by ``mlflow gc``.

    Raises:
        TrackingError: Something refuses; what is left is found the next time.
    """
    artifacts.delete(garbage.checkpoints)
    if not any(garbage.deleted.values()):
        return
    arguments = ["gc", "--backend-store-uri", database.uri, "--older-than", f"{age:.3f}s"]
    if reason := run_mlflow(database, *arguments, MLFLOW_TRACKING_URI=tracking_uri):
        raise TrackingError(f"mlflow gc failed ({reason})")
