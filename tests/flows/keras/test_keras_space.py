"""The search space that is found by building, beside the one that KerasTuner finds for the same function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hpo_core.base.errors import InputError
from hpo_core.space.parameters import Boolean, Choice, Fixed, Float, Int, Ordinal
from hpo_flows.keras.space.exploration import Exploration, explore
from hpo_flows.keras.space.hyperparameters import HyperParameters

# -- functions as they are written for KerasTuner; none of them needs Keras ------------------------------------------


def every_kind(hp: Any) -> None:
    hp.Int("units", 8, 65, step=8, default=16)
    hp.Int("width", 1, 100, sampling="log")
    hp.Int("batch", 4, 64, step=2, sampling="log")
    hp.Int("patience", 1, 50, sampling="reverse_log")
    hp.Float("dropout", 0.0, 0.5, step=0.125)  # of 0.1, KerasTuner loses the last step in rounding
    hp.Float("rate", 1e-4, 1e-1, sampling="log", default=1e-3)
    hp.Float("decay", 1e-4, 1e-1, step=10, sampling="log")
    hp.Float("momentum", 0.5, 0.99, sampling="reverse_log")
    hp.Float("plain", -1.0, 1.0)
    hp.Choice("activation", ["relu", "tanh"], default="tanh")
    hp.Choice("kernel", [3, 5, 7])
    hp.Choice("size", [1.5, 0.5], ordered=False)
    hp.Boolean("bias", default=True)
    hp.Fixed("seed", 7)


def layers(hp: Any) -> None:
    for i in range(hp.Int("layers", 1, 4)):
        hp.Int(f"units_{i}", 8, 64, step=8)
    hp.Float("rate", 1e-4, 1e-1, sampling="log")


def scopes(hp: Any) -> None:
    kind = hp.Choice("kind", ["mlp", "cnn", "rnn"])
    with hp.conditional_scope("kind", ["cnn"]):
        for i in range(hp.Int("blocks", 1, 3) or 0):
            with hp.name_scope(f"block_{i}"):
                hp.Int("filters", 8, 32, step=8)
    with hp.conditional_scope("kind", ["mlp", "rnn"]):
        hp.Int("units", 8, 64, sampling="log")
    hp.Float("dropout", 0.0, 0.5, parent_name="kind", parent_values=["rnn"])
    assert kind in ("mlp", "cnn", "rnn")


def branches(hp: Any) -> None:
    kind = hp.Choice("kind", ["mlp", "cnn"])
    if kind == "cnn":
        if hp.Boolean("pool"):
            hp.Choice("pooling", ["max", "average"])
        for i in range(hp.Int("blocks", 1, 6)):
            hp.Int(f"filters_{i}", 8, 32)
    else:
        hp.Int("units", 8, 64)
    if hp.Choice("optimizer", ["adam", "sgd"]) == "sgd" and kind == "mlp":
        hp.Float("momentum", 0.0, 0.99)


def of_a_number(hp: Any) -> None:
    if hp.Float("dropout", 0.0, 1.0) > 0.4:
        hp.Int("seed", 0, 9)
    if hp.Int("many", 1, 1000) > 700:
        hp.Boolean("rare")


def either(hp: Any) -> None:
    a, b, c = hp.Boolean("a"), hp.Choice("b", ["x", "y", "z"]), hp.Int("c", 1, 9)
    if a or b == "y":
        hp.Float("either", 0, 1)
    if a and b == "z" and c >= 5:
        hp.Float("deep", 0, 1)


FUNCTIONS = [every_kind, layers, scopes, branches, of_a_number, either]


@pytest.fixture(scope="module")
def keras_tuner() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("keras_tuner")


def found_by_keras_tuner(keras_tuner: Any, function: Callable[[Any], None]) -> list[Any]:
    """All declarations that KerasTuner meets on the way through 400 configurations drawn by itself."""
    hp = keras_tuner.HyperParameters()
    function(hp)
    for i in range(400):
        trial = hp.copy()
        for each in trial.space:
            if trial.is_active(each):
                trial.values[each.name] = each.random_sample(seed=1000 * i + len(each.name))
            else:
                trial.values.pop(each.name, None)
        function(trial)
        hp.merge(trial, overwrite=False)
    return list(hp.space)


KINDS: dict[str, type] = {"Int": Int, "Float": Float, "Choice": Choice, "Boolean": Boolean, "Fixed": Fixed}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_the_space_is_that_of_keras_tuner(keras_tuner: Any, function: Callable[[Any], None]) -> None:
    space = explore(function).space
    theirs = {each.name: each for each in found_by_keras_tuner(keras_tuner, function)}
    assert space.parameters.keys() == theirs.keys()
    for name, parameter in space.parameters.items():
        their = theirs[name]
        kind = type(their).__name__
        assert isinstance(parameter, KINDS[kind])
        if kind == "Choice":
            assert parameter.options == list(their.values) and isinstance(parameter, Ordinal) == their.ordered
        elif kind == "Fixed":
            assert parameter.value == their.value
        elif kind in ("Int", "Float"):
            if kind == "Int" and their.step is None:  # which cuts a log scale into cells that are a little different
                assert (parameter.low, parameter.high) == (their.min_value, their.max_value)
                assert (parameter.log, parameter.reverse) == (True, their.sampling == "reverse_log")
                continue
            for u in np.random.default_rng(0).random(50):  # our coordinate is their cumulative probability
                assert parameter.decode(float(u)) == pytest.approx(their.prob_to_value(float(u)), rel=1e-9)
        for condition in their.conditions:  # a declared condition is kept; an inferred one may stand beside it
            assert parameter.when[condition.name] == list(condition.values)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_configuration_holds_all_that_a_build_with_it_asks_for(function: Callable[[Any], None]) -> None:
    """Which is to say: no inferred condition is wrong."""
    space = explore(function).space
    rng = np.random.default_rng(1)
    for _ in range(300):
        config = space.decode(rng.random(space.dimensions))
        hp = HyperParameters(config)
        function(hp)
        assert not hp.defaulted, config


def conditions(exploration: Exploration) -> dict[str, Any]:
    return {name: parameter.when for name, parameter in exploration.space.parameters.items() if parameter.when}


def test_conditions_that_can_be_told_are_inferred() -> None:
    assert conditions(explore(layers)) == {f"units_{i}": {"layers": list(range(i + 1, 5))} for i in range(1, 4)}
    expected = {"pool": {"kind": ["cnn"]}, "pooling": {"pool": [True]}, "blocks": {"kind": ["cnn"]}}
    expected |= {"filters_0": {"kind": ["cnn"]}} | {f"filters_{i}": {"blocks": [*range(i + 1, 7)]} for i in range(1, 6)}
    expected |= {"units": {"kind": ["mlp"]}, "momentum": {"kind": ["mlp"], "optimizer": ["sgd"]}}
    assert conditions(explore(branches)) == expected


def test_conditions_that_cannot_be_told_are_absent() -> None:
    assert conditions(explore(of_a_number)) == {}
    assert conditions(explore(either)) == {}  # not of every value of c it is known what it does


def test_the_number_of_builds_is_bounded() -> None:
    calls = []

    def deeper(hp: Any) -> None:
        calls.append(hp)
        i = 0
        while hp.Boolean(f"deeper_{i}"):
            i += 1

    with pytest.raises(InputError, match=r"after 50 builds there are .* still branches to be seen; raise max_builds"):
        explore(deeper, max_builds=50)
    assert len(calls) == 50
    for function in FUNCTIONS:
        assert explore(function).builds < 200


def test_a_function_without_parameters() -> None:
    with pytest.raises(InputError, match="it declares no parameter"):
        explore(lambda hp: None)


def test_the_first_of_two_declarations_stays_in_force(caplog: pytest.LogCaptureFixture) -> None:
    def twice(hp: Any) -> None:
        hp.Int("units", 1, 8)
        hp.Int("units", 1, 99)

    assert explore(twice).space.parameters == {"units": Int(low=1, high=8)}
    assert "units is declared again with other settings" in caplog.text


def test_one_name_for_two_parameters() -> None:
    def build(hp: Any) -> None:
        hp.Choice("kind", ["a", "b"])
        hp.Int("units", 1, 8, parent_name="kind", parent_values="a")
        hp.Int("units", 1, 99, parent_name="kind", parent_values="b")

    with pytest.raises(InputError, match="'units' is declared with different settings under different conditions"):
        explore(build)


def test_one_parameter_under_two_conditions() -> None:
    def build(hp: Any) -> None:
        hp.Choice("kind", ["a", "b", "c"])
        hp.Int("units", 1, 8, parent_name="kind", parent_values="a")
        hp.Int("units", 1, 8, parent_name="kind", parent_values=["b"])

    assert conditions(explore(build)) == {"units": {"kind": ["a", "b"]}}


def test_declarations_given_beforehand_stand_in_for_those_of_the_function() -> None:
    given = HyperParameters()
    given.Fixed("layers", 2)
    given.Float("rate", 0.1, 0.2)
    found = explore(layers, preset=given.space)
    assert found.space.parameters["layers"] == Fixed(value=2)
    assert found.space.parameters["rate"] == Float(low=0.1, high=0.2)
    assert {"units_0", "units_1"} < found.space.parameters.keys()
    assert explore(layers, preset=given.space, tune_new=False).space.parameters.keys() == {"layers", "rate"}


# -- the object itself -----------------------------------------------------------------------------------------------


def test_values_are_those_given_or_the_default() -> None:
    hp = HyperParameters({"units": 32})
    assert (hp.Int("units", 8, 64), hp.Float("rate", 0.1, 1), hp.Choice("a", ["x", "y"], default="y")) == (32, 0.1, "y")
    assert hp.values == {"units": 32, "rate": 0.1, "a": "y"}
    assert (hp.get("units"), hp["rate"], "a" in hp, "b" in hp) == (32, 0.1, True, False)
    assert hp.defaulted == {"rate", "a"}
    assert [(each.name, each.default) for each in hp.space] == [("units", 8), ("rate", 0.1), ("a", "y")]
    assert hp.space[0].max_value == 64
    with pytest.raises(KeyError, match="no parameter 'b' is declared"):
        hp.get("b")


def test_what_is_not_active_is_none() -> None:
    hp = HyperParameters({"kind": "mlp"})
    hp.Choice("kind", ["mlp", "cnn"])
    assert hp.Int("filters", 1, 9, parent_name="kind", parent_values=["cnn"]) is None
    assert "filters" not in hp and "filters" not in hp.values
    with pytest.raises(ValueError, match="filters is not active"):
        hp.get("filters")
    with hp.name_scope("net"), hp.name_scope("head"):
        hp.Boolean("bias")
        assert hp.get("bias") is False and "bias" in hp
    assert "net/head/bias" in hp


def test_a_function_may_get_what_was_declared_beforehand(caplog: pytest.LogCaptureFixture) -> None:
    given = HyperParameters()
    given.Choice("kind", ["plain", "deep"])
    given.Int("width", 1, 9)

    def build(hp: HyperParameters) -> None:
        if hp.get("kind") == "deep":
            hp.Int("layers", 1, hp["width"] and 3)

    found = explore(build, preset=given.space)
    assert found.failures == () and not caplog.text
    assert {name: each.when for name, each in found.space.parameters.items()} == {
        "kind": {},
        "width": {},
        "layers": {"kind": ["deep"]},
    }


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda hp: hp.Int("n", 9, 1), r"hp.Int\('n'\): min_value 9 is above max_value 1"),
        (lambda hp: hp.Int("n", [0], 9), r"hp.Int\('n'\): min_value: \[0\] is not a string, a finite number"),
        (lambda hp: hp.Float("n", 0, "x"), r"hp.Float\('n'\): max_value: 'x' is not a number; correct it"),
        (lambda hp: hp.Float("n", None, 1), r"hp.Float\('n'\): min_value: None is not a number; correct it"),
        (lambda hp: hp.Float("n", 0, 1, step="x"), r"hp.Float\('n'\): step: 'x' is not a number; correct it"),
        (lambda hp: hp.Float("n", 0, 1, default=[1]), r"hp.Float\('n'\): default: \[1\] is not a string"),
        (lambda hp: hp.Float("n", 0, 1, sampling="log"), 'min_value 0.0 with sampling="log"; a log scale needs min_'),
        (lambda hp: hp.Choice("n", 3), r"hp.Choice\('n'\): values: 3 is not a list; give a list of values"),
        (lambda hp: hp.Boolean("n", [1]), r"hp.Boolean\('n'\): default: \[1\] is not a string"),
        (lambda hp: hp.Int("n", 1.5, 3), r"hp.Int\('n'\): "),
        (
            lambda hp: hp.Float("x", 1, 2, sampling="logarithmic"),
            "'logarithmic' is not a sampling; choose one of linear",
        ),
        (lambda hp: hp.Float("x", 1, 2, default=3), "default: 3 is not a number from 1.0 to 2.0"),
        (lambda hp: hp.Choice("c", []), "the list is empty"),
        (lambda hp: hp.Choice("c", ["a", "b"], default="z"), r"default: 'z' is not one of \['a', 'b'\]"),
        (lambda hp: hp.Choice("c", ["a", "b"], ordered=True), "only numbers can be ordered"),
        (lambda hp: hp.Int("n", 1, 2, parent_name="kind", parent_values=[1]), "unknown parameter 'kind'"),
    ],
)
def test_declarations_that_cannot_be_meant(declare: Callable[[HyperParameters], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        declare(HyperParameters())
