"""Imports what a user's study names: ``module:name``, with errors that say what to do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.base.extras import missing_extra


def extend_path(folders: Sequence[str]) -> None:
    """Put folders at the front of ``sys.path``, the first one first, unless they are there."""
    for folder in reversed(folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def is_reference(text: str) -> bool:
    """Whether a text has the form ``module:name``.

    >>> is_reference("examples.digits_cnn:train"), is_reference("tpe"), is_reference("a b:c")
    (True, False, False)
    """
    module, _, name = text.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def import_named(reference: str, field: str) -> Any:
    """What ``module:name`` names.

    Args:
        reference: The name.
        field: Where the user wrote it, as a dotted path.

    Raises:
        InputError: It cannot be imported, or is not there.
    """
    module, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise absent(reference, field, error) from None
    except AttributeError as error:
        raise InputError(field, f"{reference!r} is not there ({error})", "correct its name") from None
    except (Exception, SystemExit) as error:  # a script that runs, and ends, where it is imported
        problem = f"importing {module!r} raised {type(error).__name__}: {error}"
        raise InputError(field, problem, "correct it there") from error
    return found


def absent(reference: str, field: str, problem: object) -> InputError:
    """The error for a reference whose module, or what that imports, is not found."""
    module, _, name = reference.partition(":")
    package = module.partition(".")[0]
    if module.endswith(".py"):
        return InputError(field, f"{reference!r} names a file", f"name the module: {module.removesuffix('.py')}:{name}")
    remedy = f"run from the folder that {package!r} is in, or install it"
    if isinstance(problem, ModuleNotFoundError) and problem.name and problem.name.partition(".")[0] != package:
        remedy = f"{package!r} needs it: install it here, or correct the import"
    if (missing := missing_extra(problem)) is not None:
        problem, remedy = missing.problem, missing.remedy
    return InputError(field, f"{reference!r} cannot be imported ({problem})", remedy)
