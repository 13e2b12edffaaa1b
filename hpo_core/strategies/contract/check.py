"""Holds a strategy to the laws, and says which it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from hpo_core.strategies.contract.elsewhere import made, proposals_elsewhere
from hpo_core.strategies.contract.histories import SPACES
from hpo_core.strategies.contract.laws import LAWS, Broken, Case, spaces_of
from hpo_core.strategies.make import make_strategy
from hpo_core.strategies.own import Own


@dataclass(frozen=True)
class Verdict:
    """Whether a strategy keeps a law.

    Args:
        law: The law, in words.
        counter_example: What shows that it does not; empty if it does.
    """

    law: str
    counter_example: str = ""


def examine(name: str, settings: Mapping[str, Any], seed: int) -> Iterator[Verdict]:
    """Hold a strategy to each law, on every space that it does not refuse; the first counter-example of a law counts.

    Args:
        name: As in a study file.
        settings: Its settings.
        seed: From which histories are drawn.

    Raises:
        ValueError: The strategy cannot be made, or refuses all spaces.
    """
    spaces, refusal = list[str](), None
    for space in SPACES:
        strategy = make_strategy(name, settings)
        try:
            strategy.check(SPACES[space])
        except ValueError as error:
            refusal = error
        else:
            spaces.append(space)
    if refusal is not None and not spaces:
        raise refusal

    @cache
    def elsewhere() -> dict[str, list[str]]:
        return proposals_elsewhere({name: (name, settings)}, seed, spaces)[name]

    in_study = strategy.ask if isinstance(strategy, Own) else None
    cases = {space: Case(lambda: made(name, settings), space, seed, elsewhere, in_study) for space in spaces}
    for law, holds in LAWS.items():
        text = " ".join((holds.__doc__ or "").split())
        for space in spaces_of(law):
            if space not in cases:
                continue
            try:
                holds(cases[space])
            except Broken as broken:
                yield Verdict(text, str(broken))
                break
            except (Exception, SystemExit) as error:
                yield Verdict(text, f"on the space {space!r}: it raises {type(error).__name__}: {error}")
                break
        else:
            yield Verdict(text)
