"""The search space: what a configuration becomes and that it comes back the same, for arbitrary spaces."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from enum import Enum, IntEnum, StrEnum
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_param

from hpo_core import Boolean, Choice, Fidelity, Fixed, Float, Int, Ordinal, SearchSpace
from hpo_core.base.errors import InputError
from hpo_core.base.moments import LARGEST
from hpo_core.space.configuration import config_from_json, config_to_json, identity, native, scalar_key
from hpo_core.space.parameters import Parameter
from hpo_core.study.sections import FidelitySpec

NAMES = ["x", "y_1", "learning rate", "opt.lr", "net/width", "größe", "drop-out", "n"]
EDGES = [0.0, 1.0, math.nextafter(1.0, 0.0), 5e-324, 0.5]


def exact(config: Any) -> list[tuple[str, type, str]]:
    """What two configurations share only if they are equal in order, types and last bits."""
    return [(name, type(value), repr(value)) for name, value in config.items()]


# -- arbitrary spaces ------------------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)
plain_numbers = st.floats(-1e6, 1e6) | finite | st.integers(-1000, 1000).map(float)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)  # what every database takes
scalars = st.none() | st.booleans() | st.integers() | finite | texts | st.sampled_from(["1", "True", "None", 1])


@st.composite
def floats(draw: st.DrawFn, when: Any) -> Float:
    log = draw(st.booleans())
    bounds = (st.floats(1e-8, 1e8) | st.floats(5e-324, allow_infinity=False)) if log else plain_numbers
    low, high = sorted((draw(bounds), draw(bounds)))
    step = None
    if draw(st.booleans()):
        step = draw(st.floats(1.001, 1000.0)) if log else (high - low) / draw(st.floats(0.3, 1e4))
    assume(step is None or (math.isfinite(step) and step > 0))
    assume((high / low if log else high - low) <= LARGEST)  # refused; see test_impossible_parameters_are_refused
    reverse = log and high <= 1e300 and draw(st.booleans())
    assume(not reverse or step is None or low * (step - 1.0) >= 1e-10 * high)
    return Float(low=low, high=high, log=log, reverse=reverse, step=step, when=when)


@st.composite
def ints(draw: st.DrawFn, when: Any) -> Int:
    log = draw(st.booleans())
    bounds = st.integers(1 if log else -50, 200) | st.integers(1 if log else -(2**43), 2**43)
    low, high = sorted((draw(bounds), draw(bounds)))
    step = draw(st.none() | st.integers(2 if log else 1, 20) | st.integers(2, 2**43))
    return Int(low=low, high=high, log=log, reverse=log and draw(st.booleans()), step=step, when=when)


@st.composite
def parameters(draw: st.DrawFn, when: Any) -> Any:
    kind = draw(st.sampled_from([floats, ints, Choice, Ordinal, Boolean, Fixed]))
    if kind in (floats, ints):
        return draw(kind(when))
    if kind is Boolean:
        return Boolean(when=when)
    if kind is Fixed:
        return Fixed(value=draw(scalars), when=when)
    return kind(choices=draw(st.lists(scalars, min_size=1, max_size=5, unique_by=scalar_key)), when=when)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Up to six parameters of all types, conditions to depth 3, constraints that leave something."""
    space: dict[str, Any] = {}
    depths: dict[str, int] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True)):
        when: dict[str, list[Any]] = {}
        parents = [parent for parent in space if depths[parent] < 3]
        if parents and draw(st.booleans()):
            for parent in draw(st.lists(st.sampled_from(parents), min_size=1, max_size=2, unique=True)):
                values = space[parent].values(4)
                when[parent] = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
        space[name] = draw(parameters(when))
        depths[name] = max((depths[parent] + 1 for parent in when), default=0)
    constraints = [f"{name} == {name}" for name in space if name.isidentifier()]
    return SearchSpace(space, draw(st.sampled_from([(), constraints[:1], constraints])))


@st.composite
def spaces_with_point(draw: st.DrawFn) -> tuple[SearchSpace, np.ndarray]:
    space = draw(spaces())
    coordinate = st.floats(0.0, 1.0) | st.sampled_from(EDGES)
    u = draw(st.lists(coordinate, min_size=space.dimensions, max_size=space.dimensions))
    return space, np.array(u, dtype=float)


