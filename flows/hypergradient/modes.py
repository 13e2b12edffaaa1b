"""Computes hypergradients in three modes: reverse and forward through the inner optimisation, and implicit at its end.

With ``V`` the validation loss and ``s_T`` the last state, ``dV/dh = dV/ds_T ds_T/dh``. For ``P`` weights, ``T`` steps
and ``m`` hyperparameters, the costs beyond a plain training are:

* :func:`reverse`: about three gradients per step walked back, and memory for the stored states; any ``m``. Truncated to
  the last ``K`` steps, it omits the contribution of earlier ones (Shaban et al. 2019, arXiv:1810.10667).
* :func:`forward`: ``m`` tangents per step, and no memory that grows with ``T`` (Franceschi et al. 2017,
  arXiv:1703.01785).
* :func:`implicit`: some Hessian products at the end, and nothing along the path. It works for hyperparameters of the
  training loss, not for learning rates or momentum, which do not move the minimum (Lorraine et al. 2020,
  arXiv:1911.02590).
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from hpo_core.base.errors import InputError
from hpo_flows.hypergradient.bilevel import Bilevel, State
from hpo_flows.hypergradient.compiled import Stretch
from hpo_flows.hypergradient.hyperparameters import Place
from hpo_flows.hypergradient.optimizers import Tensors

PATH_ONLY = (Place.LEARNING_RATE, Place.MOMENTUM)
"""Places that the implicit mode cannot see."""


STRETCH = 25
"""How many steps are one call of a compiled function, unless a stride says otherwise."""


def peak_memory() -> int:
    """The peak memory of this process, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # macOS counts bytes, others KiB


@dataclass(frozen=True)
class Result:
    """A training and the derivative of its validation loss.

    Attributes:
        loss: The validation loss.
        hypergradient: ``dV/dh`` by name: a float, or an array of the value's shape.
        state: Where the training ended.
        held: The most bytes of states or tangents stored at one time.
        peak: The peak memory of this process since its start, in bytes.
        facts: Details of a mode, such as the residual of the implicit one.
    """

    loss: float
    hypergradient: dict[str, Any]
    state: State
    held: int
    facts: dict[str, float] = field(default_factory=dict)
    peak: int = field(default_factory=peak_memory)


def train(
    problem: Bilevel, values: Mapping[str, Any], *, steps: int, seed: int = 0, start: State | None = None
) -> Result:
    """Train without a derivative, for comparison."""
    run = _Run(problem, values, steps, seed)
    state = run.walk(problem.initial(seed) if start is None else start, 0, steps)
    loss, _, _ = problem.compiled.outer(state.flat, run.values)
    return Result(float(loss), {}, state, state.nbytes)


def reverse(
    problem: Bilevel,
    values: Mapping[str, Any],
    *,
    steps: int,
    last: int | None = None,
    stride: int = 1,
    seed: int = 0,
    start: State | None = None,
) -> Result:
    """Train, and walk back over the last steps.

    Activations are recomputed at each step back. So the stored states are every ``stride``-th one on the way forward,
    and the ``stride`` states of the range being walked back. ``stride = sqrt(last)`` needs the least memory, at the
    cost of training the last steps once more; Chen et al. (2016), arXiv:1604.06174.

    Args:
        problem: What is trained.
        values: The hyperparameters, by name.
        steps: Inner steps, >= 1.
        last: The number of steps to walk back; all by default.
        stride: See above.
        seed: The seed of initial weights, batches and noise.
        start: The state to start from instead of fresh weights; its own derivative counts as zero.

    Raises:
        InputError: A value is missing.
    """
    run = _Run(problem, values, steps, seed, rows=stride if stride > 1 else STRETCH)
    compiled = problem.compiled
    first = steps - min(steps if last is None else last, steps)
    flat = run.walk(problem.initial(seed) if start is None else start, 0, first).flat
    way: list[tuple[Stretch, Tensors]] = []
    for stretch in run.stretches(first, steps):
        if stride > 1:
            way.append((stretch, flat))
            flat = compiled.walk(flat, run.values, stretch)
        else:
            flat, states = compiled.record(flat, run.values, stretch)
            way.append((stretch, states))
    loss, adjoint, gradient = compiled.outer(flat, run.values)
    for stretch, kept in reversed(way):
        states = compiled.record(kept, run.values, stretch)[1] if stride > 1 else kept
        adjoint, gradient = compiled.walk_back(states, run.values, adjoint, gradient, stretch)
    state = problem.structure.like(flat)
    held = state.nbytes * (1 + (len(way) + stride if stride > 1 else len(way) * STRETCH))
    return Result(float(loss), run.named(gradient), state, held)


