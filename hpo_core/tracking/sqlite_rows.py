"""Reads the rows of MLflow's database file as MLflow's own store does, through ``sqlite3``: ten times as fast.

The tables are those of :data:`SCHEMA`, MLflow's latest in the versions that this package allows. A database with other
tables is left to MLflow.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from hpo_core.ledger.store import RUNNING, Run
from hpo_core.tracking.searches import FEW, quotable

T = TypeVar("T")

log = logging.getLogger("hpo")

SCHEMA = "dc11669786a5"
"""The revision of the tables, as Alembic notes it in the database."""

BUSY_SECONDS = 5.0
"""How long to wait for a process that locks the database; MLflow's client then waits on."""


class Rows:
    """What a database file holds. Every method gives None if MLflow's client has to ask.

    Args:
        database: The file.
    """

    def __init__(self, database: Path) -> None:
        self._database = database

    def ask(self, read: Callable[[sqlite3.Connection], T]) -> T | None:
        """What ``read`` finds in one transaction."""
        try:
            with self._transaction() as db:
                return read(db)
        except (sqlite3.Error, LookupError, OverflowError) as error:
            log.debug("MLflow's client has to ask %s: %s", self._database, error)
            return None

    def search(
        self,
        experiments: Sequence[str],
        tags: Mapping[str, str],
        since: int | None = None,
        *,
        ids: Sequence[str] | None = None,
        ended: int | None = None,
        trash: bool = False,
    ) -> list[Run] | None:
        terms, values = _terms(experiments, tags, trash)
        if since is not None:  # first, since no index helps: it costs least to compare, and most runs end there
            terms, values = f"start_time >= ? AND {terms}", [since, *values]
        if ended is not None:
            terms, values = f"end_time >= ? AND {terms}", [ended, *values]
        if trash:
            terms, values = f"{terms} AND status != ?", [*values, RUNNING]

        def read(db: sqlite3.Connection) -> list[Run]:
            if ids is None:
                return runs_of(db, terms, values)
            found: list[Run] = []
            for i in range(0, len(ids), FEW):
                some = [quotable(id) for id in ids[i : i + FEW]]
                found += runs_of(db, f"{terms} AND run_uuid IN ({_places(some)})", [*values, *some])
            return sorted(found, key=lambda run: run.start)

        return self.ask(read)

    def has_exactly(self, count: int, experiments: Sequence[str], tags: Mapping[str, str], before: int) -> bool | None:
        terms, values = _terms(experiments, tags, trash=False)
        query = f"SELECT count(*) FROM runs WHERE {terms} AND start_time < ?"  # noqa: S608
        found = self.ask(lambda db: db.execute(query, [*values, before]).fetchone())
        return None if found is None else found[0] == count

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # Not read-only, which would leave the files of a write-ahead log behind; but nothing is written.
        address = f"file:{quote(str(self._database.absolute()))}?mode=rw"
        with contextlib.closing(sqlite3.connect(address, BUSY_SECONDS, uri=True, isolation_level=None)) as db:
            db.execute("PRAGMA query_only = ON")
            db.execute("BEGIN")
            revisions = db.execute("SELECT version_num FROM alembic_version").fetchall()
            if revisions != [(SCHEMA,)]:
                raise LookupError(f"the database is of revision {revisions}, not {SCHEMA}")
            yield db


def _terms(experiments: Sequence[str], tags: Mapping[str, str], trash: bool) -> tuple[str, list[Any]]:
    """The condition, with its values, for the runs of some experiments that have all these tags."""
    terms = [f"experiment_id IN ({_places(experiments)})", "lifecycle_stage = ?"]
    values: list[Any] = [*experiments, "deleted" if trash else "active"]
    for key, value in tags.items():
        terms.append("EXISTS (SELECT 1 FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = ? AND value = ?)")
        values += [key, quotable(value)]
    return " AND ".join(terms), values


def _places(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def runs_of(db: sqlite3.Connection, terms: str, values: Sequence[Any]) -> list[Run]:
    """The runs that fulfil a condition, oldest first."""
    columns = "run_uuid, experiment_id, name, status, start_time, end_time, lifecycle_stage"
    query = f"SELECT {columns} FROM runs WHERE {terms} ORDER BY start_time, run_uuid"  # noqa: S608
    rows = db.execute(query, values).fetchall()
    chosen, which = f"SELECT run_uuid FROM runs WHERE {terms}", values  # noqa: S608
    if len(rows) <= FEW:  # by their index, and not by reading all runs again
        chosen, which = _places(rows), [row[0] for row in rows]

    def entries(columns: str, table: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        query = f"SELECT run_uuid, key, {columns} FROM {table} WHERE run_uuid IN ({chosen})"  # noqa: S608
        for run, key, value in db.execute(query, which):
            found[run][key] = value
        return found

    tags, params = entries("value", "tags"), entries("value", "params")
    metrics = entries("CASE is_nan WHEN 0 THEN value END", "latest_metrics")  # NULL is what sqlite has for NaN
    return [
        Run(
            id,
            str(experiment),
            name or tags[id].get("mlflow.runName", ""),
            status,
            start,
            end,
            params[id],
            {key: float("nan") if value is None else value for key, value in metrics[id].items()},
            tags[id],
            stage != "active",
        )
        for id, experiment, name, status, start, end, stage in rows
    ]
