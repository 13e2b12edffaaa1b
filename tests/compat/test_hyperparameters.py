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
from hpo_flows.keras.errors import FatalTypeError
from hpo_flows.keras.space import hyperparameter as ours
from hpo_flows.keras.space.exploration import MAX_FAILED, explore
from hpo_flows.keras.space.hypermodel import HyperModel, hyper_model
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


# -- one by one -------------------------------------------------------------------------------------------------------


def test_values_are_got_by_name_under_scopes() -> None:
    hp = HyperParameters()
    hp.Fixed("kept", 3)
    with hp.name_scope("net"):
        hp.Choice("kind", ["mlp", "cnn"])
        hp.Int("filters", 8, 64, parent_name="kind", parent_values=["cnn"])
        assert hp.get("kind") == hp["kind"] == "mlp" and "kind" in hp
    assert hp.get("kept") == 3 and hp["net/kind"] == "mlp" and "net/filters" not in hp and "kind" not in hp
    with pytest.raises(ValueError, match="net/filters is not active"):
        hp.get("net/filters")
    with pytest.raises(KeyError):
        hp["kind"]


def test_merge_keeps_or_replaces() -> None:
    hp, other = HyperParameters(), HyperParameters()
    hp.Int("n", 1, 9, default=2)
    other.Int("n", 1, 99, default=5)
    other.Boolean("more", default=True)
    kept = hp.copy()
    kept.merge(other, overwrite=False)
    assert (kept.values, kept.space[0].max_value) == ({"n": 2, "more": True}, 9)
    hp.merge(other.space)
    assert (hp.values, hp.space[0].max_value) == ({"n": 5, "more": True}, 99)
    assert hp.copy().get_config() == hp.get_config() and hp.copy().values is not hp.values


def test_only_active_values_stay() -> None:
    hp = HyperParameters()
    hp.Choice("kind", ["mlp", "cnn"])
    hp.Int("units", 1, 9, parent_name="kind", parent_values="mlp")
    hp.Int("filters", 8, 64, parent_name="kind", parent_values="cnn")
    hp.values["kind"] = "cnn"
    hp.ensure_active_values()
    assert hp.values.keys() == {"kind", "filters"} and 8 <= hp["filters"] <= 64
    assert hp.is_active("filters") and not hp.is_active("units") and not hp.is_active("nothing")


def test_plain_data() -> None:
    declared = ours.Int("n", 1, 9, conditions=[ours.Parent("kind", ("a",))])
    data = ours.serialize(declared)
    assert data["config"]["conditions"] == [{"class_name": "Parent", "config": {"name": "kind", "values": ["a"]}}]
    assert ours.deserialize(data) == declared != ours.Int("n", 1, 8)
    with pytest.raises(InputError, match="class_name: 'Long' is not a hyperparameter; choose one of Int, Float"):
        ours.deserialize({"class_name": "Long", "config": {}})


def test_zero_and_one_are_the_values_of_a_boolean() -> None:
    hp = HyperParameters()
    hp.Boolean("pool", default=1)
    assert hp.Int("size", 2, 4, parent_name="pool", parent_values=[1]) == 2
    assert hp.Int("other", 2, 4, parent_name="pool", parent_values=0) is None


WRONG: dict[str, Declare] = {
    "min above max": lambda hp: hp.Int("n", 9, 1),
    "no whole number": lambda hp: hp.Int("n", 1.5, 3),
    "no whole step": lambda hp: hp.Int("n", 1, 3, step=0.5),
    "log of nothing": lambda hp: hp.Float("x", 0, 1, sampling="log"),
    "a factor of one": lambda hp: hp.Float("x", 1, 9, step=1, sampling="log"),
    "no sampling": lambda hp: hp.Float("x", 1, 2, sampling="quadratic"),
    "no value": lambda hp: hp.Choice("c", []),
    "another default": lambda hp: hp.Choice("c", ["a"], default="b"),
    "no scalar": lambda hp: hp.Choice("c", [(1, 2)]),
    "no order": lambda hp: hp.Choice("c", ["a", "b"], ordered=True),
    "no truth": lambda hp: hp.Boolean("b", default="yes"),
    "a list": lambda hp: hp.Fixed("f", [1]),
    "no parent": lambda hp: hp.Int("n", 1, 2, parent_name="kind", parent_values=[1]),
    "its own parent": lambda hp: (hp.Boolean("a"), hp.Int("a", 1, 2, parent_name="a", parent_values=[True])),
    "no condition": lambda hp: (hp.Boolean("a"), hp.Int("n", 1, 2, parent_name="a", parent_values=[(1,)])),
}