@given(spaces_with_point())
@settings(max_examples=300)
def test_decode_encode_decode_is_exact(case: tuple[SearchSpace, np.ndarray]) -> None:
    space, u = case
    config = space.decode(u)
    assert exact(space.decode(space.encode(config))) == exact(config)


@given(spaces_with_point())
def test_encoded_lies_in_the_cube_with_nan_exactly_where_inactive(case: tuple[SearchSpace, np.ndarray]) -> None:
    space, u = case
    config = space.decode(u)
    x = space.encode(config)
    assert x.shape == (space.dimensions,)
    for name, coordinate in zip(space.free, x, strict=True):
        assert math.isnan(coordinate) if name not in config else 0.0 <= coordinate <= 1.0, name


@given(spaces_with_point())
def test_decoded_is_valid_as_it_stands(case: tuple[SearchSpace, np.ndarray]) -> None:
    space, u = case
    config = space.decode(u)
    assert exact(space.validated(config)) == exact(config)
    for name, value in config.items():
        if isinstance(parameter := space.parameters[name], Float | Int):
            assert parameter.low <= value <= parameter.high  # type: ignore[operator]
            assert repr(value) != "-0.0" or parameter.low == parameter.high  # one value, one spelling


@given(spaces_with_point())
def test_conditions_decide_what_is_active(case: tuple[SearchSpace, np.ndarray]) -> None:
    space, u = case
    config = space.decode(u)
    for name, parameter in space.parameters.items():
        met = all(
            parent in config and any(scalar_key(config[parent]) == scalar_key(value) for value in values)
            for parent, values in parameter.when.items()
        )
        assert (name in config) == met


@given(spaces_with_point())
def test_inactive_coordinates_do_not_matter(case: tuple[SearchSpace, np.ndarray]) -> None:
    space, u = case
    config = space.decode(u)
    other = np.where(np.isnan(space.encode(config)), 1.0 - u, u)
    assert exact(space.decode(other)) == exact(config)


@given(spaces_with_point())
def test_params_round_trip_is_exact(case: tuple[SearchSpace, np.ndarray]) -> None:
    space, u = case
    config = space.decode(u)
    params = space.to_params(config)
    assert all(type(value) is str for value in params.values())
    assert exact(space.from_params(params | {"another tool's": "7"})) == exact(config)


@given(spaces_with_point())
def test_config_json_round_trip_is_exact(case: tuple[SearchSpace, np.ndarray]) -> None:
    space, u = case
    config = space.decode(u)
    assert exact(config_from_json(config_to_json(config))) == exact(config)


@given(spaces())
def test_space_json_round_trip_is_exact(space: SearchSpace) -> None:
    again = SearchSpace.from_json(space.to_json())
    assert again == space
    assert again.to_json() == space.to_json()
    assert list(again.parameters) == list(space.parameters)


@given(spaces(), st.integers(1, 4))
def test_enumeration_has_no_duplicate_and_respects_conditions(space: SearchSpace, steps: int) -> None:
    configs = list(islice(space.enumerate(steps), 300))
    assert configs
    assert len({identity(config) for config in configs}) == len(configs)
    for config in configs:
        assert exact(space.validated(config, check_constraints=False)) == exact(config)


@given(spaces(), st.integers(1, 30), st.floats(0.0, 1.0))
def test_values_are_all_there_are_or_so_many_spread_out(space: SearchSpace, steps: int, u: float) -> None:
    for parameter in space.parameters.values():
        values = parameter.values(steps)
        keys = [scalar_key(value) for value in values]
        assert len(set(keys)) == len(keys)
        if parameter.size <= steps:
            assert scalar_key(parameter.decode(u)) in keys
        if isinstance(parameter, Int | Float):
            assert values == sorted(values)  # type: ignore[type-var]
            assert len(values) <= steps
        if isinstance(parameter, Int) and parameter.size <= steps:
            assert len(values) == parameter.size


# -- identity --------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(max_size=5), scalars, max_size=5), st.randoms())
def test_identity_ignores_key_order(config: dict[str, Any], random: Any) -> None:
    names = list(config)
    random.shuffle(names)
    assert identity({name: config[name] for name in names}) == identity(config)


@given(st.dictionaries(st.text(max_size=5), scalars, max_size=3), st.dictionaries(st.text(max_size=5), scalars))
def test_identity_is_equality_of_names_and_values(a: dict[str, Any], b: dict[str, Any]) -> None:
    same = {name: scalar_key(value) for name, value in a.items()} == {n: scalar_key(v) for n, v in b.items()}
    assert (identity(a) == identity(b)) == same