def forward(
    problem: Bilevel, values: Mapping[str, Any], *, steps: int, seed: int = 0, start: State | None = None
) -> Result:
    """Train, and propagate one tangent of the state for each number among the hyperparameters.

    Args:
        problem: What is trained.
        values: The hyperparameters, by name; a vector counts with its length.
        steps: Inner steps, >= 1.
        seed: The seed of initial weights, batches and noise.
        start: The state to start from instead of fresh weights; its own derivative counts as zero.

    Raises:
        InputError: A value is missing.
    """
    run = _Run(problem, values, steps, seed)
    state = problem.initial(seed) if start is None else start
    directions = run.directions()
    flat = state.flat
    tangents = [tf.zeros([len(directions[0]), *part.shape], part.dtype) for part in flat]
    for stretch in run.stretches(0, steps):
        flat, tangents = problem.compiled.push(flat, run.values, tangents, directions, stretch)
    loss, by_state, direct = problem.compiled.outer(flat, run.values)
    through = sum(tf.reshape(t, [len(t), -1]) @ tf.reshape(a, [-1, 1]) for t, a in zip(tangents, by_state, strict=True))
    parts = tf.split(tf.reshape(through, [-1]), [value.shape.num_elements() for value in run.values])
    gradient = [a + tf.reshape(b, a.shape) for a, b in zip(direct, parts, strict=True)]
    return Result(float(loss), run.named(gradient), state.like(flat), state.nbytes * (len(directions[0]) + 1))


def implicit(
    problem: Bilevel,
    values: Mapping[str, Any],
    state: State,
    *,
    solver: str = "cg",
    iterations: int = 50,
    tolerance: float = 1e-10,
    damping: float = 0.0,
    rate: float = 0.1,
    seed: int = 0,
) -> Result:
    """The hypergradient at a minimum of the training loss, by the implicit function theorem.

    ``dV/dh = direct - q d2L/dwdh`` with ``H q = dV/dw``, where ``H`` is the Hessian of the training loss over all
    training examples. Its accuracy depends on how close the state is to a minimum: ``facts`` has the norm of the
    training gradient there and the relative residual of ``q``.

    Args:
        problem: What was trained.
        values: The hyperparameters, by name.
        state: Where the training ended.
        solver: ``cg``, conjugate gradients; or ``neumann``, ``q = rate sum_i (I - rate H)^i dV/dw`` (Lorraine et al.,
            algorithm 3), which needs ``rate < 2 / largest eigenvalue`` but no positive Hessian to be stable when cut.
        iterations: The most Hessian products.
        tolerance: The relative residual at which ``cg`` stops.
        damping: Added to the diagonal of the Hessian.
        rate: The rate of the Neumann series.
        seed: The seed of the noise, if the training has any.

    Raises:
        InputError: A hyperparameter does not shape the training loss, a value is missing, or the solver is unknown.
    """
    if blind := [name for name, h in problem.hyperparameters.items() if h.place in PATH_ONLY]:
        raise InputError(blind[0], "implicit differentiation does not see it", "use reverse or forward for it")
    if solver not in ("cg", "neumann"):
        raise InputError("solver", f"unknown solver {solver!r}", "choose cg or neumann")
    run = _Run(problem, values, 1, seed)
    everything = tf.range(problem.size), tf.constant(seed), tf.constant(0)
    loss, by_state, direct = problem.compiled.outer(state.flat, run.values)
    target = by_state[: len(state.weights)]

    def product(vector: Tensors) -> Tensors:
        hessian, _ = problem.compiled.hessian_product(state.flat, run.values, vector, *everything)
        return _axpy(damping, vector, hessian)

    solve = _conjugate_gradients if solver == "cg" else _neumann
    q, residual, count = solve(product, target, iterations, tolerance if solver == "cg" else rate)
    _, mixed = problem.compiled.hessian_product(state.flat, run.values, q, *everything)
    gradient = [a - b for a, b in zip(direct, mixed, strict=True)]
    _, slope = problem.compiled.training_gradient(state.flat, run.values, *everything)
    facts = {"residual": residual, "iterations": float(count), "training_gradient": _norm(slope)}
    return Result(float(loss), run.named(gradient), state, 5 * state.nbytes, facts)


