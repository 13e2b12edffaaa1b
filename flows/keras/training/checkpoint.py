"""Saves and loads the state of a Keras training between two epochs, so that another trial can resume from it.

The state has all variables of the model (weights, moving averages, the states of random layers) and of its optimizer,
and the counters of callbacks. So a training that stops and resumes has the curve of one that never stopped. It is
stored as arrays and JSON, never as pickle: write access to the artifact store must not allow running code here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpo_core.base.errors import InputError
from hpo_flows.keras.training.model import optimizer_of

COUNTED = ("wait", "cooldown_counter", "best", "best_epoch", "best_weights", "stopped_epoch", "epochs_since_last_save")
"""The attributes in which Keras callbacks keep their progress."""

ARRAYS, STATE = "variables.npz", "state.json"

Arrays = list[np.ndarray[Any, Any]]


class Damaged(ValueError):
    """The checkpoint is missing or unreadable. This is not a mistake in the study, unlike a checkpoint that misfits."""


@dataclass
class State:
    """What is stored besides the variables.

    Args:
        epoch: The number of epochs done.
        rate: The learning rate that the training began with; 0 if it is not known.
        seed: The seed of the first trial of the chain; it determines the order of the examples.
        best: The metrics of the best epoch so far, including ``epoch``; empty if none is known.
        best_weights: The weights at that epoch, if they are kept.
        callbacks: For each callback its counters, by attribute.
    """

    epoch: int = 0
    seed: int = 0
    rate: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    best_weights: Arrays = field(default_factory=list)
    callbacks: list[dict[str, Any]] = field(default_factory=list)


def save(folder: Path, model: Any, state: State) -> None:
    """Write the model's variables and the state into an existing folder."""
    optimizer = optimizer_of(model)
    groups = {"model": _values(model.variables), "best": state.best_weights}
    groups["optimizer"] = [] if optimizer is None else _values(optimizer.variables)
    plain: list[dict[str, Any]] = []
    for i, attributes in enumerate(state.callbacks):
        arrays = {name: value for name, value in attributes.items() if _is_arrays(value)}
        groups |= {f"callback.{i}.{name}": value for name, value in arrays.items()}
        plain.append({name: value for name, value in attributes.items() if name not in arrays})
    named: dict[str, Any] = {
        f"{group}/{i}": array for group, arrays in groups.items() for i, array in enumerate(arrays)
    }
    np.savez(folder / ARRAYS, **named)
    document = {"epoch": state.epoch, "seed": state.seed, "rate": state.rate, "best": state.best, "callbacks": plain}
    text = json.dumps(document)
    (folder / STATE).write_text(text, encoding="utf-8")


def load(folder: Path, model: Any, *, own_rate: bool = False) -> State:
    """Set the model's variables to what :func:`save` has written; returns the state.

    Args:
        folder: Where it was written.
        model: The model, as the trial's configuration has it.
        own_rate: Whether the model keeps its learning rate, the one hyperparameter that is a variable of its optimizer.
            It is lowered as callbacks have lowered the parent's.

    Raises:
        Damaged: The folder has no checkpoint, or it cannot be read. The model is unchanged.
        InputError: The checkpoint is of another model.
    """
    try:
        data = json.loads((folder / STATE).read_text(encoding="utf-8"))
        with np.load(folder / ARRAYS, allow_pickle=False) as file:
            groups: dict[str, Arrays] = {}
            for name in sorted(file.files, key=lambda name: int(name.rpartition("/")[2])):
                groups.setdefault(name.rpartition("/")[0], []).append(file[name])
        begun = float(data.get("rate", 0))
        given = data["best"], groups.get("best", []), data["callbacks"]
        state = State(int(data["epoch"]), int(data["seed"]), begun, *given)
    except Exception as error:  # zipfile, numpy and json raise many kinds for a damaged file
        raise Damaged(f"the checkpoint cannot be read: {type(error).__name__}: {error}") from None
    for name, arrays in groups.items():
        if name.startswith("callback."):
            _, i, attribute = name.split(".", 2)
            state.callbacks[int(i)][attribute] = arrays
    if not model.built:
        raise _does_not_fit("needs a model whose input shape is known before it is trained: begin it with keras.Input")
    _assign(model.variables, groups.get("model", []))
    if (optimizer := optimizer_of(model)) is not None:
        optimizer.build(model.trainable_variables)
        rate = next((each for each in optimizer.variables if each is optimizer.learning_rate), None)  # else a schedule
        own = 0.0 if rate is None else float(np.asarray(rate))
        _assign(optimizer.variables, groups.get("optimizer", []))
        if own_rate and rate is not None:
            changed = float(np.asarray(rate)) / state.rate if state.rate else 1.0
            rate.assign(own * changed)
        state.rate = own
    return state


def counted(callback: Any) -> dict[str, Any]:
    """A callback's counters, without its settings: Keras flips the sign of a ``min_delta`` at the start."""
    state: dict[str, Any] = {}
    for name in COUNTED:
        value = getattr(callback, name, None)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool | int | float) or _is_arrays(value):
            state[name] = value
    return state


def _is_arrays(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, np.ndarray) for each in value)


def _values(variables: Sequence[Any]) -> Arrays:
    arrays = [np.asarray(variable) for variable in variables]
    return [array.astype("float32") if array.dtype.kind == "V" else array for array in arrays]  # bfloat16


def _assign(variables: Sequence[Any], arrays: Arrays) -> None:
    ours, theirs = [tuple(variable.shape) for variable in variables], [array.shape for array in arrays]
    if ours != theirs:
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        if at is None:
            raise _does_not_fit(f"has {len(theirs)} variables where this model has {len(ours)}")
        raise _does_not_fit(f"has the shape {theirs[at]} where this model's {variables[at].path} has {ours[at]}")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _does_not_fit(problem: str) -> InputError:
    return InputError(
        "checkpoint",
        f"the parent trial's checkpoint does not fit: it {problem}",
        "if build_model has changed, give the study a new name",
    )