@pytest.mark.parametrize(
    "value", [1.0, np.int64(1), np.int8(1), np.uint16(1), np.float64(1), np.float32(1), np.array(1)], ids=repr
)
def test_one_is_one_however_it_is_held(value: Any) -> None:
    assert identity({"x": value}) == identity({"x": 1})


@pytest.mark.parametrize(
    ("a", "b"),
    [(True, 1), (False, 0), ("1", 1), ("True", True), (None, "None"), (None, "null"), (0, 1), (0.1, 0.1 + 1e-17 * 2)],
    ids=repr,
)
def test_different_values_differ(a: Any, b: Any) -> None:
    assert identity({"x": a}) != identity({"x": b}) or (a == b and type(a) is type(b))


def test_zero_has_no_sign() -> None:
    assert identity({"x": -0.0}) == identity({"x": 0}) == identity({"x": 0.0})


def test_the_next_float_is_another() -> None:
    assert identity({"x": 0.1}) != identity({"x": math.nextafter(0.1, 1)})


def test_a_big_integer_is_not_its_neighbour() -> None:
    assert identity({"x": 2**53}) != identity({"x": 2**53 + 1})


def test_text_cannot_pose_as_another_key() -> None:
    assert identity({"a": '1,"b":2'}) != identity({"a": 1, "b": 2})


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64("nan"), [1], {}, np.array([1, 2]), b"x", 1j])
def test_not_a_scalar(value: Any) -> None:
    with pytest.raises(ValueError, match="is not a string, a finite number"):
        native(value)


@pytest.mark.parametrize("text", ["[1]", "3", '{"a": [1]}', '{"a": NaN}', "{", ""])
def test_not_a_configuration(text: str) -> None:
    with pytest.raises(ValueError):
        config_from_json(text)


# -- uniformity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameter",
    [
        Int(low=-3, high=7),
        Int(low=0, high=100, step=7),
        Int(low=1, high=1000, log=True, step=3),
        Float(low=0.0, high=1.0, step=0.1),
        Float(low=1e-6, high=1e-1, log=True, step=10),
        Float(low=1e-6, high=1e-1, log=True, reverse=True, step=10),
        Int(low=1, high=1000, log=True, reverse=True, step=3),
        Choice(choices=["a", "b", "c"]),
        Ordinal(choices=[1, 2, 4, 8]),
        Boolean(),
    ],
    ids=repr,
)
def test_every_discrete_value_has_the_same_share_of_the_cube(parameter: Parameter) -> None:
    count, each = int(parameter.size), 50
    points = (np.arange(count * each) + 0.5) / (count * each)
    shares = Counter(scalar_key(parameter.decode(float(u))) for u in points)
    assert list(shares.values()) == [each] * count


def test_a_log_int_has_shares_by_the_width_of_its_cell_on_the_log_scale() -> None:
    parameter, n = Int(low=1, high=20, log=True), 20_000
    shares = Counter(parameter.decode((i + 0.5) / n) for i in range(n))
    width = math.log(20.5 / 0.5)
    for value in range(1, 21):
        assert shares[value] / n == pytest.approx(math.log((value + 0.5) / (value - 0.5)) / width, abs=1.5 / n)


@pytest.mark.parametrize("log", [False, True])
def test_floats_are_uniform_on_their_scale(log: bool) -> None:
    parameter = Float(low=1e-3, high=1e3, log=log)
    middle = 1.0 if log else 500.0005
    assert parameter.decode(0.5) == pytest.approx(middle)
    assert [parameter.decode(0.0), parameter.decode(1.0)] == [1e-3, 1e3]


@given(st.floats(0.0, 1.0))
def test_a_reversed_scale_is_the_mirror_image_of_a_log_scale(u: float) -> None:
    usual, reverse = Float(low=1e-3, high=10, log=True), Float(low=1e-3, high=10, log=True, reverse=True)
    assert reverse.decode(u) == pytest.approx(10.001 - usual.decode(1.0 - u), abs=1e-10)
    whole, mirrored = Int(low=1, high=50, log=True), Int(low=1, high=50, log=True, reverse=True)
    assert mirrored.decode(u) == 51 - whole.decode(1.0 - u)


