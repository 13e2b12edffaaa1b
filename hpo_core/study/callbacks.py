"""Defines which callbacks a study file can name, and their settings.

Keras itself is not needed to tell that a name or a setting is wrong; :mod:`hpo_flows.keras` makes the objects. Where a
callback writes files, their place is not a setting: each trial writes into a folder of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

Callback = dict[str, dict[str, Any]]
"""A callback as a study file has it: ``{name: settings}``."""


@dataclass(frozen=True)
class Kind:
    """What a setting may be.

    Args:
        text: The same in words, for an error.
        accepts: Whether a value is such a one.
    """

    text: str
    accepts: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


NAME = Kind("the name of a metric", lambda value: isinstance(value, str) and bool(value))

FLAG = Kind("true or false", lambda value: isinstance(value, bool))

NUMBER = Kind("a number", _is_number)

POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)

SHARE = Kind("a number between 0 and 1", lambda value: _is_number(value) and 0 < value < 1)

FLOOR = Kind("a number from 0 and below 1", lambda value: _is_number(value) and 0 <= value < 1)

COUNT = Kind("a whole number from 0", lambda value: _is_whole(value, 0))

SEVERAL = Kind("a whole number above 0", lambda value: _is_whole(value, 1))

MODE = Kind("auto, min or max", lambda value: value in ("auto", "min", "max"))

EPOCH_OR_STEPS = Kind("epoch, or a number of batches", lambda value: value == "epoch" or _is_whole(value, 1))

UPDATES = Kind("epoch, batch, or a number of batches", lambda value: value in ("epoch", "batch") or _is_whole(value, 1))

BATCHES = Kind("a batch, or the first and the last one", lambda value: _is_whole(value, 0) or _is_range(value))

LETTER = Kind("a single character", lambda value: isinstance(value, str) and len(value) == 1)


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_whole(each, 0) for each in value)


SETTINGS: Mapping[str, Mapping[str, Kind]] = {
    "EarlyStopping": {
        "monitor": NAME, "min_delta": NUMBER, "patience": COUNT, "mode": MODE, "baseline": NUMBER,
        "restore_best_weights": FLAG, "start_from_epoch": COUNT,
    },
    "ReduceLROnPlateau": {
        "monitor": NAME, "factor": SHARE, "patience": COUNT, "mode": MODE, "min_delta": NUMBER, "cooldown": COUNT,
        "min_lr": NUMBER,
    },
    "ModelCheckpoint": {
        "monitor": NAME, "save_best_only": FLAG, "save_weights_only": FLAG, "mode": MODE, "save_freq": EPOCH_OR_STEPS,
        "initial_value_threshold": NUMBER,
    },
    "TensorBoard": {
        "histogram_freq": COUNT, "write_graph": FLAG, "write_images": FLAG, "write_steps_per_second": FLAG,
        "update_freq": UPDATES, "profile_batch": BATCHES,
    },
    "LearningRateScheduler": {},
    "CSVLogger": {"separator": LETTER},
    "TerminateOnNaN": {},
}  # fmt: skip

SCHEDULES: Mapping[str, Mapping[str, Kind]] = {
    "exponential": {"rate": POSITIVE},
    "step": {"every": SEVERAL, "factor": POSITIVE},
    "cosine": {"epochs": SEVERAL, "floor": FLOOR},
}
"""Learning-rate schedules by name: times ``rate`` each epoch; times ``factor`` every few epochs, as set; down to
``floor`` times the first rate along half a cosine over the given epochs (``floor`` is 0 where absent)."""

REQUIRED = {"rate", "every", "factor", "epochs"}

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def checked_callback(value: Any) -> Callback:
    """A callback as a study file has it, in the form ``{name: settings}``.

    Raises:
        ValueError: There is no such callback or setting, or a setting has a value that it cannot have.

    >>> checked_callback("TerminateOnNaN"), checked_callback({"EarlyStopping": {"patience": 3}})
    ({'TerminateOnNaN': {}}, {'EarlyStopping': {'patience': 3}})
    """
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(f"{value!r} is not one callback; write it as {{EarlyStopping: {{patience: 3}}}}")
    (name, settings), *_ = value.items()
    if name not in SETTINGS:
        raise ValueError(f"{name!r} is no callback; {_near(name, SETTINGS)}")
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise ValueError(f"{name} has the settings {settings!r}; write them as names and values")
    if name == "LearningRateScheduler":
        _check_schedule(settings)
    else:
        _check_settings(name, settings, SETTINGS[name])
    return {name: dict(settings)}


def _check_settings(where: str, settings: Mapping[str, Any], known: Mapping[str, Kind]) -> None:
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"{where} has no setting {key!r}; {_near(key, known)}")
        if not known[key].accepts(value):
            raise ValueError(f"{where}.{key} is {value!r}; give {known[key].text}")


def _check_schedule(settings: Mapping[str, Any]) -> None:
    where, schedule = "LearningRateScheduler", settings.get("schedule")
    others = {key: value for key, value in settings.items() if key != "schedule"}
    if isinstance(schedule, str) and _REFERENCE.fullmatch(schedule):
        _check_settings(where, others, {})
        return
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        known = f"{', '.join(SCHEDULES)}, or a function as module:function"
        raise ValueError(f"{where}.schedule is {schedule!r}; give one of {known}")
    _check_settings(f"{where} ({schedule})", others, SCHEDULES[schedule])
    for key in SCHEDULES[schedule]:
        if key in REQUIRED and key not in others:
            raise ValueError(f"{where} ({schedule}) lacks {key!r}; give {SCHEDULES[schedule][key].text}")


def _near(name: object, known: Mapping[str, Any]) -> str:
    near = get_close_matches(str(name), known, 1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known are {', '.join(known)}" if known else "it has none"
