"""What each command of ``python -m mlflow_server`` does with its arguments."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hpo_core.base.errors import InputError
from hpo_core.tracking.connection import connect
from mlflow_server.admin import is_password, set_password
from mlflow_server.backup import back_up, restore, upgrade
from mlflow_server.credentials import make_secrets
from mlflow_server.database import Database
from mlflow_server.garbage import find_garbage, remove, seconds_of
from mlflow_server.processes import Process, until_stopped
from mlflow_server.server import address, running_server
from mlflow_server.settings import ADMIN_PASSWORD, secret, server_settings, stores
from mlflow_server.team import CLIENT_ENV, SERVER_ENV, Ports, Team


def _up(given: argparse.Namespace) -> None:
    settings = server_settings(
        given.profile, given.folder, os.environ, host=given.host, port=given.port, workers=given.workers
    )
    if given.prepare:
        settings.artifacts.prepare()
    with _ending_in_order(), running_server(settings) as server, until_stopped([server]) as wait:
        if settings.profile == "team":
            _warn_of_other_password(settings.database, settings.secrets[ADMIN_PASSWORD])
        workers = f"{settings.workers} worker{'s' if settings.workers > 1 else ''}"
        _say(f"the tracking server responds at {address(settings)} ({settings.profile}, {workers}); Ctrl-C ends it")
        wait()


def _warn_of_other_password(database: Database, password: str) -> None:
    if not is_password(database, password):
        problem = f"{ADMIN_PASSWORD} is not the password of admin in the database, so whatever uses it is refused"
        print(f"warning: {problem}; correct it, or make it that by `reset-admin`", file=sys.stderr, flush=True)


def _backup(given: argparse.Namespace) -> None:
    archive = given.archive or _dated()
    manifest = back_up(*stores(given.profile, given.folder, os.environ), archive)
    _say(f"{archive}: database and {len(manifest.digests) - 1} artifacts, {archive.stat().st_size / 1e6:.1f} MB")


def _restore(given: argparse.Namespace) -> None:
    database, artifacts = stores(given.profile, given.folder, os.environ)
    password = secret(os.environ, ADMIN_PASSWORD) if given.profile == "team" else None
    manifest = restore(given.archive, database, artifacts)
    _say(f"restored: database and {len(manifest.digests) - 1} artifacts, as of {manifest.created}")
    if password is not None:
        _set_admin_password(database, password)
        _say("other users have the passwords that they had then")


def _reset_admin(_: argparse.Namespace) -> None:
    database, _artifacts = stores("team", Path(), os.environ)
    _set_admin_password(database, secret(os.environ, ADMIN_PASSWORD))


def _set_admin_password(database: Database, password: str) -> None:
    if set_password(database, password):
        _say(f"the password of admin is now that of {ADMIN_PASSWORD}")
    else:
        _say(f"no user admin yet; the next start of the server makes it, with the password of {ADMIN_PASSWORD}")


def _upgrade(given: argparse.Namespace) -> None:
    archive = given.archive or _dated()
    before, after = upgrade(*stores(given.profile, given.folder, os.environ), archive)
    _say(
        f"schema {before} -> {after}; what was there before is in {archive}"
        if before != after
        else f"schema {after} is up to date; backup in {archive}"
    )


def _gc(given: argparse.Namespace) -> None:
    age = seconds_of(given.older_than)
    database, artifacts = stores(given.profile, given.folder, os.environ)
    uri = database.uri
    if given.profile == "team":
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri.startswith("http"):
            raise InputError(
                "MLFLOW_TRACKING_URI", "is not the running server's address", "set it: gc works through it"
            )
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", "admin")
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD", ""))
    elif database.empty:
        raise InputError("--folder", f"no database at {database.uri}", "name the folder that holds it")
    garbage = find_garbage(connect(uri, patience=10), database, artifacts, age)
    if not given.dry_run:
        remove(garbage, database, artifacts, uri, age)
    _say(f"{'would remove' if given.dry_run else 'removed'}: {garbage}")


def _secrets(given: argparse.Namespace) -> None:
    make_secrets(given.file)
    _say(f"{given.file} holds new passwords; only its owner can read it")


def _team(given: argparse.Namespace) -> None:
    team = Team(given.folder, Ports(given.mlflow_port, given.prefect_port, given.postgres_port, given.s3_port))
    names = ["postgres", "s3"]
    if not given.stores_only:
        names += ["mlflow"] if given.without_prefect else ["mlflow", "prefect"]
    began = time.monotonic()

    def ready(process: Process) -> None:
        _say(f"{time.monotonic() - began:4.0f} s  {process.name} responds")

    with _ending_in_order(), contextlib.ExitStack() as stack:
        stack.enter_context(team.claimed(*names))
        _say(f"starting the servers of {given.folder}, which holds their data and logs; Ctrl-C ends all")
        stack.callback(_say, "all servers have ended")
        processes = list(stack.enter_context(team.stores(ready)))
        if not given.stores_only:
            _say("starting the rest; at the first start they make their databases")
            processes += stack.enter_context(team.servers(prefect=not given.without_prefect, ready=ready))
            _warn_of_other_password(team.database, team.secrets[ADMIN_PASSWORD])
            secrets = f"{given.folder}/{CLIENT_ENV}"
            _say(f"MLflow: {team.mlflow_uri} (user admin, password: MLFLOW_TRACKING_PASSWORD in {secrets})")
            if not given.without_prefect:
                address = team.prefect_api.removesuffix("/api")
                _say(f"Prefect: {address} (password: PREFECT_API_AUTH_STRING in the same file)")
            _say(f"for a shell: set -a; . {secrets}; set +a")
        _say(f"look after it with: python -m mlflow_server backup --profile team --env {given.folder}/{SERVER_ENV}")
        with until_stopped(processes) as wait:
            wait()
        _say("ending all servers")


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM unwind the stack while servers are still being started."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _dated() -> Path:
    return Path(time.strftime("mlflow-%Y%m%d-%H%M%S.tar", time.gmtime()))


def _say(line: str) -> None:
    print(line, flush=True)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "up": _up,
    "backup": _backup,
    "restore": _restore,
    "reset-admin": _reset_admin,
    "upgrade": _upgrade,
    "gc": _gc,
    "secrets": _secrets,
    "team": _team,
}
