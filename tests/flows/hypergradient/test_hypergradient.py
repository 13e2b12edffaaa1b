"""Hypergradients of Keras models: every mode against finite differences, closed forms and each other, in float64."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo_core.base.errors import InputError
from hpo_core.study.file import load_study
from hpo_flows import hypergradient as hg
from hpo_flows.hypergradient.closed_form import ridge
from tests.conftest import in_the_background

STEPS = 5
RELATIVE = 1e-5


@cache
def data() -> dict[str, Any]:
    """Classes of images of 4x4 pixels, which no model learns to the end in a few steps."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4, 4, 1)), rng.integers(3, size=40)
    return {"train": (x[:24], np.eye(3)[y[:24]]), "validation": (x[24:], np.eye(3)[y[24:]])}


def network(*middle: Any) -> Any:
    import keras

    settings = {"dtype": "float64"}
    return keras.Sequential(
        [
            keras.Input((4, 4, 1), **settings),
            keras.layers.Flatten(**settings),
            keras.layers.Dense(5, activation="tanh", name="one", **settings),
            *middle,
            keras.layers.Dense(3, name="two", **settings),
        ]
    )


def with_dropout() -> Any:
    return network(hg.RelaxedDropout(name="drop", dtype="float64"))


VALUES: dict[str, Any] = {
    "learning_rate": 0.3,
    "knot_0": 0.5,
    "knot_1": 0.2,
    "knot_2": 0.1,
    "momentum": 0.8,
    "l2": 0.02,
    "l1": 0.01,
    "dropout": 0.3,
    "label_smoothing": 0.1,
    "input_noise": 0.2,
    "contrast": 0.3,
    "shift": 0.6,
    "one_class": 1.3,
    "class_weights": np.array([1.0, 0.8, 1.2]),
    "example_weights": np.linspace(0.5, 1.5, 24),
    "groups": np.array([0.9, 1.1]),
    "cubes": 0.05,
}


PATH = ["learning_rate", "knot_0", "knot_2", "momentum", "l2", "dropout", "example_weights"]


@cache
def problem(optimizer: str) -> Any:
    """One problem with every hyperparameter there is, and one of a user's own."""
    from tensorflow import reduce_sum

    knots = hg.learning_rate_knots(3, ["one"])
    places = {
        "learning_rate": hg.learning_rate(["two"]),
        **{f"knot_{i}": knot for i, knot in enumerate(knots)},
        "momentum": hg.momentum(),
        "l2": hg.l2(),
        "l1": hg.l1(["one"]),
        "dropout": hg.dropout("drop"),
        "label_smoothing": hg.label_smoothing(),
        "input_noise": hg.input_noise(),
        "contrast": hg.contrast(),
        "shift": hg.shift(),
        "one_class": hg.class_weights(1),
        "class_weights": hg.class_weights(),
        "example_weights": hg.example_weights(),
        "groups": hg.example_weights(np.arange(24) % 2),
        "cubes": hg.penalty(lambda weights, value: value * reduce_sum(weights["two/kernel"] ** 4)),
    }
    return hg.Bilevel(
        with_dropout,
        loss=hg.cross_entropy,
        hyperparameters=places,
        optimizer=hg.SGD() if optimizer == "sgd" else hg.Adam(),
        batch=10,
        **data(),
    )


def moved(values: Mapping[str, Any], name: str, i: int, by: float) -> dict[str, Any]:
    value = np.array(values[name], dtype=float)
    value.reshape(-1)[i] += by
    return dict(values) | {name: value}


def central(problem: Any, values: Mapping[str, Any], name: str, i: int = 0, steps: int = STEPS) -> float:
    """The derivative of the loss after a training by five-point differences."""
    h = 1e-4 * float(np.array(values[name]).reshape(-1)[i])
    at = {k: hg.train(problem, moved(values, name, i, k * h), steps=steps).loss for k in (-2, -1, 1, 2)}
    return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)