# -- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        (Int(low=3, high=3), [3]),
        (Int(low=3, high=3, log=True), [3]),
        (Int(low=3, high=3, step=2), [3]),
        (Int(low=3, high=3, log=True, step=2), [3]),
        (Float(low=3, high=3), [3.0]),
        (Float(low=3, high=3, log=True), [3.0]),
        (Float(low=3, high=3, step=0.1), [3.0]),
        (Float(low=0.1, high=0.1, log=True, step=2), [0.1]),
        (Float(low=0, high=1, step=5), [0.0]),
        (Int(low=0, high=10, step=4), [0, 4, 8]),
        (Int(low=-7, high=-1, step=3), [-7, -4, -1]),
        (Int(low=-5, high=5, step=3), [-5, -2, 1, 4]),
        (Int(low=0, high=5, step=100), [0]),
        (Int(low=8, high=100, log=True, step=2), [8, 16, 32, 64]),
        (Int(low=1, high=4, log=True), [1, 2, 3, 4]),
        (Int(low=1, high=12, log=True), list(range(1, 13))),
        (Float(low=0, high=1, step=0.3), [0.0, 0.3, 0.6, 0.9]),
        (Float(low=0, high=1, step=0.1), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        (Float(low=-0.3, high=0.3, step=0.2), [-0.3, -0.1, 0.1, 0.3]),
        (Float(low=1e-4, high=1e-1, log=True, step=10), [1e-4, 1e-3, 1e-2, 1e-1]),
        (Float(low=1e-4, high=0.5, log=True, step=10), [1e-4, 1e-3, 1e-2, 1e-1]),
        (Float(low=0.01, high=1, log=True, reverse=True, step=10), [0.01, 0.91, 1.0]),
        (Float(low=0.01, high=1, log=True, reverse=True, step=1000), [1.0]),
        (Int(low=1, high=9, log=True, reverse=True, step=2), [2, 6, 8, 9]),
        (Int(low=1, high=4, log=True, reverse=True), [1, 2, 3, 4]),
        (Boolean(), [False, True]),
        (Fixed(value=None), [None]),
    ],
    ids=repr,
)
def test_values_of_finite_parameters(parameter: Any, values: list[Any]) -> None:
    assert parameter.size == len(values)
    assert [(type(value), value) for value in parameter.values(50)] == [(type(value), value) for value in values]
    assert [parameter.decode(parameter.encode(value)) for value in values] == values


@pytest.mark.parametrize(
    ("parameter", "low", "high"),
    [
        (Int(low=0, high=10**10 - 1, step=10**10), 0, 0),
        (Int(low=1, high=2**31 - 1, log=True, step=2), 1, 2**30),
        (Int(low=3, high=3**25 - 1, log=True, step=3), 3, 3**24),
        (Int(low=3, high=3**25, log=True, step=3), 3, 3**25),
        (Int(low=-(2**43), high=2**43), -(2**43), 2**43),
        (Int(low=1, high=2**43, log=True), 1, 2**43),
        (Float(low=1e-150, high=1e150, log=True), 1e-150, 1e150),
        (Float(low=-4e299, high=4e299), -4e299, 4e299),
        (Float(low=5e-324, high=1e-30, log=True), 5e-324, 1e-30),
        (Float(low=1e16, high=1e16 + 4), 1e16, 1e16 + 4),
        (Float(low=1 / 3, high=2 / 3), 1 / 3, 2 / 3),
    ],
    ids=repr,
)
def test_both_ends_of_wide_ranges_are_reached_and_not_passed(parameter: Any, low: Any, high: Any) -> None:
    assert parameter.decode(0.0) == pytest.approx(low, rel=1e-11)
    assert parameter.decode(1.0) == pytest.approx(high, rel=1e-11)
    for u in (*EDGES, 0.1, 0.9):
        value = parameter.decode(u)
        assert low <= value <= high
        assert repr(parameter.decode(parameter.encode(value))) == repr(value)


@given(st.integers(-(2**43), 2**43), st.booleans())
def test_every_whole_number_comes_back(value: int, log: bool) -> None:
    value = abs(value) + 1 if log else value
    assume(value <= 2**43)
    parameter = Int(low=1 if log else -(2**43), high=2**43, log=log)
    assert parameter.decode(parameter.encode(value)) == value


