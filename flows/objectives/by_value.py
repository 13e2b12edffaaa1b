"""Pickles an objective from a script or notebook by value, with the script's names, for a worker process.

cloudpickle pickles functions and classes of ``__main__`` by value. That is enough to run the objective elsewhere, but
not for lookups by name: ``pickle`` and ``multiprocessing`` look a class up as an attribute of ``__main__``. So the
script's names are sent along, and :func:`unpickled` gives the process a ``__main__`` that has them. A process that
``multiprocessing`` *spawns* from there has :mod:`hpo_flows.objectives.script` as its ``__main__``, with the same names.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import importlib.machinery
import io
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from hpo_core.base.errors import InputError

SCRIPT = "HPO_SCRIPT"
"""The environment variable naming the file from which a spawned process reads the script's names."""

MAX_BYSTANDER = 1 << 20
"""The size in bytes up to which functions and classes that the objective does not refer to are sent along: a helper
that draws a plot may hold the whole data."""

_Cached = type(functools.cache(print))


@dataclass(frozen=True)
class _Parcel:
    """What is pickled.

    Args:
        function: The objective.
        names: The functions and classes of ``__main__`` that it refers to, directly or indirectly.
        bystanders: The other functions and classes of ``__main__``, each pickled separately, because unpickling one may
            fail in the other process.
        file: The script's ``__file__``; None in a notebook.
    """

    function: Callable[..., Any]
    names: Mapping[str, Any]
    bystanders: Mapping[str, bytes]
    file: str | None


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A cloudpickle pickler that records the names of ``__main__`` it meets. Pickles caches and NewTypes by value."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.names: dict[str, Any] = {}

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, types.FunctionType | type | _Cached) and _of_script(value):
            self.names[value.__qualname__] = value
        if isinstance(value, _Cached) and not _importable(value):
            filled = value.__wrapped__, value.__dict__  # set later, since a function may call itself through its cache
            return _empty_cache, (value.cache_parameters(),), filled, None, None, _fill_cache
        if isinstance(value, typing.NewType) and not _importable(value):
            return typing.NewType, (value.__name__, value.__supertype__)
        return super().reducer_override(value)


def _of_script(value: Any) -> bool:
    name = getattr(value, "__qualname__", "")
    return value.__module__ == "__main__" and getattr(sys.modules["__main__"], name, None) is value


def _importable(value: Any) -> bool:
    """Whether another process can import it by name."""
    found: Any = sys.modules.get(value.__module__)
    if value.__module__ == "__main__" or found is None:
        return False
    for part in getattr(value, "__qualname__", value.__name__).split("."):
        found = getattr(found, part, None)
    return found is value


class _Late:
    """A stand-in for a function that is unpickled later."""

    function: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def _empty_cache(parameters: Mapping[str, Any]) -> Any:
    cached: Any = functools.lru_cache(**parameters)(_Late())
    return cached


def _fill_cache(cached: Any, state: tuple[Callable[..., Any], Mapping[str, Any]]) -> None:
    function, attributes = state
    cached.__wrapped__.function = function
    cached.__dict__.update(attributes)


class _Sink:
    """A file that discards its content and raises beyond ``most`` bytes."""

    def __init__(self, most: float = math.inf) -> None:
        self._left = most

    def write(self, data: Any) -> None:
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            raise ValueError("it is too large")


def pickled(function: Callable[..., Any]) -> bytes:
    """Pickle a function with all that it refers to, for :func:`unpickled` in another process.

    Raises:
        InputError: It uses something that only exists in this process; the message names it.
    """
    try:
        first = _Pickler(_Sink())
        first.dump(function)
        file = io.BytesIO()
        script = getattr(sys.modules["__main__"], "__file__", None)
        _Pickler(file).dump(_Parcel(function, first.names, _bystanders(first.names), script))
    except Exception as error:  # pickling an object may raise anything
        raise _explained(function, error) from None
    return file.getvalue()


def _bystanders(names: Mapping[str, Any]) -> dict[str, bytes]:
    """The script's functions and classes that are not in ``names``, pickled if that works and they are small."""
    found: dict[str, bytes] = {}
    for name, value in list(vars(sys.modules["__main__"]).items()):
        if name in names or not isinstance(value, types.FunctionType | type | _Cached) or not _of_script(value):
            continue
        with contextlib.suppress(Exception):
            _Pickler(_Sink(MAX_BYSTANDER)).dump(value)
            file = io.BytesIO()
            _Pickler(file).dump(value)
            found[name] = file.getvalue()
    return found


def unpickled(data: bytes) -> Callable[..., Any]:
    """Unpickle a function. This process's ``__main__`` has the script's names afterwards."""
    main = types.ModuleType("__main__")
    # multiprocessing runs this module as __main__ in the processes that it spawns.
    main.__spec__ = importlib.machinery.ModuleSpec("hpo_flows.objectives.script", None)
    parcel: _Parcel = cloudpickle.loads(data)
    vars(main).update(parcel.names)
    vars(main)["__getattr__"] = functools.partial(_bystander, parcel)
    if parcel.file is not None:
        main.__file__ = parcel.file
    sys.modules["__main__"] = main
    return parcel.function


