"""Defines which callbacks a study file can name, and their settings.

Keras itself is not needed to tell that a name or a setting is wrong; :mod:`hpo_flows.keras` makes the objects. Where a
callback writes files, their place is not a setting: each trial writes into a folder of its own. The defaults are those
of Keras, which gets only what the file says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from hpo_core.base.errors import InputError
from hpo_core.base.settings import STRICT, Count, Positive, make_settings, near_or_known

Callback = dict[str, dict[str, Any]]
"""A callback as a study file has it: ``{name: settings}``."""

Name = Annotated[str, Field(min_length=1)]
Mode = Literal["auto", "min", "max"]
Index = Annotated[int, Field(ge=0)]
Letter = Annotated[str, Field(min_length=1, max_length=1)]


@dataclass(frozen=True, config=STRICT)
class EarlyStopping:
    monitor: Name = "val_loss"
    min_delta: float = 0
    patience: Index = 0
    mode: Mode = "auto"
    baseline: float | None = None
    restore_best_weights: bool = False
    start_from_epoch: Index = 0


@dataclass(frozen=True, config=STRICT)
class ReduceLROnPlateau:
    monitor: Name = "val_loss"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Index = 10
    mode: Mode = "auto"
    min_delta: float = 1e-4
    cooldown: Index = 0
    min_lr: float = 0.0


@dataclass(frozen=True, config=STRICT)
class ModelCheckpoint:
    monitor: Name = "val_loss"
    save_best_only: bool = False
    save_weights_only: bool = False
    mode: Mode = "auto"
    save_freq: Literal["epoch"] | Count = "epoch"
    initial_value_threshold: float | None = None


@dataclass(frozen=True, config=STRICT)
class TensorBoard:
    histogram_freq: Index = 0
    write_graph: bool = True
    write_images: bool = False
    write_steps_per_second: bool = False
    update_freq: Literal["epoch", "batch"] | Count = "epoch"
    profile_batch: Index | Annotated[list[Index], Field(min_length=2, max_length=2)] = 0


@dataclass(frozen=True, config=STRICT)
class CSVLogger:
    separator: Letter = ","


@dataclass(frozen=True, config=STRICT)
class NoSettings:
    pass


@dataclass(frozen=True, config=STRICT)
class Exponential:
    """Times ``rate`` each epoch."""

    rate: Positive


@dataclass(frozen=True, config=STRICT)
class Step:
    """Times ``factor`` every few epochs."""

    every: Count
    factor: Positive


@dataclass(frozen=True, config=STRICT)
class Cosine:
    """Down to ``floor`` times the first rate, along half a cosine over ``epochs``."""

    epochs: Count
    floor: Annotated[float, Field(ge=0, lt=1)] = 0


CALLBACKS: Mapping[str, type] = {
    "EarlyStopping": EarlyStopping,
    "ReduceLROnPlateau": ReduceLROnPlateau,
    "ModelCheckpoint": ModelCheckpoint,
    "TensorBoard": TensorBoard,
    "LearningRateScheduler": NoSettings,
    "CSVLogger": CSVLogger,
    "TerminateOnNaN": NoSettings,
}
"""The callbacks by name. ``LearningRateScheduler`` has the settings of its schedule (:data:`SCHEDULES`)."""

SCHEDULES: Mapping[str, type] = {"exponential": Exponential, "step": Step, "cosine": Cosine}
"""The schedules of the learning rate, by name."""

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def checked_callback(value: Any) -> Callback:
    """A callback as a study file has it, in the form ``{name: settings}``.

    Raises:
        ValueError: The callback or setting does not exist, or a setting has a value that it cannot have.

    >>> checked_callback("TerminateOnNaN"), checked_callback({"EarlyStopping": {"patience": 3}})
    ({'TerminateOnNaN': {}}, {'EarlyStopping': {'patience': 3}})
    """
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(f"{value!r} is not one callback; write it as {{EarlyStopping: {{patience: 3}}}}")
    (name, settings), *_ = value.items()
    if name not in CALLBACKS:
        raise ValueError(f"{name!r} is not a callback; {near_or_known(str(name), CALLBACKS)}")
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise ValueError(f"{name} has the settings {settings!r}; write them as names and values")
    if name == "LearningRateScheduler":
        _check_schedule(settings)
    else:
        make_settings(CALLBACKS[name], settings, name=name, field=name)
    return {name: dict(settings)}


def _check_schedule(settings: Mapping[str, Any]) -> None:
    where, schedule = "LearningRateScheduler", settings.get("schedule")
    others = {key: value for key, value in settings.items() if key != "schedule"}
    if isinstance(schedule, str) and _REFERENCE.fullmatch(schedule):
        cls: type = NoSettings  # a function of the user has no settings
    elif isinstance(schedule, str) and schedule in SCHEDULES:
        cls = SCHEDULES[schedule]
    else:
        remedy = f"give one of {', '.join(SCHEDULES)}, or a function as module:function"
        raise InputError(f"{where}.schedule", f"{schedule!r} is not a schedule", remedy)
    make_settings(cls, others, name=schedule, field=where)