def test_floats_are_readable() -> None:
    assert len(repr(Float(low=0, high=1).decode(1 / 3))) <= 14
    assert Float(low=-1, high=1).decode(0.5 - 1e-13).hex() == (0.0).hex()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Float(low=0, high=1), 1.5),
        (Float(low=0, high=1), True),
        (Float(low=0, high=1), "0.5"),
        (Float(low=0, high=1), None),
        (Float(low=0, high=1), math.nan),
        (Float(low=0, high=1), 10**400),
        (Float(low=0, high=1, step=0.25), 0.3),
        (Float(low=0, high=1, step=5), 0.7),
        (Float(low=1, high=100, log=True, step=10), 20),
        (Int(low=0, high=9), 10),
        (Int(low=0, high=9), 0.5),
        (Int(low=0, high=9), True),
        (Int(low=0, high=9), "5"),
        (Int(low=0, high=9), math.inf),
        (Int(low=0, high=9), 10**400),
        (Int(low=0, high=9, step=2), 5),
        (Int(low=1, high=9, log=True, step=2), 6),
        (Choice(choices=[1, "a"]), True),
        (Choice(choices=[1, "a"]), "1"),
        (Boolean(), 1),
        (Boolean(), "True"),
    ],
    ids=repr,
)
def test_values_of_another_parameter_are_refused(parameter: Any, value: Any) -> None:
    with pytest.raises(ValueError):
        parameter.encode(value)


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        (Float(low=0, high=1), "nan"),
        (Float(low=0, high=1), "2"),
        (Float(low=0, high=1), "high"),
        (Int(low=0, high=9), "1.0"),
        (Int(low=0, high=9), "10"),
        (Boolean(), "true"),
        (Choice(choices=[1, "1"]), "2"),
    ],
    ids=repr,
)
def test_texts_of_another_parameter_are_refused(parameter: Any, text: str) -> None:
    with pytest.raises(ValueError):
        parameter.from_string(text)


def test_options_that_look_alike_are_told_apart_in_params() -> None:
    space = SearchSpace({"c": Choice(choices=[1, "1", True, "True", None, "None", 0.5, "0.5"])})
    texts = []
    for value in space.parameters["c"].values(99):
        texts.append(space.to_params({"c": value})["c"])
        assert exact(space.from_params({"c": texts[-1]})) == exact({"c": value})
    assert len(set(texts)) == 8


def test_options_that_do_not_look_alike_stand_in_params_as_they_are() -> None:
    assert SearchSpace({"c": Choice(choices=["adam", 2, None])}).to_params({"c": "adam"}) == {"c": "adam"}


@pytest.mark.parametrize(
    "config",
    [{}, {"a": 1}, {"a": True, "b": 2, "z": 1}, {"a": False, "b": 2}, {"a": True, "b": 7}, {"a": True, "b": [2]}],
    ids=repr,
)
def test_configurations_of_another_space_are_refused(config: Any) -> None:
    space = SearchSpace({"a": Boolean(), "b": Int(low=0, high=3, when={"a": [True]})})
    with pytest.raises(ValueError):
        space.validated(config)


def test_validated_settles_types_and_order_and_adds_what_is_fixed() -> None:
    space = SearchSpace(
        {"f": Float(low=0, high=1), "i": Int(low=0, high=9), "c": Choice(choices=[1, 2]), "k": Fixed(value=7)}
    )
    given = {"c": 1.0, "i": np.float64(3), "f": np.int64(1)}
    assert exact(space.validated(given)) == exact({"f": 1.0, "i": 3, "c": 1, "k": 7})  # type: ignore[arg-type]


def test_constraints_are_part_of_validity() -> None:
    space = SearchSpace({"a": Int(low=0, high=9), "b": Int(low=0, high=9)}, ["a < b"])
    assert space.feasible({"a": 1, "b": 2})
    assert not space.feasible({"a": 2, "b": 2})
    with pytest.raises(ValueError, match="'a < b' does not hold"):
        space.validated({"a": 2, "b": 2})
    assert space.validated({"a": 2, "b": 2}, check_constraints=False) == {"a": 2, "b": 2}


def test_the_last_parameter_varies_fastest_and_inactive_ones_take_no_part() -> None:
    space = SearchSpace(
        {"o": Choice(choices=["adam", "sgd"]), "m": Float(low=0, high=1, when={"o": ["sgd"]}), "b": Boolean()}
    )
    assert [tuple(config.values()) for config in space.enumerate(2)] == [
        ("adam", False), ("adam", True),
        ("sgd", 0.0, False), ("sgd", 0.0, True), ("sgd", 1.0, False), ("sgd", 1.0, True),
    ]  # fmt: skip


