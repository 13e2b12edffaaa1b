"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import flows
import hpo_core

ROOT = Path(hpo_core.__file__).parents[1]
HEAVY = {"hpo_core/tracking.py"}
"""Imports mlflow, which takes longer than all other tests of this file."""

FILES = [
    path.relative_to(ROOT).as_posix()
    for package in (hpo_core, flows)
    for path in sorted(Path(str(package.__file__)).parent.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("file", [file for file in FILES if file not in HEAVY])
def test_docstring_examples(file: str) -> None:
    module = importlib.import_module(file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_the_examples_were_found() -> None:
    assert {"hpo_core/space.py", "hpo_core/strategies/__init__.py", "flows/context.py", *HEAVY} <= set(FILES)
