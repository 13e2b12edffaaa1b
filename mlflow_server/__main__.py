"""``python -m mlflow_server``: start a tracking server and look after it.

Exit codes: 0 done, 2 bad input, 3 a server does not answer or refuses.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hpo_core.base.errors import InputError, TrackingError, TrackingRefusal

if TYPE_CHECKING:  # what takes long to load is loaded in the functions, where Ctrl-C is expected
    from mlflow_server.database import Database

PROFILES = ("local", "team")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        from mlflow_server.credentials import read_environment

        if getattr(given, "env", None) is not None:
            os.environ.update(read_environment(given.env))
        given.run(given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (TrackingError, TrackingRefusal) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Tells a command line that it cannot read in one line, as all errors are told."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "python -m mlflow_server",
        description="Start MLflow's tracking server and look after it. Passwords and addresses of the profile `team` "
        "come from the environment, by the names that docs/how-to/team.md lists.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    profile = _Parser(add_help=False)
    profile.add_argument(
        "--profile", choices=PROFILES, default="local", help="local: sqlite and a folder; team: PostgreSQL and S3"
    )
    profile.add_argument("--folder", type=Path, default=Path(), help="where `local` keeps both (default: here)")
    profile.add_argument("--env", type=Path, help="a file of NAME=value lines, added to the environment")

    up = commands.add_parser("up", parents=[profile], help="start the server; Ctrl-C or SIGTERM ends it")
    up.add_argument("--host", default="127.0.0.1")
    up.add_argument("--port", type=int, default=5000)
    up.add_argument("--workers", type=int, help="processes that answer (default: as many as the machine has use for)")
    up.add_argument(
        "--prepare", action="store_true", help="make the folder or bucket of the artifacts if it is missing"
    )
    up.set_defaults(run=_up)

    backup = commands.add_parser("backup", parents=[profile], help="write database and artifacts into one archive")
    backup.add_argument("archive", type=Path, nargs="?", help="the file to write (default: mlflow-TIME.tar)")
    backup.set_defaults(run=_backup)

    restore = commands.add_parser("restore", parents=[profile], help="put an archive back, into empty places only")
    restore.add_argument("archive", type=Path)
    restore.set_defaults(run=_restore)

    reset = commands.add_parser("reset-admin", help="give the user admin of MLflow the password of the environment")
    reset.add_argument("--env", type=Path, help="a file of NAME=value lines, added to the environment")
    reset.set_defaults(run=_reset_admin)

    upgrade = commands.add_parser("upgrade", parents=[profile], help="back up, then bring the database to this MLflow")
    upgrade.add_argument("archive", type=Path, nargs="?", help="the backup to write first (default: mlflow-TIME.tar)")
    upgrade.set_defaults(run=_upgrade)

    collect = commands.add_parser("gc", parents=[profile], help="remove old checkpoints and what was deleted in MLflow")
    collect.add_argument(
        "--older-than", default="30d", metavar="AGE", help="since when ended or deleted (default: 30d)"
    )
    collect.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    collect.set_defaults(run=_gc)

    secrets = commands.add_parser("secrets", help="write a file with new passwords for compose.yaml")
    secrets.add_argument("file", type=Path)
    secrets.set_defaults(run=_secrets)

    team = commands.add_parser("team", help="start all of the team's servers on this machine, without containers")
    team.add_argument("--folder", type=Path, default=Path(".team"), help="the folder with their data (default: .team)")
    team.add_argument("--stores-only", action="store_true", help="PostgreSQL and S3 alone, for `restore` and `upgrade`")
    team.add_argument("--without-prefect", action="store_true")
    for name, port in (("mlflow", 5000), ("prefect", 4200), ("postgres", 5433), ("s3", 9000)):
        team.add_argument(f"--{name}-port", type=int, default=port, metavar="PORT")
    team.set_defaults(run=_team)
    return parser


def _up(given: argparse.Namespace) -> None:
    from mlflow_server.processes import until_stopped
    from mlflow_server.server import address, running_server
    from mlflow_server.settings import ADMIN_PASSWORD, server_settings

    settings = server_settings(
        given.profile, given.folder, os.environ, host=given.host, port=given.port, workers=given.workers
    )
    if given.prepare:
        settings.artifacts.prepare()
    with _ending_in_order(), running_server(settings) as server, until_stopped([server]) as wait:
        if settings.profile == "team":
            _warn_of_other_password(settings.database, settings.secrets[ADMIN_PASSWORD])
        workers = f"{settings.workers} worker{'s' if settings.workers > 1 else ''}"
        _say(f"the tracking server answers at {address(settings)} ({settings.profile}, {workers}); Ctrl-C ends it")
        wait()


def _warn_of_other_password(database: Database, password: str) -> None:
    from mlflow_server.admin import is_password
    from mlflow_server.settings import ADMIN_PASSWORD

    if not is_password(database, password):
        problem = f"{ADMIN_PASSWORD} is not the password of admin in the database, so whatever uses it is refused"
        print(f"warning: {problem}; correct it, or make it that by `reset-admin`", file=sys.stderr, flush=True)


def _backup(given: argparse.Namespace) -> None:
    from mlflow_server.backup import back_up
    from mlflow_server.settings import stores

    archive = given.archive or _dated()
    manifest = back_up(*stores(given.profile, given.folder, os.environ), archive)
    _say(f"{archive}: database and {len(manifest.digests) - 1} artifacts, {archive.stat().st_size / 1e6:.1f} MB")


def _restore(given: argparse.Namespace) -> None:
    from mlflow_server.backup import restore
    from mlflow_server.settings import ADMIN_PASSWORD, secret, stores

    database, artifacts = stores(given.profile, given.folder, os.environ)
    password = secret(os.environ, ADMIN_PASSWORD) if given.profile == "team" else None
    manifest = restore(given.archive, database, artifacts)
    _say(f"restored: database and {len(manifest.digests) - 1} artifacts, as of {manifest.created}")
    if password is not None:
        _set_admin_password(database, password)
        _say("other users have the passwords that they had then")


def _reset_admin(_: argparse.Namespace) -> None:
    from mlflow_server.settings import ADMIN_PASSWORD, secret, stores

    database, _artifacts = stores("team", Path(), os.environ)
    _set_admin_password(database, secret(os.environ, ADMIN_PASSWORD))


def _set_admin_password(database: Database, password: str) -> None:
    from mlflow_server.admin import set_password
    from mlflow_server.settings import ADMIN_PASSWORD

    if set_password(database, password):
        _say(f"the password of admin is now that of {ADMIN_PASSWORD}")
    else:
        _say(f"there is no user admin; the next start of the server makes it, with the password of {ADMIN_PASSWORD}")


def _upgrade(given: argparse.Namespace) -> None:
    from mlflow_server.backup import upgrade
    from mlflow_server.settings import stores

    archive = given.archive or _dated()
    before, after = upgrade(*stores(given.profile, given.folder, os.environ), archive)
    _say(
        f"schema {before} -> {after}; what was there before is in {archive}"
        if before != after
        else f"schema {after} is up to date; backup in {archive}"
    )


def _gc(given: argparse.Namespace) -> None:
    from hpo_core.tracking.connection import connect
    from mlflow_server.garbage import find_garbage, remove, seconds_of
    from mlflow_server.settings import stores

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
        raise InputError("--folder", f"there is no database {database.uri}", "name the folder that holds it")
    garbage = find_garbage(connect(uri, patience=10), database, artifacts, age)
    if not given.dry_run:
        remove(garbage, database, artifacts, uri, age)
    _say(f"{'would remove' if given.dry_run else 'removed'}: {garbage}")


def _secrets(given: argparse.Namespace) -> None:
    from mlflow_server.credentials import make_secrets

    make_secrets(given.file)
    _say(f"{given.file} holds new passwords; only its owner can read it")


def _team(given: argparse.Namespace) -> None:
    from mlflow_server.processes import Process, until_stopped
    from mlflow_server.settings import ADMIN_PASSWORD
    from mlflow_server.team import CLIENT_ENV, SERVER_ENV, Ports, Team

    team = Team(given.folder, Ports(given.mlflow_port, given.prefect_port, given.postgres_port, given.s3_port))
    names = ["postgres", "s3"]
    if not given.stores_only:
        names += ["mlflow"] if given.without_prefect else ["mlflow", "prefect"]
    began = time.monotonic()

    def ready(process: Process) -> None:
        _say(f"{time.monotonic() - began:4.0f} s  {process.name} answers")

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


if __name__ == "__main__":
    sys.exit(main())
