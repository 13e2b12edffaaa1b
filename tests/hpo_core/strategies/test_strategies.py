"""Every strategy keeps the laws of :mod:`hpo_core.strategies.contract`: a new line in the registry is tested at once.

The histories and the study's seed are drawn from the run's seed, which stands in pytest's header.
"""

from __future__ import annotations

import math
from dataclasses import fields
from functools import cache, partial
from typing import Any, cast

import pytest

from hpo_core.base.errors import InputError
from hpo_core.strategies.contract.elsewhere import made, proposals_elsewhere
from hpo_core.strategies.contract.histories import FINITE, SPACES, everything, exact, history_of
from hpo_core.strategies.contract.laws import LAWS, Case, spaces_of
from hpo_core.strategies.make import STRATEGIES, make_strategy
from tests.installed import HERE

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@cache
def elsewhere(seed: int) -> dict[str, dict[str, list[str]]]:
    """The same questions, asked in one process with another hash seed."""
    return proposals_elsewhere({name: (name, {}) for name in HERE}, seed, list(SPACES))


@cache
def case(strategy: str, space: str, seed: int) -> Case:
    return Case(partial(made, strategy), space, seed, lambda: elsewhere(seed)[strategy])


@pytest.mark.parametrize(("law", "space"), [(law, space) for law in LAWS for space in spaces_of(law)])
@every_strategy
def test_laws(law: str, strategy: str, space: str, seed: int) -> None:
    if strategy not in HERE:
        pytest.skip(f"the package {STRATEGIES[strategy].package} is not installed")
    LAWS[law](case(strategy, space, seed))


def test_the_histories_of_this_suite_are_what_the_laws_need(seed: int) -> None:
    for name, space in SPACES.items():
        history = history_of(name, seed)
        assert history.failed or name in FINITE
        assert history.running or name in FINITE
        configs = [trial.config for trial in history]
        assert exact([space.validated(config) for config in configs]) == exact(configs)
    assert len(everything(SPACES["tiny"])) == 9


@every_strategy
def test_a_strategy_refuses_what_it_does_not_know(strategy: str) -> None:
    with pytest.raises(InputError, match=f"strategy.flavour: '{strategy}' has no setting 'flavour'"):
        make_strategy(strategy, {"flavour": 3})


SETTINGS_OF_EACH = [
    (strategy, field.name)
    for strategy, cls in STRATEGIES.items()
    for field in fields(cast(Any, cls))
    if field.name not in ("fidelity", *cls.nested)
]


@pytest.mark.parametrize(("strategy", "setting"), SETTINGS_OF_EACH)
@pytest.mark.parametrize("value", [True, "7", -1, math.nan, math.inf, [1]], ids=str)
def test_no_setting_takes_what_it_cannot_mean(strategy: str, setting: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"strategy\.{setting}: .*; correct it"):
        make_strategy(strategy, {setting: value})
