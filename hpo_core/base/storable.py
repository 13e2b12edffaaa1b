"""Decides what MLflow can store: names of params and metrics, steps, texts. Anything else is rejected early.

MLflow's servers and databases differ in what they refuse; these checks allow only what all of them accept.
"""

from __future__ import annotations

import re
import sys

MAX_NAME_LENGTH = 250

MAX_VALUE_LENGTH = 6000
"""MLflow's limits, in characters, on the key and the value of a param."""

OURS = "hpo."
"""The prefix of the names that this project logs for itself."""

MAX_STEP = 2**63 - 1
"""MLflow's databases store a step in 8 bytes."""

MAX_VALUE = sys.float_info.max
"""MLflow's databases store an infinity as the largest float of its sign, so that float is read back as infinite."""

# No ':' here: MLflow servers on Windows refuse it in a param. bad_metric() allows it, since metrics may contain it.
_CHARACTERS = re.compile(r"[\w\-. /]+")


def _bad(name: str) -> str:
    if not _CHARACTERS.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        return f"use letters, digits, _ - . / and spaces, at most {MAX_NAME_LENGTH} characters"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "it reads as a path, so leave out empty parts, . and .."
    return ""


def bad_param(name: str) -> str:
    """Why MLflow cannot store a param with this name; empty if it can.

    >>> bad_param("units/layer 1"), bad_param("a//b")
    ('', 'it reads as a path, so leave out empty parts, . and ..')
    """
    return _bad(name) or ("leave out the spaces around it" if name.strip() != name else "")


def bad_metric(name: str) -> str:
    """Why MLflow cannot store a metric with this name; empty if it can. The prefix :data:`OURS` is reserved.

    >>> bad_metric("loss:val"), bad_metric("top@5")
    ('', 'use letters, digits, _ - . / and spaces, at most 250 characters')
    """
    if name.startswith(OURS):
        return f"names that begin with {OURS!r} are reserved; choose another"
    return _bad(name.replace(":", "_"))


def plain(text: object) -> str:
    """A text that every file and database accepts: lone surrogates and NUL characters become question marks.

    >>> plain("caf\\xe9 \\udcff \\x00")
    'café ? ?'
    """
    return str(text).replace("\0", "?").encode("utf-8", "replace").decode("utf-8")


def is_plain(text: str) -> bool:
    """Whether a text can be stored unchanged."""
    return "\0" not in text if text.isascii() else plain(text) == text
