"""The loop over the epochs of a PyTorch training: stops it, goes on from the parent trial's state, leaves its own.

PyTorch is imported in the functions, so that importing this file stays cheap.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

from hpo_core.base.errors import InputError
from hpo_core.base.extras import require
from hpo_flows.adapters.own_settings import settings_of, with_own_settings
from hpo_flows.adapters.random_states import keeps_workers, own_generators, random_states, restore_random_states

STATE = "training.pt"

__all__ = ["epochs"]


class Trial(Protocol):
    """What the loop needs of a trial: :class:`hpo_flows.TrialContext` has it, and imports this file for its epochs."""

    @property
    def fidelity(self) -> float | None: ...

    @property
    def scratch(self) -> Path: ...

    @property
    def resume_from(self) -> Path | None: ...

    @property
    def reconfigured(self) -> bool: ...

    @property
    def goes_on(self) -> bool: ...

    def scratch_instead(self, reason: str) -> None: ...

    def leave_checkpoint(self, write: Callable[[Path], object]) -> None: ...


def epochs(trial: Trial, epochs: int | None = None, **parts: Any) -> Iterator[int]:
    """Iterate over the epochs of one training of a trial; ``trial.epochs(...)`` is the same.

    Call ``trial.report(epoch, {...})`` in each. The loop ends at the trial's fidelity, or when a rule of the study has
    told to stop. In a study with a fidelity it begins with the parent trial's state, and leaves its own: that of all
    ``parts`` and of the random generators. A loop that is left by ``break`` leaves none.

    Args:
        trial: The trial, a :class:`hpo_flows.TrialContext`.
        epochs: How many epochs a training has in a study without fidelity.
        parts: All that changes in a training, by names of your choice: ``model``, ``optimizer``, ``scheduler`` and
            whatever else has a ``state_dict``, a ``DataLoader``, a ``torch.Generator``. None stands for none.

    Returns:
        Iterates over the numbers of the epochs. The first is 0, or that with which the training goes on.

    Raises:
        InputError: A part has no state, or nothing tells how many epochs there are.
        ExtraMissing: PyTorch is not installed.
    """
    require("torch", "hpo_flows.torch.epochs")
    training = _Training(trial, {name: part for name, part in parts.items() if part is not None})
    total = _total(trial.fidelity, epochs)
    return training.epochs(training.resume(), total)


def _total(fidelity: float | None, epochs: int | None) -> int:
    if fidelity is not None:
        return max(1, round(fidelity))
    if epochs is None:
        raise InputError("epochs", "the study has no fidelity to set them", "give trial.epochs(20, model=...)")
    return epochs


class _Training:
    """One training, as far as its state is concerned."""

    def __init__(self, trial: Trial, parts: Mapping[str, Any]) -> None:
        self._trial, self._parts = trial, parts
        self._exact = True
        for name, part in parts.items():
            if _is_loader(part):
                self._exact = self._exact and not keeps_workers(part)
            elif not (hasattr(part, "load_state_dict") or _is_generator(part)):
                problem = f"a {type(part).__name__} has no state_dict and is no DataLoader and no torch.Generator"
                raise InputError(name, problem, "give what has a state in trial.epochs(...), each by a name")
        self._settings = {name: _settings_of(part) for name, part in parts.items()}

    def resume(self) -> int:
        """Restore the parent trial's state, if there is one. Returns the epoch to begin with."""
        import torch

        folder = self._trial.resume_from
        if folder is None:
            return 0
        begun = deepcopy(self._state())
        try:
            # Nothing but tensors and plain values: what comes from the store is never unpickled.
            saved = torch.load(folder / STATE, map_location="cpu", weights_only=True)
            self._restore(saved, own_settings=self._trial.reconfigured)
            return int(saved["epochs"])
        except Exception as error:  # of a damaged file, or of parts that are not those of the parent trial
            self._restore(begun)
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            self._trial.scratch_instead(f"the checkpoint cannot be read: {reason}")
            return 0

    def epochs(self, first: int, total: int) -> Iterator[int]:
        import torch

        last = first
        for epoch in range(first, total):
            yield epoch
            last = epoch + 1
            if not self._trial.goes_on:
                break
        if self._trial.fidelity is not None and self._exact:
            # Now, since the objective may draw from the generators and change the model until it returns.
            file = self._trial.scratch / STATE
            torch.save(self._state() | {"epochs": last, "settings": self._settings}, file)
            self._trial.leave_checkpoint(lambda folder: shutil.move(file, folder / STATE))

    def _state(self) -> dict[str, Any]:
        return {"random": random_states(), "parts": {name: _state_of(part) for name, part in self._parts.items()}}

    def _restore(self, state: Mapping[str, Any], *, own_settings: bool = False) -> None:
        if state["parts"].keys() != self._parts.keys():
            raise ValueError(f"it has {sorted(state['parts'])}, and this training {sorted(self._parts)}")
        for name, part in self._parts.items():
            saved = state["parts"][name]
            if own_settings:
                saved = with_own_settings(saved, state["settings"][name], self._settings[name])
            _restore_part(part, saved)
        restore_random_states(state["random"])


def _state_of(part: Any) -> Any:
    if _is_loader(part):
        return [generator.get_state() for generator in own_generators(part)]
    return part.get_state() if _is_generator(part) else part.state_dict()


def _restore_part(part: Any, state: Any) -> None:
    if _is_loader(part):
        for generator, each in zip(own_generators(part), state, strict=True):
            generator.set_state(each)
    elif _is_generator(part):
        part.set_state(state)
    else:
        part.load_state_dict(state)


def _settings_of(part: Any) -> Any:
    """What a configuration may have set in the state of a part: nothing in a model, a loader or a generator."""
    from torch import nn

    holds_none = isinstance(part, nn.Module) or _is_loader(part) or _is_generator(part)
    return None if holds_none else settings_of(part.state_dict())


def _is_loader(part: Any) -> bool:
    from torch.utils.data import DataLoader

    return isinstance(part, DataLoader) and not hasattr(part, "load_state_dict")


def _is_generator(part: Any) -> bool:
    import torch

    return isinstance(part, torch.Generator)
