"""Finds what a pickled model needs: the packages it refers to, and the user's own modules, which travel inside it.

MLflow would load the model in a subprocess and watch its imports, which takes longer than many trainings, and lists the
user's own modules nowhere.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import io
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import cloudpickle

_NAMED = (type, types.FunctionType, types.BuiltinFunctionType)


def requirement_of(module: str) -> str:
    """The requirement that installs a module as it is installed here.

    A module may come from packages of several names: ``tensorflow`` from ``tensorflow`` or ``tensorflow-cpu``. The
    local part of a version, as in ``2.9.0+cpu``, is left out: the package index does not have it.

    >>> requirement_of("numpy")  # doctest: +ELLIPSIS
    'numpy==...'
    """
    package = _packages()[module][0]
    return f"{package.replace('_', '-')}=={version(package).partition('+')[0]}"


@contextlib.contextmanager
def self_contained(model: Any) -> Iterator[set[str]]:
    """Have cloudpickle put the user's own modules into the pickle of a model, as long as the context lasts.

    Yields:
        The names of the packages that the pickle refers to and that are installed from elsewhere.

    Raises:
        Exception: Whatever the model raises if it cannot be pickled.
    """
    with contextlib.ExitStack() as stack:
        known: set[str] = set()
        while True:
            found = _modules_in(model)
            own = {name for name in found - known if _is_users(name)}
            if not own:
                break
            known |= own
            for name in own:
                module = sys.modules[name]
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
                # What has imported it may be of a package that only this process needs, and would be pickled with it.
                for origin in ("__loader__", "__spec__"):
                    stack.callback(setattr, module, origin, getattr(module, origin, None))
                    setattr(module, origin, None)
        yield {top for name in found - known if (top := name.partition(".")[0]) in _packages() and not _is_users(top)}


@functools.cache
def _packages() -> Mapping[str, list[str]]:
    """The installed packages by module; to find them takes a second."""
    return packages_distributions()


class _Recorder(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler that keeps nothing but the modules of all that it meets."""

    def __init__(self) -> None:
        super().__init__(_Nothing())
        self.modules: set[str] = set()

    def persistent_id(self, value: Any) -> None:
        if isinstance(value, types.ModuleType):
            name: Any = value.__name__
        else:
            name = getattr(value if isinstance(value, _NAMED) else type(value), "__module__", None)
        if isinstance(name, str):
            self.modules.add(name)


class _Nothing(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def _modules_in(model: Any) -> set[str]:
    recorder = _Recorder()
    recorder.dump(model)
    return recorder.modules


def _is_users(name: str) -> bool:
    """Whether a module is neither installed nor part of Python, so that no requirement brings it."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if name == "__main__" or file is None or file.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
        return False  # cloudpickle takes __main__ by value anyway
    path = Path(file)
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(sysconfig.get_path(place)) for place in ("stdlib", "platstdlib"))
