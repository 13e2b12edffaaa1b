"""Writes the arguments of ``model.fit`` to disk once; every worker reads them, with large arrays mapped, not copied.

A trial's message to its worker only names the folder. A process opens it once and keeps the result. cloudpickle, psutil
and tensorflow are imported only by the functions that need them.
"""

from __future__ import annotations

import inspect
import os
import pickle
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hpo_core.base.errors import InputError

LARGE = 1 << 16
"""Arrays of at least this many bytes get their own file."""

ARGUMENTS = "arguments.pickle"

ENDLESS = -1
"""TensorFlow's ``INFINITE_CARDINALITY``."""


@dataclass(frozen=True)
class FitArguments:
    """The arguments that a search passes to ``fit``, positional and named, without callbacks."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class _Array:
    file: str


@dataclass(frozen=True)
class _Dataset:
    folder: str


def write(arguments: FitArguments, parent: Path) -> Path:
    """Write arguments into a new folder below ``parent``, and remove the folders of dead processes there.

    Raises:
        InputError: An argument can be read only once, or cannot be sent to another process.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
    try:
        plain = _stored((arguments.args, dict(arguments.kwargs)), "", folder)
        import cloudpickle

        (folder / ARGUMENTS).write_bytes(cloudpickle.dumps(plain))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        shutil.rmtree(folder)
        raise InputError(
            "search", f"an argument cannot be sent to a worker process ({error})", "give arrays or a tf.data.Dataset"
        ) from None
    except BaseException:
        shutil.rmtree(folder)
        raise
    return folder


@lru_cache(maxsize=2)
def read(folder: Path) -> FitArguments:
    """The arguments in a folder; this process always gets the same objects."""
    args, kwargs = _loaded(pickle.loads((folder / ARGUMENTS).read_bytes()), folder)  # noqa: S301  (written by this user)
    return FitArguments(args, kwargs)


def _remove_orphans(parent: Path) -> None:
    import psutil

    for folder in parent.iterdir():
        pid = folder.name.partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _stored(value: Any, where: str, folder: Path) -> Any:
    """The value with large arrays and datasets moved into files of the folder."""
    if inspect.isgenerator(value):
        problem = f"{where or 'the data'} is a generator, which can be read only once, and every trial reads it"
        raise InputError("search", problem, "give arrays, a tf.data.Dataset or a keras.utils.PyDataset")
    if type(value) in (tuple, list):
        return type(value)(_stored(each, f"{where}[{i}]", folder) for i, each in enumerate(value))
    if type(value) is dict:
        return {key: _stored(each, str(key), folder) for key, each in value.items()}
    if type(value).__module__.startswith("tensorflow"):
        if hasattr(value, "element_spec") and hasattr(value, "save"):
            if hasattr(value, "cardinality") and int(value.cardinality()) == ENDLESS:
                problem = f"{where or 'the data'} is a data set without an end, and each trial reads it from a copy"
                raise InputError("search", problem, "leave out repeat(), or end it with take()")
            target = tempfile.mkdtemp(dir=folder)
            value.save(target)
            return _Dataset(Path(target).name)
        if hasattr(value, "numpy"):
            value = value.numpy()
    if isinstance(value, np.ndarray) and value.nbytes >= LARGE and not value.dtype.hasobject:
        name = f"{len(list(folder.iterdir()))}.npy"
        np.save(folder / name, value)
        return _Array(name)
    return value


def _loaded(value: Any, folder: Path) -> Any:
    if type(value) in (tuple, list):
        return type(value)(_loaded(each, folder) for each in value)
    if type(value) is dict:
        return {key: _loaded(each, folder) for key, each in value.items()}
    if isinstance(value, _Array):
        return np.load(folder / value.file, mmap_mode="r")
    if isinstance(value, _Dataset):
        import tensorflow as tf

        return tf.data.Dataset.load(str(folder / value.folder))
    return value
