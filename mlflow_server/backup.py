"""Backs up database and artifacts as one archive, and restores them.

The archive is a tar file: the database's dump, every artifact, and at its end ``manifest.json`` with the SHA-256 of
each of them. A server may go on working meanwhile: the dump is of one moment and is taken first, so every artifact that
was stored before it is in the archive, with some that came later.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Self

from hpo_core.base.errors import InputError, TrackingError
from mlflow_server.artifacts import Artifacts, Folder, checked_key
from mlflow_server.database import Database, Sqlite, run_mlflow

FORMAT = 1
MANIFEST, DUMP, FILES = "manifest.json", "database.dump", "artifacts/"


@dataclass
class Manifest:
    """The table of contents of an archive.

    Attributes:
        format: The version of this layout.
        database: ``sqlite`` or ``postgresql``.
        revision: The version of MLflow's schema in the dump.
        mlflow: The version of MLflow that made the backup.
        created: When, in UTC.
        root: The folder of the artifacts, as the database names it; empty where its addresses are relative.
        digests: SHA-256 of every member of the archive but the manifest.
    """

    database: str
    revision: str
    mlflow: str
    created: str
    root: str = ""
    format: int = FORMAT
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, content: bytes) -> Self:
        try:
            found = json.loads(content)
            manifest = cls(**found)
        except (ValueError, TypeError):
            raise InputError("archive", "its manifest cannot be read", "it was not made by `backup`") from None
        if manifest.format != FORMAT:
            raise InputError(
                "archive", f"is of format {manifest.format}, not {FORMAT}", "restore it with its own version"
            )
        return manifest


def back_up(database: Database, artifacts: Artifacts, archive: Path) -> Manifest:
    """Write an archive; it appears under its name only when it is whole and on the disk.

    Raises:
        InputError: The file exists, its folder does not, or there is nothing to back up.
        TrackingError: Database or artifact store do not respond.
    """
    if archive.exists():
        raise InputError("archive", f"{archive} exists", "choose another name")
    if not archive.absolute().parent.is_dir():
        raise InputError("archive", f"there is no folder {archive.absolute().parent}", "make it")
    draft = archive.with_name(f".{archive.name}.{os.getpid()}")
    manifest = Manifest(
        database.kind,
        database.revision,
        version("mlflow"),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        artifacts.path.as_uri() if isinstance(artifacts, Folder) else "",
    )
    try:
        # It holds all that the server knows, hashes of passwords too.
        with open(draft, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
            with tarfile.open(fileobj=output, mode="w") as tar:
                _add_all(tar, database, artifacts, manifest)
            output.flush()
            os.fsync(output.fileno())
        os.link(draft, archive)  # unlike a rename it never replaces what came meanwhile
    except FileExistsError:
        raise InputError("archive", f"{archive} exists", "choose another name") from None
    finally:
        draft.unlink(missing_ok=True)
    return manifest


def _add_all(tar: tarfile.TarFile, database: Database, artifacts: Artifacts, manifest: Manifest) -> None:
    with tempfile.TemporaryDirectory(prefix="mlflow-backup-") as folder:
        dump = Path(folder, DUMP)
        database.dump(dump)
        with open(dump, "rb") as content:
            manifest.digests[DUMP] = _add(tar, DUMP, dump.stat().st_size, content)
    for key, _ in artifacts.stored():
        # A run that is deleted at this moment takes its files with it.
        with contextlib.suppress(FileNotFoundError), artifacts.read(key) as (size, content):
            manifest.digests[FILES + key] = _add(tar, FILES + key, size, content)
    text = json.dumps(asdict(manifest), indent=1).encode()
    _add(tar, MANIFEST, len(text), io.BytesIO(text))


def _add(tar: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> str:
    """Append a member; returns its SHA-256."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, int(time.time()), 0o600
    hashed = _Hashed(content)
    tar.addfile(member, hashed)
    return hashed.digest


