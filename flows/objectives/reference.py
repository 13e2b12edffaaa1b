"""Finds and checks an objective: ``module:function`` from a study file, or a function from a script or notebook.

cloudpickle, behind :mod:`hpo_flows.objectives.by_value`, is loaded only for functions that are given as objects.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.base.extras import missing_extra
from hpo_core.base.importing import absent, extend_path, import_named
from hpo_flows.objectives.by_value import pickled, unpickled

Function = Callable[..., Any]


def gives_hypergradient(function: Function) -> Function:
    """Decorate an objective to declare that it calls ``trial.report_hypergradient``.

    A study whose strategy needs hypergradients does not start without it, so a mistake shows before any training.

    >>> @gives_hypergradient
    ... def train(trial):
    ...     trial.report_hypergradient({"l2": 0.1})
    """
    bearer: Any = getattr(function, "__func__", function)  # a method has no attributes of its own
    bearer.gives_hypergradient = True
    return function


def _declared(function: Function) -> bool:
    """Whether a function, or what a partial or callable object wraps, is decorated with :func:`gives_hypergradient`."""
    if isinstance(function, functools.partial):
        return _declared(function.func)
    return any(getattr(each, "gives_hypergradient", False) for each in (function, type(function).__call__))


def search_path(study: str) -> tuple[str, ...]:
    """The folders searched for a study file's functions: the working folder, then the file's own."""
    return os.getcwd(), str(Path(study).absolute().parent)


@dataclass(frozen=True)
class Objective:
    """Where the objective is found, by a worker process or by this one.

    Args:
        reference: ``module:function``.
        path: Folders to put at the front of ``sys.path``.
        pickled: The function itself, if it was given as an object. It is sent by value
            (:mod:`hpo_flows.objectives.by_value`), so it may come from a notebook or a script without
            ``if __name__ == "__main__"``.
        needs_hypergradient: Whether the study's strategy needs hypergradients.
        here: The function itself, if it is called in this process (``isolation: none``) and so may be anything.
    """

    reference: str
    path: Sequence[str] = ()
    pickled: bytes | None = None
    needs_hypergradient: bool = False
    here: Function | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, function: Function, reference: str = "", *, isolation: str = "process") -> Objective:
        """Make an objective of a function, or of anything else that can be called with a trial.

        Args:
            function: What to call.
            reference: The name that the study records; by default the function's own.
            isolation: The study's: where the function is to be called.

        Raises:
            InputError: It cannot be called with a trial, or cannot be sent to a worker process.
        """
        check_call(function)
        reference = reference or _reference(function)
        if isolation == "none":
            return cls(reference, here=function)
        return cls(reference, tuple(sys.path), pickled(function))

    def precheck(self) -> None:
        """Check that the objective's module exists, without importing anything heavy.

        Raises:
            InputError: It does not.
        """
        if self.pickled is not None or self.here is not None:
            return
        self._check_named()
        extend_path(self.path)
        module = self.reference.partition(":")[0]
        try:
            found = importlib.util.find_spec(module)
        except Exception:  # a parent package raises; load() gives a better message
            return
        if found is None:
            raise absent(self.reference, "objective", f"No module named {module!r}")

    def _check_named(self) -> None:
        if not self.reference:
            remedy = "name one (objective: module:function), or ask for its trials and train them yourself (hpo ask)"
            raise InputError("objective", "the study has none", remedy)

    def load(self) -> Function:
        """Import the function and check it.

        Raises:
            InputError: It cannot be imported, cannot be called with a trial, or does not give the hypergradients that
                the study's strategy needs.
        """
        function = self.find()
        check_call(function, self.reference)
        if self.needs_hypergradient and not _declared(function):
            raise InputError(
                "objective",
                f"{self.reference!r} is not declared to give hypergradients, which the study's strategy needs",
                "decorate it with hpo_flows.gives_hypergradient and call trial.report_hypergradient, or choose another "
                "strategy",
            )
        return function

    def find(self) -> Function:
        """Import the function, whatever arguments it takes.

        Raises:
            InputError: It cannot be imported, or is not a function.
        """
        if self.here is not None:
            return self.here
        extend_path(self.path)
        if self.pickled is not None:
            try:
                return unpickled(self.pickled)
            except (Exception, SystemExit) as error:  # a module is missing here, or an object cannot be rebuilt
                missing = missing_extra(error)
                raise InputError(
                    "objective",
                    f"{self.reference!r} cannot be rebuilt in a worker process ({type(error).__name__}: {error})",
                    "put it into a module that can be imported from there" if missing is None else missing.remedy,
                ) from error
        self._check_named()
        found = import_named(self.reference, "objective")
        if not callable(found):
            raise InputError("objective", f"{self.reference!r} is not a function but {found!r:.80}", "name a function")
        return found  # type: ignore[no-any-return]


def _reference(function: Function) -> str:
    """The name that a study records for a function given as an object: ``module:name``, not always importable."""
    named: Any = function
    while isinstance(named, functools.partial):
        named = named.func
    # Only plain functions get their module's name: another callable may share its name with an importable function
    # that takes other arguments.
    module = str(function.__module__) if isinstance(function, types.FunctionType) else "__main__"
    return f"{_identifiers(module)}:{_identifiers(getattr(named, '__qualname__', type(named).__qualname__))}"


def _identifiers(path: str) -> str:
    """
    >>> _identifiers("my-module.make.<locals>.<lambda>")
    'my_module.make.locals.lambda'
    """
    words = (re.sub(r"\W", "_", word.strip("<>")) for word in path.split("."))
    return ".".join(word if word.isidentifier() else f"_{word}" for word in words)


def check_call(function: Any, name: str = "") -> None:
    """Check that an objective can be called with a trial, as far as possible without calling it.

    Args:
        function: The objective.
        name: Its name in the study.

    Raises:
        InputError: It cannot.
    """
    shown = repr(name or getattr(function, "__name__", type(function).__name__))
    if not callable(function):
        raise InputError("objective", f"{function!r:.80} is not a function", "give a function of the trial")
    if isinstance(function, type):
        raise InputError("objective", f"{shown} is a class", "give an object of it that can be called with the trial")
    called: Any = function
    while isinstance(called, functools.partial):
        called = called.func
    for each in (called, type(called).__call__):
        if inspect.iscoroutinefunction(each) or inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each):
            kind = "yields its results" if inspect.isgeneratorfunction(each) else "is declared with async"
            raise InputError("objective", f"{shown} {kind}, and a call would return none", "return the metric from it")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a C function has no signature; the call will show
        return
    try:
        signature.bind(None)
    except TypeError as error:
        bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
        takes = signature.replace(parameters=bare, return_annotation=signature.empty)
        problem = f"{shown} takes {takes} and is called with the trial alone ({error})"
        remedy = "let it take one argument, the trial; functools.partial gives it others"
        if "self" in signature.parameters:
            remedy = "it is a method; give that of an object"
        raise InputError("objective", problem, remedy) from None
