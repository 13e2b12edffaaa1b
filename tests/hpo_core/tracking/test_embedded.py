"""The embedded store: addresses of databases, folders with odd names, and folders that cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st

from hpo_core.base.errors import InputError, TrackingError
from hpo_core.ledger.store import FINISHED, Metric
from hpo_core.tracking import connection as embedded
from hpo_core.tracking.connection import connect, database_path, sqlite_uri, tracking_uri
from mlflow_server.database import Sqlite, database_of

MAKE_TABLES = embedded._make_tables
"""As it is, before the tests' own saves their time."""

MEMORY = [
    "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite://", "sqlite+pysqlite:///:memory:",
    "sqlite:///file::memory:?uri=true", "sqlite:///file:x?mode=memory&uri=true", "sqlite:///file:/x?vfs=memdb&uri=true",
    "sqlite:///:memory:?timeout=5", "sqlite://?timeout=5",
]  # fmt: skip


@given(st.text(st.sampled_from(list("ab?#%&= '\"\\;:+@{}ü3F")), min_size=1, max_size=12))
def test_an_address_leads_to_the_file_that_it_was_made_of(name: str) -> None:
    path = Path("/folder") / name / "mlflow.db"
    uri = sqlite_uri(path)
    assert database_path(uri) == path
    (opened, *_), settings = sqlalchemy.create_engine(uri).dialect.create_connect_args(sqlalchemy.make_url(uri))
    if settings.get("uri"):  # as sqlite reads it: https://www.sqlite.org/uri.html
        from urllib.parse import unquote, urlsplit

        parts = urlsplit(opened)
        assert (parts.scheme, parts.query, parts.fragment) == ("file", "", "")
        opened = unquote(parts.path)
    assert opened == str(path)


@pytest.mark.parametrize("uri", MEMORY)
def test_a_database_in_memory_is_refused(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI: .* is a database in memory"):
        connect()
    with pytest.raises(InputError, match=r"MLFLOW_BACKEND_STORE_URI: .* is a database in memory"):
        database_of(uri, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("uri", ["sqlite:///what?/mlflow.db", "sqlite:////a/b?", "sqlite:///a.db?mode=ro"])
def test_what_a_database_would_be_read_without_is_refused(uri: str) -> None:
    with pytest.raises(
        InputError, match=r"is read as settings .*; if it is of the file's path, write sqlite\+"
    ) as told:
        database_path(uri)
    assert database_path(str(told.value).rpartition(" ")[2]) == Path(uri.partition(":///")[2]).absolute()


def test_settings_of_a_database_are_no_part_of_its_path() -> None:
    assert database_path("sqlite:////a/mlflow.db?timeout=30") == Path("/a/mlflow.db")
    assert database_path("sqlite:///file:///a%20b/mlflow.db?uri=true&mode=rwc") == Path("/a b/mlflow.db")
    assert database_path("sqlite:///mlflow.db") == Path("mlflow.db")
    assert database_path("http://127.0.0.1:5000/sqlite:///x") is None


def test_a_store_in_a_folder_with_an_odd_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "what? #1 50%20 'a' \"b\" &c=d :e"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(embedded, "_make_tables", MAKE_TABLES)
    (tmp_path / "file.txt").write_text("kept")
    store = connect()
    experiment = store.experiment("odd", create=True)
    assert experiment is not None
    run = store.create_run(experiment, "run", {})
    store.log(run.id, [Metric("loss", 0.5, 1)], {}, {})
    store.upload(run.id, tmp_path / "file.txt", "there")
    store.set_status(run.id, FINISHED)
    again = connect(tracking_uri())
    assert again.get(run.id).metrics == {"loss": 0.5}
    assert again.download(run.id, "there/file.txt") == b"kept"
    assert Sqlite(Path("mlflow.db")).query("SELECT count(*) FROM runs") == [(1,)]
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "file.txt"}, "a stray database"
    assert {path.name.removesuffix("-wal").removesuffix("-shm") for path in folder.iterdir()} == {
        "mlflow.db",
        "mlartifacts",
    }


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:  # whoever runs the tests may write everywhere
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(TrackingError, match=r"cannot be opened .*Read-only file system.*make it writable"):
        connect(sqlite_uri(tmp_path / "mlflow.db"))
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match=r"cannot be opened .*; make it writable"):
        connect(sqlite_uri(tmp_path / "file" / "mlflow.db"))


def test_a_database_that_cannot_be_written_says_so_at_once(tmp_path: Path) -> None:
    embedded.create(tmp_path / "mlflow.db")
    store = connect(f"sqlite+pysqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true")
    with pytest.raises(TrackingError, match="is read-only; make it writable"):
        store.experiment("new", create=True)
