"""Restores a training's own hyperparameters once it has loaded the checkpoint of another configuration.

The states of optimizers and of schedules mix what a configuration has set (a learning rate, a momentum, the length of a
decay) with how far the training has come. Nothing in them tells which is which, but two trainings do: what differs
between them before their first step was set by their configurations; the rest is progress.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RATES = {"lr": "initial_lr", "_last_lr": "base_lrs"}
"""What a schedule has changed in proportion, each with what it began with, by PyTorch's names."""


def settings_of(state: Any) -> Any:
    """What may be a hyperparameter in the state of an optimizer or a schedule: a copy without arrays.

    Args:
        state: Of a training that has made no step yet.

    >>> settings_of({"param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}], "decay": abs})
    {'param_groups': [{'lr': 0.1, 'betas': (0.9, 0.99)}], 'decay': None}
    """
    if isinstance(state, Mapping):
        return {key: settings_of(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return (list if isinstance(state, list) else tuple)(map(settings_of, state))
    if hasattr(state, "item"):  # a number of numpy's or PyTorch's, unless it is an array
        return None if state.ndim else state.item()
    return state if isinstance(state, bool | int | float | str) else None


def with_own_settings(state: Any, begun: Any, own: Any) -> Any:
    """The state of a checkpoint with the hyperparameters of the training that goes on from it.

    Args:
        state: That of the checkpoint.
        begun: The settings that the checkpoint's training began with.
        own: The settings that this training begins with.

    A learning rate that has changed since the beginning keeps the same share of the one that it began with:

    >>> parent, own = {"lr": 0.1, "momentum": 0.9, "step": 0}, {"lr": 0.3, "momentum": 0.5, "step": 0}
    >>> with_own_settings({"lr": 0.05, "momentum": 0.9, "step": 7}, parent, own)
    {'lr': 0.15, 'momentum': 0.5, 'step': 7}
    """
    if begun == own:
        return state
    of_its_kind: Any = type(state)
    if isinstance(state, Mapping):
        if begun.keys() != own.keys():
            if "lr" in own:
                raise ValueError("its optimizer is of another kind")
            return of_its_kind(own)
        merged = {key: with_own_settings(value, begun.get(key), own.get(key)) for key, value in state.items()}
        for name, base in RATES.items():
            if name in own:
                at = base if base in own else name
                merged[name] = _in_proportion(state[name], begun[at], own[at])
        return of_its_kind(merged)
    if isinstance(state, list | tuple) and len(state) == len(begun) == len(own):
        return of_its_kind(map(with_own_settings, state, begun, own))
    return own


def _in_proportion(rate: Any, begun: Any, own: Any) -> Any:
    """A learning rate, or a list of several."""
    if isinstance(rate, list):
        return [_in_proportion(*each) for each in zip(rate, begun, own, strict=True)]
    if begun == own:
        return rate
    return own if rate == begun or not begun else rate * own / begun
