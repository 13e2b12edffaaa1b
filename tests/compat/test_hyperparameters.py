"""HyperParameters and its classes, beside KerasTuner's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo_core.base.errors import InputError
from hpo_flows.keras.space import hyperparameter as ours
from hpo_flows.keras.space.hyperparameters import HyperParameters


@pytest.fixture(scope="module")
def theirs() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("keras_tuner")


# -- any declarations -------------------------------------------------------------------------------------------------

Declare = Callable[[Any], Any]

NAMES = st.sampled_from(["a", "b", "units (1)", "lr: %", "net/x"])

WORDS = st.text("abc", min_size=1, max_size=3)


@st.composite
def whole_numbers(draw: st.DrawFn) -> Declare:
    name, low, width = draw(NAMES), draw(st.integers(1, 50)), draw(st.integers(0, 300))
    sampling = draw(st.sampled_from(["linear", "log", "reverse_log", "LOG", None]))
    step = draw(st.none() | st.integers(2, 9))
    default = draw(st.none() | st.integers(low, low + width))
    kind = draw(st.sampled_from([int, np.int64, float]))
    return lambda hp: hp.Int(name, kind(low), kind(low + width), step, sampling, default)


@st.composite
def real_numbers(draw: st.DrawFn) -> Declare:
    name, low, width = draw(NAMES), draw(st.integers(1, 64)) / 16, draw(st.integers(0, 640)) / 16
    sampling = draw(st.sampled_from(["linear", "log", "reverse_log", None]))
    # Steps that are exact in binary: of others, KerasTuner may lose the last value in rounding.
    step = draw(st.none() | st.sampled_from([2.0, 4]))
    default = draw(st.none() | st.just(low + width / 2))
    return lambda hp: hp.Float(name, low, low + width, step=step, sampling=sampling, default=default)


@st.composite
def choices(draw: st.DrawFn) -> Declare:
    name = draw(NAMES)
    values = draw(st.one_of(*(st.lists(each, min_size=1, max_size=5) for each in (WORDS, WHOLE, BOOLEANS, HALVES))))
    default = draw(st.none() | st.sampled_from(values))
    return lambda hp: hp.Choice(name, values, default=default)


BOOLEANS, WHOLE, HALVES = st.booleans(), st.integers(), st.integers(-9, 9).map(lambda n: n / 2)


@st.composite
def others(draw: st.DrawFn) -> Declare:
    name, value = draw(NAMES), draw(st.one_of(WORDS, st.integers(-9, 9), HALVES, BOOLEANS))
    default = draw(BOOLEANS)
    return draw(st.sampled_from([lambda hp: hp.Fixed(name, value), lambda hp: hp.Boolean(name, default)]))


@st.composite
def programs(draw: st.DrawFn) -> Declare:
    """Functions of hp: a few declarations, some of them in scopes."""
    kinds = st.one_of(whole_numbers(), real_numbers(), choices(), others())
    scope = st.sampled_from(["x", "y"])
    conditions = st.none() | st.lists(scope, min_size=1, unique=True)
    listed = draw(st.lists(st.tuples(kinds, conditions, st.booleans()), max_size=6))

    def build(hp: Any) -> list[Any]:
        found = [hp.Choice("parent", ["x", "y"])]
        for declare, values, named in listed:
            with hp.name_scope("scope") if named else hp.name_scope("other"):
                if values is None:
                    found.append(declare(hp))
                else:
                    with hp.name_scope("inner"):
                        hp.Choice("kind", ["x", "y", "z"], default="y")
                        with hp.conditional_scope("kind", values):
                            found.append(declare(hp))
        return found

    return build


EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def same(mine: Any, their: Any) -> bool:
    return bool(mine == their) or (not isinstance(their, str) and mine == pytest.approx(their, rel=1e-9))


def same_values(mine: Any, their: Any) -> bool:
    one, other = sorted(mine), sorted(their)
    return len(one) == len(other) and all(map(same, one, other))


@EXAMPLES
@given(build=programs(), seed=st.integers(0, 99), changed=st.sampled_from(["x", "y", "z"]))
def test_any_declarations(theirs: Any, build: Declare, seed: int, changed: str) -> None:
    mine, their = HyperParameters(), theirs.HyperParameters()
    assert build(mine) == build(their)
    assert mine.values == their.values
    assert mine.get_config() == their.get_config()
    assert HyperParameters.from_config(their.get_config()).get_config() == their.get_config()
    assert theirs.HyperParameters.from_config(mine.get_config()).get_config() == their.get_config()
    for one, other in zip(mine.space, their.space, strict=True):
        assert (one.name, one.default, mine.is_active(one)) == (other.name, other.default, their.is_active(other))
        assert mine.is_active(one.name) == their.is_active(one.name)
        compare(one, other, seed)
    for hp in (mine, their):
        hp.values.update({name: changed for name in hp.values if name.endswith("kind")})
        hp.ensure_active_values()
    assert mine.values.keys() == their.values.keys()
    assert [mine.is_active(each) for each in mine.space] == [their.is_active(each) for each in their.space]


def compare(mine: Any, their: Any, seed: int) -> None:
    """The values of one hyperparameter, and what probabilities stand for."""
    assert same_values(mine.values, their.values)
    if mine.kind in ("Int", "Float") and mine.step is not None and mine.sampling == "reverse_log":
        return  # KerasTuner counts these values from the top, and those without a step from the bottom
    assert same(mine.random_sample(seed), their.random_sample(seed))
    value = their.random_sample(seed)
    assert same(mine.value_to_prob(value), their.value_to_prob(value))
