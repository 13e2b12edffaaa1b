"""``python -m mlflow_server``: start a tracking server and look after it.

Exit codes: 0 done, 2 bad input, 3 a server does not respond or refuses.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hpo_core.base.errors import InputError, TrackingError, TrackingRefusal
from mlflow_server.credentials import read_environment

PROFILES = ("local", "team")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        from mlflow_server import commands  # it takes long to load, so it is loaded where Ctrl-C is expected

        if getattr(given, "env", None) is not None:
            os.environ.update(read_environment(given.env))
        commands.COMMANDS[given.command](given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (TrackingError, TrackingRefusal) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    return 0


class _Once(argparse.Action):
    """Takes the value of an option that is given once; of two, argparse would silently take the last."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        given: set[str] = namespace.__dict__.setdefault("given", set())
        if option is not None and self.dest in given:
            parser.error(f"{option} is given twice; keep one")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """Reports a command line that it cannot read in one line, like every other error."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register("action", None, _Once)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "python -m mlflow_server",
        description="Start MLflow's tracking server and look after it. Passwords and addresses of the profile `team` "
        "come from the environment, by the names that docs/how-to/team.md lists.",
    )
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    profile = _Parser(add_help=False)
    profile.add_argument(
        "--profile", choices=PROFILES, default="local", help="local: sqlite and a folder; team: PostgreSQL and S3"
    )
    profile.add_argument("--folder", type=Path, default=Path(), help="where `local` keeps both (default: here)")
    profile.add_argument("--env", type=Path, help="a file of NAME=value lines, added to the environment")

    up = commands.add_parser("up", parents=[profile], help="start the server; Ctrl-C or SIGTERM ends it")
    up.add_argument("--host", default="127.0.0.1")
    up.add_argument("--port", type=int, default=5000)
    up.add_argument(
        "--workers", type=int, help="processes that serve requests (default: as many as the machine has use for)"
    )
    up.add_argument(
        "--prepare", action="store_true", help="make the folder or bucket of the artifacts if it is missing"
    )

    backup = commands.add_parser("backup", parents=[profile], help="write database and artifacts into one archive")
    backup.add_argument("archive", type=Path, nargs="?", help="the file to write (default: mlflow-TIME.tar)")

    restore = commands.add_parser("restore", parents=[profile], help="put an archive back, into empty places only")
    restore.add_argument("archive", type=Path)

    reset = commands.add_parser("reset-admin", help="give the user admin of MLflow the password of the environment")
    reset.add_argument("--env", type=Path, help="a file of NAME=value lines, added to the environment")

    upgrade = commands.add_parser("upgrade", parents=[profile], help="back up, then bring the database to this MLflow")
    upgrade.add_argument("archive", type=Path, nargs="?", help="the backup to write first (default: mlflow-TIME.tar)")

    collect = commands.add_parser("gc", parents=[profile], help="remove old checkpoints and what was deleted in MLflow")
    collect.add_argument(
        "--older-than", default="30d", metavar="AGE", help="since when ended or deleted (default: 30d)"
    )
    collect.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")

    secrets = commands.add_parser("secrets", help="write a file with new passwords for compose.yaml")
    secrets.add_argument("file", type=Path)

    team = commands.add_parser("team", help="start all of the team's servers on this machine, without containers")
    team.add_argument("--folder", type=Path, default=Path(".team"), help="the folder with their data (default: .team)")
    team.add_argument("--stores-only", action="store_true", help="PostgreSQL and S3 alone, for `restore` and `upgrade`")
    team.add_argument("--without-prefect", action="store_true")
    for name, port in (("mlflow", 5000), ("prefect", 4200), ("postgres", 5433), ("s3", 9000)):
        team.add_argument(f"--{name}-port", type=int, default=port, metavar="PORT")
    return parser


if __name__ == "__main__":
    sys.exit(main())
