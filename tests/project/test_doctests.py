"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import hpo_core

ROOT = Path(hpo_core.__file__).resolve().parents[1]

FILES = [
    path.relative_to(ROOT).as_posix()
    for package in ("hpo_core", "hpo_flows")  # by the names that they are imported by: the second is a link
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("file", FILES)
def test_docstring_examples(file: str) -> None:
    module = importlib.import_module(file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_the_examples_were_found() -> None:
    assert {
        "hpo_core/space/search_space.py",
        "hpo_core/strategies/make.py",
        "hpo_flows/objectives/result.py",
    } <= set(FILES)
