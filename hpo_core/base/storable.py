"""Decides what MLflow can store: names of params and metrics, steps, texts. Anything else is rejected early.

MLflow's servers and databases differ in what they refuse; these checks allow only what all of them accept.
"""

from __future__ import annotations

import hashlib
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

MAX_PARAMETER_LENGTH = 500

_CHARACTERS = re.compile(r"[\w\-. /:]+")  # without ':' on a server that runs on Windows


def _bad(name: str) -> str:
    if not _CHARACTERS.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        return f"use letters, digits, _ - . / and spaces, at most {MAX_NAME_LENGTH} characters"
    if name.startswith("..") or any(part in ("", ".", "..") for part in name.split("/")):
        return "it reads as a path, so leave out empty parts, . and .."
    return ""


def bad_parameter(name: str) -> str:
    """Why a parameter cannot have this name; empty if it can.

    >>> bad_parameter("lr (log), %"), bad_parameter("a\\nb")
    ('', 'use characters that can be printed')
    """
    if not name or len(name) > MAX_PARAMETER_LENGTH:
        return f"use 1 to {MAX_PARAMETER_LENGTH} characters"
    return "" if name.isprintable() else "use characters that can be printed"


def param_key(name: str) -> str:
    """The key of the param that MLflow gets for a parameter: its name, wherever MLflow takes that.

    Otherwise every character that MLflow refuses becomes ``_``, and six digits follow that differ from name to name.

    >>> param_key("units/layer 1"), param_key("lr: %"), param_key("a//b")
    ('units/layer 1', 'lr: _-9c5689', 'a__b-7a9acf')
    """
    if not _bad(name) and name.strip() == name:
        return name
    text = re.sub(r"[^\w\-. /:]", "_", name).strip()[: MAX_NAME_LENGTH - 7]
    return distinct(re.sub(r"^\.+|/", "_", text) if _bad(text) else text, name)


def distinct(text: str, name: str) -> str:
    """A text that stands for a name, with six digits of the name's digest behind it."""
    return f"{text}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def bad_metric(name: str) -> str:
    """Why MLflow cannot store a metric with this name; empty if it can. The prefix :data:`OURS` is reserved.

    >>> bad_metric("loss:val"), bad_metric("top@5")
    ('', 'use letters, digits, _ - . / and spaces, at most 250 characters')
    """
    if name.startswith(OURS):
        return f"names that begin with {OURS!r} are reserved; choose another"
    return _bad(name)


def plain(text: object) -> str:
    """A text that every file and database accepts: lone surrogates and NUL characters become question marks.

    >>> plain("caf\\xe9 \\udcff \\x00")
    'café ? ?'
    """
    return str(text).replace("\0", "?").encode("utf-8", "replace").decode("utf-8")


def is_plain(text: str) -> bool:
    """Whether a text can be stored unchanged."""
    return "\0" not in text if text.isascii() else plain(text) == text
