"""Saves and restores the random states of a PyTorch training, as tensors and numbers that are read without pickle.

PyTorch is imported in the functions, so that importing this file stays cheap.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np


def random_states() -> dict[str, Any]:
    """The states of the global generators: Python's, numpy's, and PyTorch's on processors and GPUs."""
    import torch

    name, keys, *position = np.random.get_state()
    numpy = (name, np.asarray(keys).tolist(), *position)
    states: dict[str, Any] = {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Restore what :func:`random_states` gave."""
    import torch

    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def own_generators(loader: Any) -> list[Any]:
    """The generators that a ``DataLoader`` and its samplers draw from instead of PyTorch's global one."""
    sampler = getattr(loader.batch_sampler, "sampler", None)
    found = (getattr(each, "generator", None) for each in (loader, loader.sampler, loader.batch_sampler, sampler))
    return list({id(each): each for each in found if each is not None}.values())


def keeps_workers(loader: Any) -> bool:
    """Whether a ``DataLoader`` has processes whose random states last from epoch to epoch and cannot be read here."""
    return bool(loader.num_workers and loader.persistent_workers)
