"""Makes passwords at random, once, and keeps them in a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from hpo_core.base.errors import InputError

NAMES = (
    "POSTGRES_PASSWORD",
    "S3_ACCESS_KEY",
    "S3_SECRET_KEY",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "PREFECT_PASSWORD",
)
"""All secrets of the team's servers, as ``compose.yaml`` and ``team`` name them."""


def make_secrets(path: Path) -> dict[str, str]:
    """Write a file with a new value for every name.

    Letters and digits alone: they stand in addresses, in YAML and in shells as they are.

    Raises:
        InputError: The file exists, or cannot be written.
    """
    values = {name: secrets.token_hex(24) for name in NAMES}
    write_private(path, values, replace=False)
    return values


def write_private(path: Path, values: Mapping[str, str], *, replace: bool) -> None:
    """Write ``NAME=value`` lines into a file of mode 0600; it appears under its name only when it is whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as output:
            output.writelines(f"{name}={value}\n" for name, value in values.items())
        if replace:
            draft.replace(path)
        else:
            os.link(draft, path)  # unlike a rename it never replaces what is there
    except FileExistsError:
        raise InputError(str(path), "exists", "its passwords may be in use; choose another name") from None
    except OSError as error:
        raise InputError(str(path), f"cannot be written ({error.strerror})", "choose another place") from None
    finally:
        draft.unlink(missing_ok=True)


def read_environment(path: Path) -> dict[str, str]:
    """The variables of a file of ``NAME=value`` lines, as compose reads it: no quoting, ``#`` begins a comment line.

    Raises:
        InputError: The file does not exist, or a line is something else.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError("--env", f"{path} cannot be read ({error.strerror})", "correct it") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, separator, value = line.removeprefix("export ").partition("=")
        if not separator or not name.isidentifier():
            raise InputError("--env", f"line {number} of {path} is not NAME=value", "correct it")
        found[name] = value
    return found
