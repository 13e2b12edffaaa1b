"""Calls the function that a study declares as ``data: module:function``, and computes the data's digest.

The function runs in a separate process, because it may import TensorFlow and load all of the data, while the flow's
process lives as long as the study. For the same reason the module that needs numpy is imported there only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.ledger.store import Dataset
from hpo_flows.objectives.datasets import describe
from hpo_flows.objectives.reference import Objective


def declared(reference: str, path: Sequence[str] = ()) -> Dataset:
    """The declared data as MLflow shows it, with its digest.

    Args:
        reference: ``module:function``; it takes no arguments and returns what ``trial.log_dataset`` takes, as a tuple
            ``(name, features)`` or ``(name, features, targets)``.
        path: Folders searched first for the module.

    Raises:
        InputError: The function cannot be imported, raises, or returns something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        given = json.dumps([reference, list(path), str(answer)])
        child = subprocess.run(
            [sys.executable, "-m", "hpo_flows.workers.data"],
            input=given.encode(),
            stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            check=False,
        )
        if not answer.exists():
            problem = f"the process that called {reference!r} ended with {child.returncode}"
            raise InputError("data", problem, "call the function by hand to see why")
        kind, *found = json.loads(answer.read_text(encoding="utf-8"))
    if kind == "error":
        raise InputError("data", *found)
    return Dataset(*found)


def _has_descriptor(stream: Any) -> bool:
    try:
        stream.fileno()
    except (AttributeError, OSError):  # a notebook's stream or pytest's has none
        return False
    return True


def _described(reference: str, path: Sequence[str]) -> Dataset:

    try:
        function = Objective(reference, path).find()
    except InputError as error:
        raise InputError("data", error.problem, error.remedy) from None
    try:
        given = function()
    except Exception as error:
        raise InputError("data", f"{reference!r} raised {type(error).__name__}: {error}", "correct it there") from None
    if not (isinstance(given, tuple) and len(given) in (2, 3) and isinstance(given[0], str)):
        problem = f"{reference!r} returned {type(given).__name__}"
        raise InputError("data", problem, "let it return (name, features, targets), as trial.log_dataset takes them")
    try:
        return describe(*given)
    except (TypeError, ValueError) as error:
        problem = f"{reference!r} returned something that is not an array ({error})"
        raise InputError("data", problem, "return what numpy.asarray takes") from None


def _main() -> None:
    reference, path, answer = json.loads(sys.stdin.buffer.read())
    try:
        reply = ["dataset", *_described(reference, path)]
    except InputError as error:
        reply = ["error", error.problem, error.remedy]
    Path(answer).write_text(json.dumps(reply), encoding="utf-8")


if __name__ == "__main__":
    _main()
