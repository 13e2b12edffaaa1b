"""The arguments of ``model.fit``, written once to disk and read by every worker: large arrays are mapped, not copied.

A trial's message to its worker names the folder; what is in it is opened once a process, and kept.
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

from hpo_core.errors import InputError

LARGE = 1 << 16
"""Arrays of so many bytes get a file of their own."""

ARGUMENTS = "arguments.pickle"


@dataclass(frozen=True)
class FitArguments:
    """What a search is given for ``fit``: positional arguments and named ones, the callbacks apart."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class _Array:
    file: str


@dataclass(frozen=True)
class _Dataset:
    folder: str


def write(arguments: FitArguments, parent: Path) -> Path:
    """Write arguments into a new folder below ``parent``, beside which those of dead processes are removed.

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
    """The arguments in a folder; the same objects whenever this process asks again."""
    args, kwargs = _loaded(pickle.loads((folder / ARGUMENTS).read_bytes()), folder)  # noqa: S301  (written by this user)
    return FitArguments(args, kwargs)


def _remove_orphans(parent: Path) -> None:
    import psutil

    for folder in parent.iterdir():
        pid = folder.name.partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _stored(value: Any, where: str, folder: Path) -> Any:
    """The value with large arrays and data sets put into files of the folder."""
    if inspect.isgenerator(value):
        problem = f"{where or 'the data'} is a generator, which can be read only once, and every trial reads it"
        raise InputError("search", problem, "give arrays, a tf.data.Dataset or a keras.utils.PyDataset")
    if type(value) in (tuple, list):
        return type(value)(_stored(each, f"{where}[{i}]", folder) for i, each in enumerate(value))
    if type(value) is dict:
        return {key: _stored(each, str(key), folder) for key, each in value.items()}
    if type(value).__module__.startswith("tensorflow"):
        if hasattr(value, "element_spec") and hasattr(value, "save"):
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
