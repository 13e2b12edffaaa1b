"""Decides which names studies and registered models may have, and what is a name and what a study file."""

from __future__ import annotations

import re
from pathlib import Path

from hpo_core.base.errors import InputError
from hpo_core.base.storable import distinct

MAX_NAME_LENGTH = 200

# MLflow accepts more in a run's name, but a study's name also appears in filter strings and URLs.
BAD_NAME = "quotes, backslashes, percent signs, control characters and outer spaces cannot be used"

NAME = re.compile(r"[^\x00-\x1f'\"`\\%]+")

BAD_MODEL = "a registered model's name has no slashes, colons, quotes or control characters, and is not empty"

GOOD_MODEL = "write it as digits-classifier, say"

_MODEL = re.compile(r"(?!\.+$)[^\x00-\x1f'\"`\\%/:]+")


def is_file(study: str) -> bool:
    """Whether a text names a study file; otherwise it is the name of a study.

    >>> is_file("study.yaml"), is_file("digits")
    (True, False)
    """
    if Path(study).suffix in (".yaml", ".yml") or study.startswith(("/", "./", "../")):
        return True
    try:
        return Path(study).is_file()
    except OSError:  # too long for a file name
        return False


def study_name(name: str) -> str:
    """Return the name if it is valid for a study. It appears in filter strings, which have no escaping.

    Raises:
        InputError: The name is not valid.
    """
    if not isinstance(name, str):
        raise InputError("name", f"{name!r} is not text", "give the name of a study")
    if not NAME.fullmatch(name) or name.strip() != name or len(name) > MAX_NAME_LENGTH:
        problem = f"{name!r}: {BAD_NAME}" if len(name) <= MAX_NAME_LENGTH else f"{len(name)} characters are too many"
        raise InputError("name", problem if name else "the name is empty", "give the name of a study, or its file")
    return name


def file_name(study: str) -> str:
    """A study's name without slashes: for a file, a folder or a Prefect deployment.

    >>> file_name("digits"), file_name("digits/cnn")
    ('digits', 'digits-cnn-d694b5')
    """
    return distinct(study.replace("/", "-"), study) if "/" in study else study


def model_name(name: str) -> str:
    """Return the name if it is valid for a registered model and usable in a search.

    Raises:
        InputError: The name is not valid.
    """
    if not is_model_name(name):
        raise InputError("MODEL", f"{name!r}: {BAD_MODEL}", GOOD_MODEL)
    return name


def is_model_name(name: str) -> bool:
    return bool(_MODEL.fullmatch(name)) and name.strip() == name and len(name) <= MAX_NAME_LENGTH
