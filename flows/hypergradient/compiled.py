"""Compiles the walks through an inner optimisation and the derivatives that the modes need.

A step of a small network is a few hundred operations of some microseconds each, so much of a training's time goes into
starting them one by one. Here a *stretch*, a fixed number of steps, is one loop in TensorFlow's graph. XLA, if chosen,
makes a program of it, which takes it seconds to compile. A training is some stretches, of which the last may have fewer
steps than its arrays have rows; so trainings of any length share what is traced and compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from hpo_core.base.errors import InputError
from hpo_flows.hypergradient.optimizers import Tensor, Tensors


class Stretch(NamedTuple):
    """Some consecutive steps of a training, as arguments of a compiled function.

    Attributes:
        index: The examples of each step, shape ``(rows, b)``; rows after ``count`` are not used.
        seed: The seed of the noise, a scalar.
        begin: The first step.
        count: The number of steps.
        steps: The steps of the whole training.
    """

    index: Tensor
    seed: Tensor
    begin: Tensor
    count: Tensor
    steps: Tensor


class Training(Protocol):
    """What is compiled of :class:`hpo_flows.hypergradient.Bilevel`, which defines it."""

    jit_compile: bool
    structure: Any

    def advance(self, state: Any, values: Tensors, index: Tensor, seed: Tensor, t: Tensor, steps: Tensor) -> Any:
        """The state after step ``t``."""

    def training_loss(
        self, weights: Tensors, variables: Tensors, values: Tensors, index: Tensor, seed: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensors]:
        """The inner loss and the variables after it."""

    def validation_loss(self, weights: Tensors, variables: Tensors, values: Tensors) -> Tensor:
        """The outer loss."""


class Compiled:
    """The functions of one problem; each is traced at its first use. A *flat* state is ``State.flat``."""

    def __init__(self, problem: Training) -> None:
        self._problem = problem

    # -- walks ----------------------------------------------------------------------------------------------------

    @cached_property
    def walk(self) -> Callable[..., Tensors]:
        """``walk(flat, values, stretch)``: the flat state after a stretch."""

        def walk(flat: Tensors, values: Tensors, stretch: Stretch) -> Tensors:
            def body(t: Tensor, flat: Tensors) -> tuple[Tensor, Tensors]:
                return t + 1, self._step(flat, values, stretch, t)

            (flat,) = _loop(stretch, body, flat)
            return flat

        return self._function(walk)

    @cached_property
    def record(self) -> Callable[..., tuple[Tensors, Tensors]]:
        """``record(flat, values, stretch)``: the flat state after it, and those before each step, stacked."""

        def record(flat: Tensors, values: Tensors, stretch: Stretch) -> tuple[Tensors, Tensors]:
            rows = stretch.index.shape[0]
            before = [tf.TensorArray(part.dtype, rows, element_shape=part.shape) for part in flat]

            def body(t: Tensor, flat: Tensors, before: list[Any]) -> tuple[Tensor, Tensors, list[Any]]:
                written = [array.write(t, part) for array, part in zip(before, flat, strict=True)]
                return t + 1, self._step(flat, values, stretch, t), written

            flat, before = _loop(stretch, body, flat, before)
            return flat, [array.stack() for array in before]

        return self._function(record)

    @cached_property
    def walk_back(self) -> Callable[..., tuple[Tensors, Tensors]]:
        """``walk_back(stacked, values, adjoint, gradient, stretch)``: the adjoint before a recorded stretch.

        Beside it the hypergradient with the stretch's part added.
        """

        def walk_back(
            stacked: Tensors, values: Tensors, adjoint: Tensors, gradient: Tensors, stretch: Stretch
        ) -> tuple[Tensors, Tensors]:
            def body(i: Tensor, adjoint: Tensors, gradient: Tensors) -> tuple[Tensor, Tensors, Tensors]:
                t = stretch.count - 1 - i
                flat = [states[t] for states in stacked]
                with tf.GradientTape() as tape:
                    tape.watch(flat)
                    tape.watch(values)
                    after = self._step(flat, values, stretch, t)
                back = tape.gradient(after, [flat, values], adjoint, unconnected_gradients="zero")
                return i + 1, _dense(back[0]), [a + b for a, b in zip(gradient, _dense(back[1]), strict=True)]

            adjoint, gradient = _loop(stretch, body, adjoint, gradient)
            return adjoint, gradient

        return self._function(walk_back)

    @cached_property
    def push(self) -> Callable[..., tuple[Tensors, Tensors]]:
        """``push(flat, values, tangents, directions, stretch)``: the flat state after a stretch, and its tangents.

        There is one tangent of the state for each direction of the values, along the first axis of each tensor.
        """

        def push(
            flat: Tensors, values: Tensors, tangents: Tensors, directions: Tensors, stretch: Stretch
        ) -> tuple[Tensors, Tensors]:
            def body(t: Tensor, flat: Tensors, tangents: Tensors) -> tuple[Tensor, Tensors, Tensors]:
                def along(each: tuple[Tensors, Tensors]) -> Tensors:
                    tangent, direction = each
                    with tf.autodiff.ForwardAccumulator([*flat, *values], [*tangent, *direction]) as accumulator:
                        after = self._step(flat, values, stretch, t)
                    return [accumulator.jvp(part, unconnected_gradients="zero") for part in after]

                return t + 1, self._step(flat, values, stretch, t), tf.vectorized_map(along, (tangents, directions))

            flat, tangents = _loop(stretch, body, flat, tangents)
            return flat, tangents

        return self._function(push)

    def _step(self, flat: Tensors, values: Tensors, stretch: Stretch, t: Tensor) -> Tensors:
        """The flat state after step ``t`` of a stretch."""
        state, index, number = self._problem.structure.like(flat), stretch.index[t], stretch.begin + t
        after: Tensors = self._problem.advance(state, values, index, stretch.seed, number, stretch.steps).flat
        return after

    # -- losses ---------------------------------------------------------------------------------------------------

    @cached_property
    def outer(self) -> Callable[..., tuple[Tensor, Tensors, Tensors]]:
        """``outer(flat state, values)``: validation loss, its derivative by the state, and by the values directly."""

        def outer(flat: Tensors, values: Tensors) -> tuple[Tensor, Tensors, Tensors]:
            state = self._problem.structure.like(flat)
            with tf.GradientTape() as tape:
                tape.watch(flat)
                tape.watch(values)
                loss = self._problem.validation_loss(state.weights, state.variables, values)
            by_state, by_values = tape.gradient(loss, [flat, values], unconnected_gradients="zero")
            return loss, _dense(by_state), _dense(by_values)

        return self._function(outer)

    @cached_property
    def hessian_product(self) -> Callable[..., tuple[Tensors, Tensors]]:
        """``hessian_product(flat, values, vector, index, seed, t)``: ``H v``, and ``v`` times the mixed derivative."""

        def product(flat: Tensors, values: Tensors, vector: Tensors, *place: Tensor) -> tuple[Tensors, Tensors]:
            state = self._problem.structure.like(flat)
            with tf.GradientTape() as outer:
                outer.watch(state.weights)
                outer.watch(values)
                with tf.GradientTape() as inner:
                    inner.watch(state.weights)
                    loss, _ = self._problem.training_loss(state.weights, state.variables, values, *place)
                gradient = inner.gradient(loss, state.weights, unconnected_gradients="zero")
            back = outer.gradient(gradient, [state.weights, values], vector, unconnected_gradients="zero")
            return _dense(back[0]), _dense(back[1])

        return self._function(product)

    @cached_property
    def training_gradient(self) -> Callable[..., tuple[Tensor, Tensors]]:
        """``training_gradient(flat, values, index, seed, t)``: the inner loss and its derivative by the weights."""

        def gradient(flat: Tensors, values: Tensors, *place: Tensor) -> tuple[Tensor, Tensors]:
            state = self._problem.structure.like(flat)
            with tf.GradientTape() as tape:
                tape.watch(state.weights)
                loss, _ = self._problem.training_loss(state.weights, state.variables, values, *place)
            return loss, _dense(tape.gradient(loss, state.weights, unconnected_gradients="zero"))

        return self._function(gradient)

    def _function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = tf.function(function, autograph=False, jit_compile=self._problem.jit_compile or None)

        def call(*arguments: Any) -> Any:
            try:
                return compiled(*arguments)
            except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
                if not self._problem.jit_compile:
                    raise
                problem = f"XLA cannot compile this training: {error.message.splitlines()[0]}"
                raise InputError("jit_compile", problem, "leave jit_compile out") from error

        return call


def _loop(stretch: Stretch, body: Callable[..., tuple[Any, ...]], *start: Any) -> tuple[Any, ...]:
    """What ``body(t, ...)`` makes of the start in ``t = 0, 1, ...`` up to the stretch's count."""
    _, *found = tf.while_loop(
        lambda t, *_: t < stretch.count,
        body,
        (tf.constant(0), *start),
        maximum_iterations=stretch.index.shape[0],
        parallel_iterations=1,
    )
    return tuple(found)


def _dense(tensors: Sequence[Any]) -> Tensors:
    """Convert gradients of embeddings, which come as pairs of rows and positions, to dense tensors."""
    return [tf.convert_to_tensor(t) for t in tensors]
