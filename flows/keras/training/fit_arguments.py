"""Writes the arguments of ``model.fit`` to disk once; every worker reads them, with large arrays mapped, not copied.

A trial's message to its worker only names the folder. A process opens it once and keeps the result. Only what reads the
same each time is written: a data set that shuffles, say, would be frozen in one order. cloudpickle, psutil and
tensorflow are imported only by the functions that need them.
"""

from __future__ import annotations

import inspect
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hpo_core.base.errors import InputError
from hpo_core.space.configuration import plain

LARGE = 1 << 16
"""Arrays of at least this many bytes get their own file."""

ARGUMENTS = "arguments.pickle"

ENDLESS = -1
"""TensorFlow's ``INFINITE_CARDINALITY``."""

REMEDY = "give search(data=make_data), a function that returns the arguments and is called in each worker"

DIFFERS = {
    "Shuffle": "shuffles",
    r"^(?!Stateless).*(Random|Multinomial|TruncatedNormal|Sampling)": "draws at random",
    "PyFunc|Generator": "calls Python code",
    "VarHandle|Variable": "keeps state",
}
"""The operations, as regular expressions, because of which a data set may not read the same each time."""


def at_least_one(name: str, value: Any) -> int:
    """A setting as a whole number above 0.

    Raises:
        InputError: It is none.
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(name, f"{value!r} is not a whole number above 0")
    return number


@dataclass(frozen=True)
class FitArguments:
    """The arguments that a search passes to ``fit``, without callbacks.

    Args:
        args: The positional ones.
        kwargs: Those with names.
        make: A function that returns further ones by name, called once in each process that trains; None for none.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    make: Callable[[], Mapping[str, Any]] | None = None

    @property
    def known(self) -> bool:
        """Whether there are any: before a search there are none."""
        return bool(self.args or self.kwargs or self.make)

    def made(self) -> FitArguments:
        """The arguments with those that ``make`` returns.

        Raises:
            InputError: It returned no dict.
        """
        if self.make is None:
            return self
        more = self.make()
        if not isinstance(more, Mapping):
            problem = f"it returned {type(more).__name__} instead of a dict of arguments"
            raise InputError("data", problem, "return {'x': ..., 'y': ...}")
        return FitArguments(self.args, {**self.kwargs, **more})


@dataclass(frozen=True)
class _Array:
    file: str


@dataclass(frozen=True)
class _Dataset:
    folder: str


def write(arguments: FitArguments, parent: Path) -> Path:
    """Write arguments into a new folder below ``parent``, and remove the folders of dead processes there.

    Raises:
        InputError: An argument does not read the same each time, or cannot be sent to another process.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
    try:
        args = tuple(_stored(each, _position(i), folder) for i, each in enumerate(arguments.args))
        plain = args, _stored(dict(arguments.kwargs), "", folder), arguments.make
        import cloudpickle

        (folder / ARGUMENTS).write_bytes(cloudpickle.dumps(plain))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        shutil.rmtree(folder)
        raise InputError("search", f"an argument cannot be sent to a worker process ({error})", REMEDY) from None
    except BaseException:
        shutil.rmtree(folder)
        raise
    return folder


@lru_cache(maxsize=2)
def read(folder: Path) -> FitArguments:
    """The arguments in a folder; this process always gets the same objects."""
    args, kwargs, make = pickle.loads((folder / ARGUMENTS).read_bytes())  # noqa: S301  (written by this user)
    return FitArguments(_loaded(args, folder), _loaded(kwargs, folder), make).made()


def _remove_orphans(parent: Path) -> None:
    import psutil

    for folder in parent.iterdir():
        pid = folder.name.partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _stored(value: Any, where: str, folder: Path) -> Any:
    """The value with large arrays and datasets moved into files of the folder."""
    if inspect.isgenerator(value):
        raise _stays(where, "is a generator, which can be read only once")
    if type(value) in (tuple, list):
        return type(value)(_stored(each, f"{where}[{i}]", folder) for i, each in enumerate(value))
    if type(value) is dict:
        return {key: _stored(each, str(key), folder) for key, each in value.items()}
    if type(value).__module__.startswith("tensorflow"):
        if hasattr(value, "element_spec") and hasattr(value, "save"):
            if (why := _why_it_differs(value)) is not None:
                raise _stays(where, why)
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


def _position(i: int) -> str:
    """What a positional argument is called in errors; that of ``fit`` where it has a name that all know."""
    return "xy"[i] if i < 2 else f"argument {i + 1}"


def _stays(where: str, why: str) -> InputError:
    return InputError("search", f"{where} {why}", REMEDY)


def _why_it_differs(dataset: Any) -> str | None:
    """Why a data set may not read the same each time; None if it does."""
    if hasattr(dataset, "cardinality") and int(dataset.cardinality()) == ENDLESS:
        return "is a data set without an end"
    for op in _ops(dataset):
        for pattern, why in DIFFERS.items():
            if re.search(pattern, op):
                return f"is a data set that {why} ({op})"
    return None


def _ops(dataset: Any) -> list[str]:
    """The operations of TensorFlow of which a data set consists."""
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef()
    variant = tf.data.experimental.to_variant(dataset)
    graph.ParseFromString(tf.raw_ops.DatasetToGraphV2(input_dataset=variant).numpy())
    functions = (node.op for function in graph.library.function for node in function.node_def)
    return sorted({*(node.op for node in graph.node), *functions})


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
