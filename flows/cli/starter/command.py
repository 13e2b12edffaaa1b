"""The command init: writes a study and an objective that run as they stand."""

from __future__ import annotations

import json
import re
import shlex
import sys
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from hpo_core.base.errors import InputError
from hpo_core.base.extras import EXTRAS, install_command, is_installed
from hpo_core.study.names import study_name

STUDY, OBJECTIVE = "study.yaml", "objective.py"

DEFAULT_NAME = "my-study"

_NAMED = "name: STUDY".ljust(27)
"""What a template has in place of the name, up to the remark behind it."""

_PLAIN = re.compile(r"(?!(?:true|false|null|yes|no|on|off)$)[a-z][a-z0-9_-]*", re.IGNORECASE)


class Kind(StrEnum):
    """What the objective trains."""

    FUNCTION = "function"
    SKLEARN = "sklearn"
    KERAS = "keras"
    XGBOOST = "xgboost"
    LIGHTGBM = "lightgbm"
    CATBOOST = "catboost"
    PYTORCH = "pytorch"
    LIGHTNING = "lightning"
    TRANSFORMERS = "transformers"


LIBRARIES = {
    Kind.KERAS: ("TensorFlow", "tensorflow"),
    Kind.XGBOOST: ("XGBoost", "xgboost"),
    Kind.LIGHTGBM: ("LightGBM", "lightgbm"),
    Kind.CATBOOST: ("CatBoost", "catboost"),
    Kind.PYTORCH: ("PyTorch", "torch"),
    Kind.LIGHTNING: ("Lightning", "lightning"),
    Kind.TRANSFORMERS: ("Transformers", "transformers"),
}
"""What the objective of a kind needs that an extra brings: its name, and the package by its import name."""


def init(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where to write; this folder by default.")] = (
        Path()
    ),
    kind: Annotated[Kind | None, typer.Option(help="What the objective trains; function by default.")] = None,
) -> None:
    """Write a first study: study.yaml and objective.py, which run as they stand."""
    if folder.exists() and not folder.is_dir():
        raise InputError("FOLDER", f"{folder} is not a folder", "name another one")
    study, objective = folder / STUDY, folder / OBJECTIVE
    for path in (study, objective):
        if path.exists() or path.is_symlink():
            raise InputError(str(path), "it is there already", "name another folder (hpo init FOLDER), or move it away")
    chosen = kind or _asked()
    folder.mkdir(parents=True, exist_ok=True)
    text = _template(chosen, STUDY).replace(_NAMED, f"name: {_name(folder)}".ljust(len(_NAMED)), 1)
    for path, content in ((study, text), (objective, _template(chosen, OBJECTIVE))):
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    typer.echo(f"{study}: what to tune, and until when")
    typer.echo(f"{objective}: what to train")
    name, package = LIBRARIES.get(chosen, ("", ""))
    if package and not is_installed(package):
        typer.echo(f"{name} is not installed: {install_command(EXTRAS[package])}")
    typer.echo(f"next: hpo validate {shlex.quote(str(study))}")
    typer.echo(f"then: hpo tune {shlex.quote(str(study))}")


def _asked() -> Kind:
    """The kind that a person at the terminal chooses; without a terminal the default."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return Kind.FUNCTION
    while True:
        answer = typer.prompt(f"What does the objective train? ({', '.join(Kind)})", default=Kind.FUNCTION.value)
        if answer in list(Kind):
            return Kind(answer)
        typer.echo(f"{answer!r} is none of these")


def _template(kind: Kind, name: str) -> str:
    return files("hpo_flows.cli.starter").joinpath(kind, name).read_text(encoding="utf-8")


def _name(folder: Path) -> str:
    """The study's name, after the folder, as written in the study file."""
    name = folder.absolute().resolve().name
    try:
        study_name(name)
    except InputError:
        return DEFAULT_NAME
    return name if _PLAIN.fullmatch(name) else json.dumps(name)