def _bystander(parcel: _Parcel, name: str) -> Any:
    if name not in parcel.bystanders:
        raise AttributeError(f"module '__main__' has no attribute {name!r}")
    return cloudpickle.loads(parcel.bystanders[name])


def name_of_script(name: str) -> Any:
    """Look a name up in the script whose objective an ancestor of this process trains.

    Raises:
        AttributeError: The name or script does not exist.
    """
    if name.startswith("__") or SCRIPT not in os.environ:
        raise AttributeError(f"module '__main__' has no attribute {name!r}")
    parcel = _parcel(os.environ[SCRIPT])
    return parcel.names[name] if name in parcel.names else _bystander(parcel, name)


@functools.cache
def _parcel(path: str) -> _Parcel:
    parcel: _Parcel = cloudpickle.loads(Path(path).read_bytes())
    return parcel


# -- what cannot go to another process --------------------------------------------------------------------------


def _explained(function: Callable[..., Any], error: Exception) -> InputError:
    """The error for an objective that cannot be pickled. It names the variable that is to blame."""
    found = _culprit(function, set())
    if found is None:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        problem = f"it cannot go to a worker process ({reason})"
        return InputError("objective", problem, "put it into a module, and name it as module:function")
    variable, inside, value = found
    module, name = type(value).__module__, type(value).__qualname__
    shown = name if module == "builtins" else f"{module}.{name}"
    shown = f"{'an' if shown.lstrip('_')[0] in 'aeiouAEIOU' else 'a'} {shown}"
    if not variable:
        problem = f"its {inside.removeprefix('.')!r} is {shown}"
    else:
        problem = f"it uses {variable}, " + (f"whose {inside} is {shown}" if inside else shown)
    return InputError("objective", f"{problem}, which cannot go to a worker process", "open it inside the function")


def _goes(value: Any) -> bool:
    try:
        _Pickler(_Sink()).dump(value)
    except Exception:  # as in pickled()
        return False
    return True


def _culprit(value: Any, seen: set[int]) -> tuple[str, str, Any] | None:
    """Find the innermost part of a value that cannot be pickled: its variable, the path inside it, and the part."""
    for kind, name, part in _parts(value):
        if id(part) in seen or _goes(part):
            continue
        seen.add(id(part))
        variable, inside, innermost = _culprit(part, seen) or ("", "", part)
        if not variable and inside.startswith(".") and type(part).__module__ != "__main__":
            inside, innermost = "", part  # the inner parts of a library's object mean nothing to its user
        if not variable and kind:
            return f"{kind} {name!r}", inside, innermost
        return variable, inside if variable else name + inside, innermost
    return None


def _parts(value: Any) -> Iterator[tuple[str, str, Any]]:
    """What is pickled along with a value: a variable's kind, its name and its content. Without a kind, the name is the
    path to a part inside the value."""
    if isinstance(value, types.FunctionType):
        yield from _variables(value)
    elif isinstance(value, functools.partial):
        yield "", "", value.func
        yield from (("the argument", str(i), argument) for i, argument in enumerate(value.args))
        yield from (("the argument", name, argument) for name, argument in value.keywords.items())
    elif isinstance(value, types.MethodType | staticmethod | classmethod | _Cached):
        yield from (("", "", getattr(value, name, None)) for name in ("__self__", "__func__", "__wrapped__"))
    elif isinstance(value, Mapping):
        yield from (("", f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        yield from (("", f"[{i}]", part) for i, part in enumerate(value))
    elif isinstance(value, type):
        for name, part in vars(value).items():
            if not isinstance(part, types.GetSetDescriptorType | types.MemberDescriptorType):
                yield "the attribute", f"{value.__name__}.{name}", part
    else:
        yield from (("", f".{name}", part) for name, part in getattr(value, "__dict__", {}).items())
        if type(value).__module__ == "__main__":  # its class is pickled, too
            yield "", "", type(value)


def _variables(function: types.FunctionType) -> Iterator[tuple[str, str, Any]]:
    code, defaults = function.__code__, function.__defaults__ or ()
    for name in _globals_of(code):
        if name in function.__globals__:
            yield "the global", name, function.__globals__[name]
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it is empty
            yield "the enclosing function's", name, cell.cell_contents
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    for name, default in {**dict(zip(names, defaults, strict=True)), **(function.__kwdefaults__ or {})}.items():
        yield "the default of", name, default
    yield from (("the attribute", name, part) for name, part in vars(function).items())


def _globals_of(code: types.CodeType) -> Iterator[str]:
    """The names of the global variables that code uses, in the order of their use."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_of(constant)
