"""Finding an objective: ``module:function`` from a study file, or a function from a script or notebook."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo_core.errors import InputError

Function = Callable[..., Any]


def gives_hypergradient(function: Function) -> Function:
    """Declares, as a decorator, that an objective calls ``trial.report_hypergradient``.

    Without it no study begins whose strategy needs them, so a mistake shows before anything is trained.

    >>> @gives_hypergradient
    ... def train(trial):
    ...     trial.report_hypergradient({"l2": 0.1})
    """
    function.gives_hypergradient = True  # type: ignore[attr-defined]
    return function


def search_path(study: str) -> tuple[str, ...]:
    """Where the functions of a study file are looked for: the working folder, then the file's."""
    return os.getcwd(), str(Path(study).absolute().parent)


@dataclass(frozen=True)
class Objective:
    """Where a worker process finds the objective.

    Args:
        reference: ``module:function``.
        path: Folders that go to the front of ``sys.path``.
        pickled: The function itself, by cloudpickle, if it was given as an object; it goes by value, so it may live
            in a notebook or a script without ``if __name__ == "__main__"``.
        needs_hypergradient: Whether the study's strategy goes nowhere without hypergradients.
    """

    reference: str
    path: Sequence[str] = ()
    pickled: bytes | None = None
    needs_hypergradient: bool = False

    @classmethod
    def of(cls, function: Function) -> Objective:
        import cloudpickle

        module, name = function.__module__, function.__qualname__.replace("<", "").replace(">", "")
        return cls(f"{module}:{name}", tuple(sys.path), cloudpickle.dumps(function))

    def precheck(self) -> None:
        """See, without importing anything heavy, whether the objective's module is there.

        Raises:
            InputError: It is not.
        """
        if self.pickled is not None:
            return
        self._extend_path()
        module = self.reference.partition(":")[0]
        try:
            found = importlib.util.find_spec(module)
        except Exception:  # of a parent package that raises, load() has more to say
            return
        if found is None:
            raise self._absent(f"No module named {module!r}")

    def _extend_path(self) -> None:
        for folder in reversed(self.path):
            if folder not in sys.path:
                sys.path.insert(0, folder)

    def _absent(self, problem: object) -> InputError:
        package = self.reference.partition(":")[0].partition(".")[0]
        return InputError(
            "objective",
            f"{self.reference!r} cannot be imported ({problem})",
            f"run from the folder that {package!r} is in, or install what it needs",
        )

    def load(self) -> Function:
        """The function itself.

        Raises:
            InputError: It cannot be imported, is no function, or does not do what the study's strategy needs.
        """
        function = self._find()
        if self.needs_hypergradient and not getattr(function, "gives_hypergradient", False):
            raise InputError(
                "objective",
                f"{self.reference!r} is not declared to give hypergradients, which the study's strategy needs",
                "decorate it with flows.gives_hypergradient and call trial.report_hypergradient, or choose another "
                "strategy",
            )
        return function

    def _find(self) -> Function:
        self._extend_path()
        if self.pickled is not None:
            import cloudpickle

            function: Function = cloudpickle.loads(self.pickled)
            return function
        module_name, _, path = self.reference.partition(":")
        try:
            found: Any = importlib.import_module(module_name)
            for part in path.split("."):
                found = getattr(found, part)
        except ModuleNotFoundError as error:
            raise self._absent(error) from None
        except AttributeError as error:
            raise InputError("objective", f"{self.reference!r} is not there ({error})", "correct its name") from None
        except Exception as error:
            raise InputError(
                "objective", f"importing {module_name!r} raised {type(error).__name__}: {error}", "correct it there"
            ) from error
        if not callable(found):
            raise InputError("objective", f"{self.reference!r} is a {type(found).__name__}", "name a function")
        return found  # type: ignore[no-any-return]
