"""Asks strategies in another process, with another hash seed, what they propose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from hpo_core.strategies.contract.laws import Proposing, proposals_of
from hpo_core.strategies.make import make_strategy
from hpo_core.strategies.own import Own


def made(name: str, settings: Mapping[str, Any] | None = None) -> Proposing:
    """A strategy as laws see it: one of the user's own without the checks that a study adds."""
    strategy = make_strategy(name, settings)
    return strategy.made if isinstance(strategy, Own) else strategy


def proposals_elsewhere(
    strategies: Mapping[str, tuple[str, Mapping[str, Any]]], seed: int, spaces: Sequence[str]
) -> dict[str, dict[str, list[str]]]:
    """What each strategy proposes on each space, by its label.

    Args:
        strategies: Their names and settings, by label.
        seed: The study's seed.
        spaces: The spaces.

    Raises:
        RuntimeError: The other process failed; the message is what it wrote.
    """
    question = json.dumps([strategies, seed, list(spaces)])
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    environment = os.environ | {"PYTHONHASHSEED": "4711", "PYTHONPATH": path}
    child = subprocess.run(
        [sys.executable, "-m", __spec__.name], env=environment, input=question, capture_output=True, text=True
    )
    if child.returncode:
        raise RuntimeError(child.stderr.strip()[-1000:])
    found: dict[str, dict[str, list[str]]] = json.loads(child.stdout)
    return found


def _main() -> None:
    strategies, seed, spaces = json.load(sys.stdin)
    found = {
        label: proposals_of(partial(made, name, settings), seed, spaces)
        for label, (name, settings) in strategies.items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    _main()