@pytest.mark.parametrize("declare", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_is_an_error_of_the_same_class(theirs: Any, declare: Declare) -> None:
    with pytest.raises(Exception) as their:
        declare(theirs.HyperParameters())
    with pytest.raises(their.type) as mine:
        declare(HyperParameters())
    assert isinstance(mine.value, InputError)


def test_a_default_outside_the_range_is_an_error() -> None:
    """KerasTuner builds with it, and no trial ever gets it."""
    with pytest.raises(InputError, match=r"hp.Int\('n'\): default: 9 is not a whole number from 1 to 3; correct it"):
        HyperParameters().Int("n", 1, 3, default=9)
    assert HyperParameters().Int("n", 8, 64, step=8, default=12) == 12  # between two steps it may begin


def test_a_range_of_one_value() -> None:
    hp = HyperParameters()
    assert (hp.Int("a", 3, 3), hp.Float("b", 1, 1), hp.Float("c", 2, 2, sampling="log")) == (3, 1.0, 2.0)
    assert [list(each.values) for each in hp.space] == [[3], [1.0], [2.0]]
    assert [each.random_sample(1) for each in hp.space] == [3, 1.0, 2.0]


# -- builds that raise ------------------------------------------------------------------------------------------------


def test_a_build_that_raises_does_not_hide_what_others_declare(caplog: pytest.LogCaptureFixture) -> None:
    def build(hp: Any) -> None:
        kind = hp.Choice("kind", ["cnn", "mlp", "rnn"])
        if kind == "cnn":
            raise MemoryError("too large")
        if hp.Int("layers", 1, 9) > 4:
            raise ValueError("too deep")
        if kind == "mlp":
            hp.Float("dropout", 0, 0.5)

    found = explore(build)
    assert list(found.space.parameters) == ["kind", "layers", "dropout"]
    assert found.space.parameters["dropout"].when == {"kind": ["cnn", "mlp"]}  # of cnn nobody knows
    assert found.failures == ("MemoryError: too large", "ValueError: too deep")
    assert "trials with such values will fail: MemoryError: too large; ValueError: too deep" in caplog.text


def test_where_every_build_raises_the_users_own_exception_is_shown() -> None:
    calls = []

    def build(hp: Any) -> None:
        calls.append(hp.Int("layers", 1, 2000))
        hp.Choice("kind", [f"kind {i}" for i in range(60)])
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        explore(build)
    assert "with the defaults; all of 40 builds, each with other values, raised" in caught.value.__notes__[0]
    assert len(calls) == MAX_FAILED and calls[0] == 1

    def hopeless(hp: Any) -> None:
        raise OSError("no data")

    with pytest.raises(OSError, match="no data"):
        explore(hopeless)


def test_a_fatal_error_ends_it_at_once() -> None:
    calls = []

    def build(hp: Any) -> None:
        calls.append(hp.Int("n", 1, 9))
        raise FatalTypeError("stop")

    with pytest.raises(FatalTypeError):
        explore(build)
    assert calls == [1]


def test_a_hypermodel_that_is_not_tunable_keeps_its_defaults() -> None:
    class Part(HyperModel):
        def build(self, hp: Any) -> Any:
            return hp.Int("units", 1, 9), hp.Float("rate", 0, 1)

    def build(hp: Any) -> None:
        hp.Int("units", 5, 7)
        assert part.build(hp)[1] == 0.0

    part = Part(tunable=False)
    assert list(explore(build).space.parameters) == ["units"]
    assert hyper_model(part) is part and hyper_model(None) is None


def test_defaults_lie_in_the_space() -> None:
    def build(hp: Any) -> None:
        hp.Int("n", 8, 64, step=8, default=12)
        hp.Float("x", 1, 10, step=2, sampling="log", default=3)
        hp.Choice("c", ["a", "b"], default="b")

    assert explore(build).defaults == {"n": 8, "x": pytest.approx(4.0, rel=0.6), "c": "b"}