def every(values: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Each number among the values; of a long vector the ends."""
    return [(name, i) for name, value in values.items() for i in sorted({0, np.size(value) - 1})]


@pytest.mark.parametrize("optimizer", [pytest.param("sgd", marks=pytest.mark.slow), "adam"])
def test_reverse_mode_against_finite_differences(optimizer: str) -> None:
    found = hg.reverse(problem(optimizer), VALUES, steps=STEPS)
    assert found.loss == hg.train(problem(optimizer), VALUES, steps=STEPS).loss
    # What Adam does differently is its path; what enters the loss was looked at under SGD.
    some = VALUES if optimizer == "sgd" else {name: VALUES[name] for name in PATH[::2]}
    for name, i in every(some):
        slope = np.array(found.hypergradient[name]).reshape(-1)[i]
        assert slope == pytest.approx(central(problem(optimizer), VALUES, name, i), rel=RELATIVE), (name, i)
        assert slope != 0.0


@pytest.mark.parametrize("stride", [pytest.param(3, marks=pytest.mark.slow), 2])
def test_states_computed_anew_give_the_same_derivative_and_hold_less(stride: int) -> None:
    every_state = hg.reverse(problem("sgd"), VALUES, steps=9)
    found = hg.reverse(problem("sgd"), VALUES, steps=9, stride=stride)
    assert found.held < every_state.held
    for name, slope in every_state.hypergradient.items():
        np.testing.assert_allclose(found.hypergradient[name], slope, rtol=1e-11)


def test_a_truncated_walk_takes_the_state_that_it_begins_at_for_given() -> None:
    # All batches are the same, so a training of 2 steps from there is the end of the whole one.
    simple = hg.Bilevel(network, loss=hg.cross_entropy, hyperparameters={"l2": hg.l2()}, **data())
    values, whole = {"l2": 0.05}, {}
    for last in (2, 30, 60):
        whole[last] = hg.reverse(simple, values, steps=60, last=last)
    there = hg.train(simple, values, steps=58).state
    again = hg.reverse(simple, values, steps=2, start=there)
    assert again.loss == pytest.approx(whole[2].loss, rel=1e-12)
    assert again.hypergradient["l2"] == pytest.approx(whole[2].hypergradient["l2"], rel=1e-12)
    full = whole[60].hypergradient["l2"]
    errors = [abs(whole[last].hypergradient["l2"] - full) for last in (2, 30)]
    assert errors[0] > errors[1] > 0
    assert whole[2].held < whole[30].held


@pytest.mark.parametrize("optimizer", [pytest.param("sgd", marks=pytest.mark.slow), "adam"])
def test_forward_mode_is_reverse_mode(optimizer: str) -> None:
    places = {
        "learning_rate": hg.learning_rate(),
        "momentum": hg.momentum(),
        "l2": hg.l2(),
        "groups": hg.class_weights(),
    }
    values = {"learning_rate": 0.2, "momentum": 0.5, "l2": 0.03, "groups": np.array([1.0, 0.8, 1.2])}
    small = hg.Bilevel(
        network,
        loss=hg.cross_entropy,
        hyperparameters=places,
        optimizer=hg.SGD() if optimizer == "sgd" else hg.Adam(),
        batch=10,
        **data(),
    )
    back, front = (mode(small, values, steps=STEPS) for mode in (hg.reverse, hg.forward))
    assert front.loss == pytest.approx(back.loss, rel=1e-12)
    for name, slope in back.hypergradient.items():
        np.testing.assert_allclose(front.hypergradient[name], slope, rtol=1e-9)


@cache
def linear(**settings: Any) -> tuple[Any, dict[str, Any]]:
    """A linear regression with one penalty a feature, and its closed form."""
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(50, 4)), np.array([1.0, -2.0, 0.5, 0.0])
    y = x @ w + 0.3 * rng.normal(size=50)

    def build() -> Any:
        return keras.Sequential(
            [keras.Input((4,), dtype="float64"), keras.layers.Dense(1, use_bias=False, name="w", dtype="float64")]
        )

    model = hg.Bilevel(
        build,
        loss=hg.squared_error,
        train=(x[:30], y[:30]),
        validation=(x[30:], y[30:]),
        hyperparameters={
            "l2": hg.penalty(lambda weights, value: tf.reduce_sum(value * weights["w/kernel"][:, 0] ** 2)),
        },
        optimizer=hg.SGD(0.1, 0.8),
        **settings,
    )
    return model, {"X": x[:30], "y": y[:30], "X_val": x[30:], "y_val": y[30:]}


L2 = np.array([0.01, 0.1, 0.3, 0.05])


def test_the_modes_agree_with_ridge_regression() -> None:
    model, arrays = linear()
    fit = ridge(l2=30 * L2, **arrays)  # there the loss is a sum over 30 examples, here their mean
    exact = 30 * fit.gradient["l2"]
    unrolled = hg.reverse(model, {"l2": L2}, steps=250)
    assert unrolled.loss == pytest.approx(fit.loss, rel=1e-9)
    np.testing.assert_allclose(unrolled.hypergradient["l2"], exact, rtol=1e-7)
    np.testing.assert_allclose(hg.forward(model, {"l2": L2}, steps=250).hypergradient["l2"], exact, rtol=1e-7)
    cg = hg.implicit(model, {"l2": L2}, unrolled.state)
    np.testing.assert_allclose(cg.hypergradient["l2"], exact, rtol=1e-7)
    assert cg.facts["training_gradient"] < 1e-8 and cg.facts["residual"] < 1e-9 and cg.facts["iterations"] <= 5
    neumann = hg.implicit(model, {"l2": L2}, unrolled.state, solver="neumann", rate=0.2, iterations=200)
    np.testing.assert_allclose(neumann.hypergradient["l2"], exact, rtol=1e-7)
    cut = hg.implicit(model, {"l2": L2}, unrolled.state, solver="neumann", rate=0.2, iterations=3)
    assert cut.facts["residual"] > neumann.facts["residual"]


def test_xla_changes_nothing_but_the_last_digits() -> None:
    plain, fast = (hg.reverse(linear(**s)[0], {"l2": L2}, steps=30, last=28) for s in ({}, {"jit_compile": True}))
    assert fast.loss == pytest.approx(plain.loss, rel=1e-12)
    np.testing.assert_allclose(fast.hypergradient["l2"], plain.hypergradient["l2"], rtol=1e-10)


def test_a_training_that_xla_cannot_compile() -> None:
    import tensorflow as tf

    outside = hg.penalty(lambda weights, value: value * tf.numpy_function(np.float64, [1.0], tf.float64))
    odd = hg.Bilevel(softmax, loss=hg.cross_entropy, hyperparameters={"odd": outside}, jit_compile=True, **data())
    with pytest.raises(InputError, match=r"jit_compile: XLA cannot compile this training: .*; leave jit_compile out"):
        hg.train(odd, {"odd": 0.1}, steps=1)


def test_implicit_and_unrolled_agree_where_a_network_has_converged() -> None:
    places = {"l2": hg.l2(), "label_smoothing": hg.label_smoothing(), "example_weights": hg.example_weights()}
    values = {"l2": 0.05, "label_smoothing": 0.1, "example_weights": np.linspace(0.5, 1.5, 24)}
    convex = hg.Bilevel(softmax, loss=hg.cross_entropy, hyperparameters=places, optimizer=hg.SGD(0.5, 0.8), **data())
    unrolled = hg.reverse(convex, values, steps=200)
    found = hg.implicit(convex, values, unrolled.state)
    for name, slope in unrolled.hypergradient.items():
        np.testing.assert_allclose(found.hypergradient[name], slope, rtol=RELATIVE, atol=1e-9)


def softmax() -> Any:
    import keras

    return keras.Sequential(
        [
            keras.Input((4, 4, 1), dtype="float64"),
            keras.layers.Flatten(dtype="float64"),
            keras.layers.Dense(3, use_bias=False, dtype="float64"),
        ]
    )


def test_damping_and_a_hessian_that_is_not_positive() -> None:
    model, _ = linear()
    state = hg.train(model, {"l2": L2}, steps=5).state
    damped = hg.implicit(model, {"l2": L2}, state, damping=1e9)
    assert np.abs(damped.hypergradient["l2"]).max() < 1e-6
    ended = hg.implicit(model, {"l2": L2}, state, damping=-1e9)
    assert ended.facts["iterations"] == 1
    np.testing.assert_array_equal(ended.hypergradient["l2"], np.zeros(4))


@pytest.mark.parametrize("layer", ["BatchNormalization", "LayerNormalization"])
def test_normalisation_layers_have_second_derivatives(layer: str) -> None:
    import keras

    normal = hg.Bilevel(
        lambda: network(getattr(keras.layers, layer)(dtype="float64")),
        loss=hg.cross_entropy,
        hyperparameters={"learning_rate": hg.learning_rate(), "input_noise": hg.input_noise()},
        batch=10,
        **data(),
    )
    values = {"learning_rate": 0.2, "input_noise": 0.3}
    found = hg.reverse(normal, values, steps=3)
    # Moving averages are part of the state, as the validation loss depends on them.
    assert len(found.state.variables) == (2 if layer == "BatchNormalization" else 0)
    for name in values:
        assert found.hypergradient[name] == pytest.approx(central(normal, values, name, steps=3), rel=RELATIVE)


def test_a_training_is_a_function_of_its_seed_and_may_be_put_into_a_model() -> None:
    shared = problem("sgd")
    one, two, other = (hg.train(shared, VALUES, steps=3, seed=seed).loss for seed in (1, 1, 2))
    assert one == two != other
    trained = hg.train(shared, VALUES, steps=3)
    model = with_dropout()
    shared.assign(trained.state, model)
    x = data()["validation"][0]
    np.testing.assert_allclose(model(x).numpy(), shared.predict(trained.state, x, VALUES), rtol=1e-12)
    again = shared.state_of(model, trained.state.slots)
    whole = [tensor.numpy() for tensor in again.flat]
    for a, b in zip(whole, trained.state.flat, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def test_other_threads_change_no_training() -> None:
    """As Prefect's do, which draw from Python's global generator at any moment."""
    alone = hg.train(problem("sgd"), VALUES, steps=2).loss
    with in_the_background(random.random):
        beside = {hg.train(problem("sgd"), VALUES, steps=2).loss for _ in range(3)}
    assert beside == {alone}


def test_exact_moments_are_left_as_they_were_found_by_any_number_of_threads() -> None:
    import tensorflow as tf

    from hpo_flows.hypergradient.bilevel import exact_moments

    theirs, wrong = tf.nn.moments, list[Any]()

    def enter() -> None:
        for _ in range(200):
            with exact_moments():
                time.sleep(0)  # another thread's turn
                if tf.nn.moments is theirs:
                    wrong.append(threading.get_ident())

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tf.nn.moments is theirs and not wrong


def test_every_epoch_sees_each_example_once() -> None:
    batches = problem("sgd").batches(3, 4).numpy()
    assert batches.shape == (4, 10)
    for epoch in (batches[:2], batches[2:]):
        assert len(set(epoch.ravel().tolist())) == 20
    assert batches[:2].tolist() != batches[2:].tolist()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda: hg.learning_rate(["three"]), "a: the model has no trained layer 'three'; it has ['one', 'two']"),
        (lambda: hg.dropout("one"), "one/rate: unknown variable of the model; name a layer and its variable"),
    ],
)
def test_a_hyperparameter_of_a_layer_that_is_not_there(place: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        hg.Bilevel(network, loss=hg.cross_entropy, hyperparameters={"a": place()}, **data())
    assert str(error.value) == message


def test_what_a_mode_cannot_do_is_told_before_it_trains() -> None:
    with pytest.raises(InputError, match="momentum: this hyperparameter has no value"):
        hg.reverse(problem("sgd"), {k: v for k, v in VALUES.items() if k != "momentum"}, steps=2)
    state = problem("sgd").initial(0)
    with pytest.raises(InputError, match="learning_rate: implicit differentiation does not see it"):
        hg.implicit(problem("sgd"), VALUES, state)
    model, _ = linear()
    with pytest.raises(InputError, match="solver: unknown solver 'gmres'; choose cg or neumann"):
        hg.implicit(model, {"l2": L2}, model.initial(0), solver="gmres")


def test_a_vector_is_carried_on_with_its_moments(tmp_path: Path, seed: int) -> None:
    target = np.random.default_rng(seed).uniform(0.1, 1.9, 50)
    vector = hg.VectorAdam.start(50, value=1.0, scale=2.0)
    np.testing.assert_allclose(vector.value, 1.0)
    for _ in range(150):
        vector.save(tmp_path)
        np.testing.assert_array_equal(hg.VectorAdam.load(tmp_path).m, vector.m)
        vector = hg.VectorAdam.load(tmp_path).step(2 * (vector.value - target), rate=0.2)
    assert vector.count == 150
    np.testing.assert_allclose(vector.value, target, atol=0.05)


def test_a_wrong_label_loses_its_weight() -> None:
    x = np.linspace(-1.0, 1.0, 20)[:, None, None, None] * np.ones((1, 4, 4, 1))
    y = np.eye(3)[(x[:, 0, 0, 0] > 0).astype(int)]
    wrong = y.copy()
    wrong[[2, 17]] = y[[17, 2]]
    cleaning = hg.Bilevel(
        softmax,
        loss=hg.cross_entropy,
        train=(x, wrong),
        validation=(x, y),
        hyperparameters={"example_weights": hg.example_weights()},
        optimizer=hg.SGD(0.1),
    )
    slopes = hg.reverse(cleaning, {"example_weights": np.ones(20)}, steps=20).hypergradient["example_weights"]
    assert set(np.argsort(slopes)[-2:]) == {2, 17}
    assert (slopes[[2, 17]] > 0).all()


def test_the_example_tunes_what_its_study_file_names() -> None:
    spec = load_study(Path(__file__).parents[3] / "examples" / "digits_gradient.yaml")
    from examples.digits_gradient import problem

    assert list(problem().hyperparameters) == list(spec.search_space.parameters)
    assert hg.train(problem(), spec.search_space.decode(np.full(8, 0.5)), steps=1).peak > 2**20