def test_a_space_may_have_more_configurations_than_a_float_can_count() -> None:
    wide: dict[str, Any] = {f"p{i}": Int(low=0, high=2**43) for i in range(30)}
    assert SearchSpace(wide).size == SearchSpace(wide | {"x": Float(low=0, high=1)}).size == math.inf


def test_a_space_without_dimensions_has_one_configuration() -> None:
    space = SearchSpace({"a": Fixed(value=1), "b": Fixed(value="x")})
    assert (space.dimensions, space.size) == (0, 1)
    assert space.decode(np.empty(0)) == {"a": 1, "b": "x"}
    assert space.encode({"a": 1, "b": "x"}).shape == (0,)
    assert list(space.enumerate()) == [{"a": 1, "b": "x"}]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Float, {"low": 1, "high": 0}, "above high"),
        (Int, {"low": 1, "high": 0}, "above high"),
        (Float, {"low": 0, "high": 1, "log": True}, "needs low > 0"),
        (Int, {"low": -1, "high": 1, "log": True}, "needs low > 0"),
        (Float, {"low": 0, "high": 1, "step": 0}, "not above 0"),
        (Int, {"low": 0, "high": 1, "step": -1}, "not above 0"),
        (Float, {"low": 1, "high": 2, "log": True, "step": 1}, "must be above 1"),
        (Float, {"low": 1, "high": 2, "reverse": True}, "set log: true as well"),
        (Float, {"low": 1, "high": 1e12, "log": True, "reverse": True, "step": 2}, "too fine for a float"),
        (Float, {"low": 1e10, "high": 1e305, "log": True, "reverse": True}, "too wide"),
        (Int, {"low": 1, "high": 2, "reverse": True}, "set log: true as well"),
        (Int, {"low": 1, "high": 2, "log": True, "step": 1}, "must be above 1"),
        (Float, {"low": -1e308, "high": 1e308}, "too wide"),
        (Float, {"low": 1e-300, "high": 1e300, "log": True}, "too wide"),
        (Float, {"low": 0, "high": 1e300, "step": 1e-300}, "step 1e-300 makes more than"),
        (Float, {"low": 1, "high": 1e9, "log": True, "step": 1 + 1e-12}, "makes more than"),
        (Float, {"low": 0, "high": math.inf}, "finite"),
        (Float, {"low": math.nan, "high": 1}, "finite"),
        (Int, {"low": 0, "high": 2**60}, "told apart"),
        (Int, {"low": -(10**400), "high": 0}, "told apart"),
        (Float, {"low": True, "high": 2}, "not a number"),
        (Int, {"low": 0, "high": True}, "not a number"),
        (Int, {"low": 0, "high": 1.5}, "whole number"),
        (Choice, {"choices": []}, "empty"),
        (Choice, {"choices": [1, 1.0]}, "twice"),
        (Ordinal, {"choices": ["a", "a"]}, "twice"),
        (Choice, {"choices": ["x" * 7000]}, "6000"),
        (Choice, {"choices": [[1]]}, "not a string, a finite number"),
        (Fixed, {"value": math.nan}, "not a string, a finite number"),
        (Boolean, {"choices": [True]}, "unknown key"),
    ],
)
def test_impossible_parameters_are_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^{kind.__name__}[.:].*{message}"):
        kind(**settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice(choices="abc"), "Choice.choices: 'abc' is not a list; write ['abc']"),
        (lambda: Ordinal(choices=None), "Ordinal.choices: None is not a list; correct it"),
        (lambda: Choice(["a", "b"]), "Choice: ['a', 'b'] is given without a name; write Choice(choices=...)"),
        (lambda: Float(0, 1), "Float: 0 is given without a name; write Float(low=..., high=...)"),
        (lambda: Int(low=1), "Int.high: is missing; add it"),
        (lambda: Int(low="few", high=9), "Int.low: 'few' is not a whole number; correct it"),
        (lambda: Float(low=3, high=1), "Float: low 3.0 is above high 1.0; swap them"),
        (lambda: Float(low=0, high=1, Log=True), "Float.Log: unknown key; did you mean 'log'?"),
        (lambda: Boolean(x=1), "Boolean.x: unknown key; choose one of when, default"),
        (lambda: Float(low=0, high=1, when={"a": [[1]]}), "Float.when.a: [1] is not a string, a finite number"),
        (lambda: FidelitySpec(name="epochs", min=0, max=3), "FidelitySpec.min: 0 is not a finite number above 0"),
        (lambda: SearchSpace({"x": 3}), "space.x: 3 is not a parameter; give one of Float, Int, Choice"),
        (lambda: SearchSpace({1: Boolean()}), "space.1: the name 1 is not text; quote it"),
        (lambda: SearchSpace(None), "space: None is not a mapping of names to parameters; correct it"),
        (lambda: SearchSpace({"x": Boolean()}, "x"), "constraints: 'x' is not a list; write ['x']"),
        (lambda: SearchSpace({"x": Boolean()}, 3), "constraints: 3 is not a list; write [3]"),
        (lambda: Fidelity(max="far"), "max: 'far' is not a number; correct it"),
    ],
)  # fmt: skip
def test_what_python_gives_wrongly_is_one_line_with_the_remedy(make: Callable[[], object], message: str) -> None:
    """Pydantic's own errors have four lines and an address, and name no remedy."""
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)