class _Hashed(io.RawIOBase):
    """A stream that computes the digest of what is read from it."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content, self._hash = content, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._content.read(size)
        self._hash.update(block)
        return block

    def readable(self) -> bool:
        return True

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def verify(archive: Path) -> Manifest:
    """Read a whole archive and compare every digest.

    Raises:
        InputError: It is missing, cut off, damaged, or no archive of ours.
    """
    try:
        manifest, found = _read_through(archive)
    except (OSError, tarfile.TarError) as error:
        raise InputError("archive", f"{archive} cannot be read ({error})", "correct it, or take another") from None
    if manifest is None:
        raise InputError("archive", f"{archive} has no manifest: it is cut off, or no backup", "take another")
    for name in sorted(manifest.digests.keys() | found.keys()):
        if manifest.digests.get(name) != found.get(name):
            raise InputError("archive", f"{archive} is damaged: {name} is not what was backed up", "take another")
        if name != DUMP:
            checked_key(name.removeprefix(FILES))
    if DUMP not in found:
        raise InputError("archive", f"{archive} holds no database", "take another")
    return manifest


def _read_through(archive: Path) -> tuple[Manifest | None, dict[str, str]]:
    """The manifest, and the SHA-256 of every other member as it is now."""
    manifest: Manifest | None = None
    found: dict[str, str] = {}
    for name, content in _members(archive):
        if name == MANIFEST:
            manifest = Manifest.read(content.read())
        else:
            hashed = _Hashed(content)
            while hashed.read(2**20):
                pass
            found[name] = hashed.digest
    return manifest, found


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is None:
                raise InputError("archive", f"{member.name} in {archive} is not a file", "it was not made by `backup`")
            yield member.name, content


def restore(archive: Path, database: Database, artifacts: Artifacts) -> Manifest:
    """Put an archive's content into an empty database and empty artifacts; nothing is ever overwritten.

    The archive is read through before anything is written. The database comes last, and whole: where it is, all is.
    Where something fails on the way, the artifacts that were written are deleted again.

    Raises:
        InputError: The archive is damaged or of another kind of database, or the places are not empty.
        TrackingError: Database or artifact store do not respond.
    """
    manifest = verify(archive)
    if manifest.database != database.kind:
        problem = f"holds a database of {manifest.database}, not of {database.kind}"
        raise InputError("archive", problem, f"use --profile {'local' if manifest.database == 'sqlite' else 'team'}")
    artifacts.prepare()
    if not database.empty:
        raise InputError(
            "database", f"{database.uri} is not empty", "restore into a new one, and stop the server first"
        )
    if not artifacts.empty:
        raise InputError("artifacts", f"{artifacts} is not empty", "restore into another place")
    written: list[str] = []
    try:
        _put_back(archive, database, artifacts, written)
    except BaseException:
        artifacts.delete(written)
        raise
    if isinstance(database, Sqlite) and isinstance(artifacts, Folder) and manifest.root:
        database.relocate(manifest.root, artifacts.path.as_uri())
    return manifest


def _put_back(archive: Path, database: Database, artifacts: Artifacts, written: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="mlflow-restore-") as folder:
        dump = Path(folder, DUMP)
        for name, content in _members(archive):
            if name == DUMP:
                with open(dump, "wb") as output:
                    shutil.copyfileobj(content, output)
            elif name != MANIFEST:
                written.append(name.removeprefix(FILES))
                artifacts.write(written[-1], content)
        database.load(dump)


def upgrade(database: Database, artifacts: Artifacts, archive: Path) -> tuple[str, str]:
    """Back everything up, then run ``mlflow db upgrade``; returns the schema's version before and after.

    Raises:
        InputError: The database is in use, or the archive cannot be written.
        TrackingError: The upgrade failed; the archive holds what was there before.
    """
    if database.in_use():
        raise InputError("database", f"{database.uri} is in use", "stop the server and all that works with it")
    before = back_up(database, artifacts, archive).revision
    if reason := run_mlflow(database, "db", "upgrade", database.uri):
        raise TrackingError(f"mlflow db upgrade failed ({reason}); {archive} holds what was there before")
    return before, database.revision
