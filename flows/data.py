"""The data that a study file declares: ``data: module:function``, and the digest by which a change of them is seen.

The function is called in a process of its own: it may import TensorFlow and hold all of the data, while the flow's
process lives as long as the study.
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

from flows.objective import Objective
from hpo_core.errors import InputError
from hpo_core.store import Dataset


def declared(reference: str, path: Sequence[str] = ()) -> Dataset:
    """What MLflow shows of the data, its digest among it.

    Args:
        reference: ``module:function``; it takes no arguments and returns what ``trial.log_dataset`` takes, as a tuple
            ``(name, features)`` or ``(name, features, targets)``.
        path: Folders in which the module is looked for first.

    Raises:
        InputError: It cannot be imported, raises, or returns something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        given = json.dumps([reference, list(path), str(answer)])
        child = subprocess.run(
            [sys.executable, "-m", "flows.data"],
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
    except (AttributeError, OSError):  # a notebook's, or pytest's
        return False
    return True


def _described(reference: str, path: Sequence[str]) -> Dataset:
    from flows.datasets import describe

    try:
        function = Objective(reference, path).load()
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
        problem = f"{reference!r} returned what is no array ({error})"
        raise InputError("data", problem, "return what numpy.asarray takes") from None


def _main() -> None:
    reference, path, answer = json.loads(sys.stdin.buffer.read())
    try:
        told = ["dataset", *_described(reference, path)]
    except InputError as error:
        told = ["error", error.problem, error.remedy]
    Path(answer).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    _main()
