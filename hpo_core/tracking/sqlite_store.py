"""The tracking store in a database file, for processes that only read."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from hpo_core.ledger.store import Run
from hpo_core.tracking.reading import ReadingStore
from hpo_core.tracking.sqlite_rows import Rows, runs_of

if TYPE_CHECKING:
    from hpo_core.tracking.mlflow_store import MlflowStore

T = TypeVar("T")


class SqliteStore(ReadingStore):
    """The tracking store in a database file.

    Args:
        uri: ``sqlite:///...``.
        connect: Opens the store by MLflow's client; told whether the store has responded before.
        database: The file.
    """

    def __init__(self, uri: str, connect: Callable[[bool], MlflowStore], database: Path) -> None:
        super().__init__(uri, connect)
        self._rows = Rows(database)

    def experiment(self, name: str, *, create: bool, restore: bool = False, unlisted: bool = False) -> str | None:
        if not (create or restore or unlisted):
            query = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ?"
            found = self._ask(lambda db: db.execute(query, [name]).fetchall())
            if found == []:
                return None
            if found is not None and len(found) == 1 and found[0][1] == "active":
                return str(found[0][0])
        return self.mlflow.experiment(name, create=create, restore=restore, unlisted=unlisted)

    def experiments(self) -> list[str]:
        query = """
            SELECT experiment_id FROM experiments WHERE lifecycle_stage = 'active'
            ORDER BY creation_time DESC, experiment_id
        """
        found = self._ask(lambda db: [str(id) for (id,) in db.execute(query)])
        return self.mlflow.experiments() if found is None else found

    def get(self, run: str) -> Run:
        found = self._ask(lambda db: runs_of(db, "run_uuid = ?", [run]))
        return found[0] if found else self.mlflow.get(run)

    def search(
        self,
        experiments: Sequence[str],
        tags: Mapping[str, str],
        since: int | None = None,
        *,
        ids: Sequence[str] | None = None,
        ended: int | None = None,
        trash: bool = False,
    ) -> list[Run]:
        which: dict[str, Any] = {"ids": ids, "ended": ended, "trash": trash}
        found = self._noted(self._rows.search(experiments, tags, since, **which))
        return self.mlflow.search(experiments, tags, since, **which) if found is None else found

    def has_exactly(self, count: int, experiments: Sequence[str], tags: Mapping[str, str], before: int) -> bool:
        found = self._noted(self._rows.has_exactly(count, experiments, tags, before))
        return self.mlflow.has_exactly(count, experiments, tags, before) if found is None else found

    def claim(self, run: str, key: str, value: str) -> bool:
        query = """
            SELECT params.value FROM params JOIN runs USING (run_uuid)
            WHERE run_uuid = ? AND key = ? AND lifecycle_stage = 'active'
        """
        held = self._ask(lambda db: db.execute(query, [run, key]).fetchone())
        return self.mlflow.claim(run, key, value) if held is None else held[0] == value

    def download(self, run: str, path: str) -> bytes | None:
        query = "SELECT artifact_uri FROM runs WHERE run_uuid = ?"
        (place,) = self._ask(lambda db: db.execute(query, [run]).fetchone()) or ("",)
        parts = urlsplit(place)
        if (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("file", "", "", ""):
            file = Path(url2pathname(parts.path)) / path
            if not file.exists():  # most runs have no model
                return None
            if file.is_file():
                with contextlib.suppress(OSError):
                    return file.read_bytes()
        return self.mlflow.download(run, path)

    def _ask(self, read: Callable[[sqlite3.Connection], T]) -> T | None:
        return self._noted(self._rows.ask(read))

    def _noted(self, found: T | None) -> T | None:
        self._answered = self._answered or found is not None
        return found