class _Run:
    """One training: values as tensors, and its stretches, each of at most that many steps."""

    def __init__(self, problem: Bilevel, values: Mapping[str, Any], steps: int, seed: int, rows: int = STRETCH) -> None:
        self.problem, self.values, self.steps, self.rows = problem, problem.values(values), tf.constant(steps), rows
        # The last stretch has as many rows as all others, so that it needs no compilation of its own.
        self._batches, self._seed = tf.pad(problem.batches(seed, steps), [[0, rows], [0, 0]]), tf.constant(seed)

    def stretches(self, begin: int, end: int) -> Iterator[Stretch]:
        for t in range(begin, end, self.rows):
            count = tf.constant(min(self.rows, end - t))
            yield Stretch(self._batches[t : t + self.rows], self._seed, tf.constant(t), count, self.steps)

    def walk(self, state: State, begin: int, end: int) -> State:
        flat = state.flat
        for stretch in self.stretches(begin, end):
            flat = self.problem.compiled.walk(flat, self.values, stretch)
        return state.like(flat)

    def directions(self) -> Tensors:
        """A unit tangent for each number among the values, along the first axis of each tensor."""
        sizes = [value.shape.num_elements() for value in self.values]
        units = tf.split(tf.eye(sum(sizes), dtype=self.problem.dtype), sizes, axis=1)
        return [tf.reshape(part, [-1, *value.shape]) for part, value in zip(units, self.values, strict=True)]

    def named(self, gradient: Tensors) -> dict[str, Any]:
        arrays = (part.numpy() for part in gradient)
        pairs = zip(self.problem.hyperparameters, arrays, strict=True)
        return {name: array if array.shape else float(array) for name, array in pairs}


def _dot(a: Tensors, b: Tensors) -> float:
    return float(sum(tf.reduce_sum(x * y) for x, y in zip(a, b, strict=True)))


def _norm(a: Tensors) -> float:
    return float(np.sqrt(_dot(a, a)))


def _axpy(factor: float, x: Tensors, y: Tensors) -> Tensors:
    """``factor * x + y``."""
    return [factor * a + b for a, b in zip(x, y, strict=True)]


def _conjugate_gradients(
    product: Any, target: Tensors, iterations: int, tolerance: float
) -> tuple[Tensors, float, int]:
    """``q`` with ``H q = target``; ends early if ``H`` turns out not to be positive (Steihaug 1983)."""
    q = [tf.zeros_like(part) for part in target]
    residual, direction = target, target
    size = _norm(target)
    rho, count = size * size, 0
    while count < iterations and rho > (tolerance * size) ** 2:
        image = product(direction)
        count += 1
        curvature = _dot(direction, image)
        if curvature <= 0:
            break
        q = _axpy(rho / curvature, direction, q)
        residual = _axpy(-rho / curvature, image, residual)
        rho, before = _dot(residual, residual), rho
        direction = _axpy(rho / before, direction, residual)
    return q, float(np.sqrt(rho)) / (size or 1.0), count


def _neumann(product: Any, target: Tensors, iterations: int, rate: float) -> tuple[Tensors, float, int]:
    """``rate * sum_{i <= iterations} (I - rate H)^i target``."""
    term, total = target, target
    for _ in range(iterations):
        term = _axpy(-rate, product(term), term)
        total = _axpy(1.0, term, total)
    # H q - target = -(I - rate H)^(k + 1) target, which is the next term of the series.
    last = _axpy(-rate, product(term), term)
    return [rate * part for part in total], _norm(last) / (_norm(target) or 1.0), iterations + 1