def test_everything_that_is_wrong_with_a_parameter_is_said() -> None:
    with pytest.raises(InputError) as caught:
        Float(low="a", hihg=3)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "Float.low",
        "Float.high",
        "Float.hihg",
    ]


@pytest.mark.parametrize("name", ["", "a\nb", "nul \0", "x" * 501])
def test_names_that_nothing_can_show_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a parameter cannot have this name; use"):
        SearchSpace({name: Boolean()})


ANY_NAMES = st.text(st.sampled_from("aZ1é_-. /:()%='\",#~"), min_size=1, max_size=6) | st.text("ab/(", min_size=240)


@given(st.lists(ANY_NAMES, min_size=2, max_size=4, unique=True))
def test_every_name_has_a_key_of_its_own_that_mlflow_takes(names: list[str]) -> None:
    space = SearchSpace({name: Int(low=1, high=9) for name in names if len(name) <= 500})
    params = space.to_params({name: i + 1 for i, name in enumerate(space.parameters)})
    assert len(params) == len(space.parameters)
    for name, key in space.keys.items():
        _validate_param(key, params[key])
        if re.fullmatch(r"\w[\w.\-: ]*\w|\w", name):
            assert key == name
    assert space.from_params(params) == {name: i + 1 for i, name in enumerate(space.parameters)}


def test_a_step_of_one_is_none() -> None:
    """KerasTuner writes it, and studies of earlier versions have it."""
    assert Int(low=1, high=9, step=1) == Int(low=1, high=9) != Int(low=1, high=9, step=2)
    with pytest.raises(InputError, match="must be above 1"):
        Int(low=1, high=9, step=1, log=True)


def test_two_names_with_one_key_are_refused() -> None:
    (key,) = SearchSpace({"lr (log)": Boolean()}).keys.values()
    assert key.startswith("lr _log_-")
    with pytest.raises(ValueError, match=r"MLflow cannot tell 'lr .log.' and 'lr _log_-.*' apart; rename one of them"):
        SearchSpace({"lr (log)": Boolean(), key: Boolean()})


def test_options_true_and_1_make_different_spaces() -> None:
    assert json.loads(SearchSpace({"c": Choice(choices=[1])}).to_json()) != json.loads(
        SearchSpace({"c": Choice(choices=["1"])}).to_json()
    )


class Kind(StrEnum):
    ADAM = "adam"


class Plain(Enum):
    ONE = 1


@pytest.mark.parametrize("member", [Kind.ADAM, Plain.ONE, IntEnum("Whole", ["TWO"])["TWO"]])
def test_a_member_of_an_enum_is_refused_wherever_it_is_given(member: Any) -> None:
    """MLflow keeps its value, so an objective would get something else than what the space lists."""
    with pytest.raises(ValueError, match="is a member of an Enum; give its value"):
        Choice(choices=[member, "other"])
    with pytest.raises(ValueError, match="is a member of an Enum"):
        SearchSpace({"x": Choice(choices=["adam", 1, 2])}).validated({"x": member})


@pytest.mark.parametrize("text", ["nul \0", "half a pair \udcff"])
def test_a_text_that_no_database_takes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="MLflow cannot store"):
        Choice(choices=[text, "other"])
    assert Choice(choices=["ä", "日本", "🙂"]).choices == ["ä", "日本", "🙂"]
