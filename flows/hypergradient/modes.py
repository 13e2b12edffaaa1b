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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from hpo_core.base.errors import InputError
from hpo_flows.hypergradient.bilevel import Bilevel, State
from hpo_flows.hypergradient.hyperparameters import Place
from hpo_flows.hypergradient.optimizers import Tensor, Tensors

PATH_ONLY = (Place.LEARNING_RATE, Place.MOMENTUM)
"""Places that the implicit mode cannot see."""


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
    loss, _, _ = problem.outer(state.flat, run.values)
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
    run = _Run(problem, values, steps, seed)
    first = steps - min(steps if last is None else last, steps)
    state = run.walk(problem.initial(seed) if start is None else start, 0, first)
    marks: dict[int, State] = {}
    for t in range(first, steps, stride):
        marks[t] = state
        state = run.walk(state, t, min(t + stride, steps))
    loss, adjoint, gradient = problem.outer(state.flat, run.values)
    for begin in reversed(marks):
        stretch = [marks[begin]]
        for t in range(begin, min(begin + stride, steps) - 1):
            stretch.append(run.walk(stretch[-1], t, t + 1))
        for t in range(begin + len(stretch) - 1, begin - 1, -1):
            adjoint, part = problem.step_vjp(stretch[t - begin].flat, run.values, adjoint, *run.at(t))
            gradient = [a + b for a, b in zip(gradient, part, strict=True)]
    held = state.nbytes * (len(marks) + (stride if stride > 1 else 0) + 1)
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
    tangents = [[tf.zeros_like(part) for part in state.flat] for _ in directions]
    for t in range(steps):
        after = state.flat
        for j, direction in enumerate(directions):
            after, tangents[j] = problem.step_jvp(state.flat, run.values, tangents[j], direction, *run.at(t))
        state = state.like(after)
    loss, by_state, direct = problem.outer(state.flat, run.values)
    slopes = [float(sum(tf.reduce_sum(a * b) for a, b in zip(by_state, tangent, strict=True))) for tangent in tangents]
    ends = np.cumsum([int(np.prod(value.shape)) for value in run.values])[:-1]
    through = [
        tf.constant(part.reshape(value.shape), problem.dtype)
        for part, value in zip(np.split(np.array(slopes), ends), run.values, strict=True)
    ]
    gradient = [a + b for a, b in zip(direct, through, strict=True)]
    return Result(float(loss), run.named(gradient), state, state.nbytes * (len(directions) + 1))


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
        InputError: A hyperparameter does not shape the training loss, a value is missing, or there is no such solver.
    """
    if blind := [name for name, h in problem.hyperparameters.items() if h.place in PATH_ONLY]:
        raise InputError(blind[0], "implicit differentiation does not see it", "use reverse or forward for it")
    if solver not in ("cg", "neumann"):
        raise InputError("solver", f"there is no solver {solver!r}", "choose cg or neumann")
    run = _Run(problem, values, 1, seed)
    everything = tf.range(problem.size), tf.constant(seed), tf.constant(0)
    loss, by_state, direct = problem.outer(state.flat, run.values)
    target = by_state[: len(state.weights)]

    def product(vector: Tensors) -> Tensors:
        hessian, _ = problem.hessian_product(state.flat, run.values, vector, *everything)
        return _axpy(damping, vector, hessian)

    solve = _conjugate_gradients if solver == "cg" else _neumann
    q, residual, count = solve(product, target, iterations, tolerance if solver == "cg" else rate)
    _, mixed = problem.hessian_product(state.flat, run.values, q, *everything)
    gradient = [a - b for a, b in zip(direct, mixed, strict=True)]
    _, slope = problem.training_gradient(state.flat, run.values, *everything)
    facts = {"residual": residual, "iterations": float(count), "training_gradient": _norm(slope)}
    return Result(float(loss), run.named(gradient), state, 5 * state.nbytes, facts)


class _Run:
    """One training: values as tensors, and the batch of each step."""

    def __init__(self, problem: Bilevel, values: Mapping[str, Any], steps: int, seed: int) -> None:
        self.problem, self.values, self.steps = problem, problem.values(values), tf.constant(steps)
        self._batches, self._seed = problem.batches(seed, steps), tf.constant(seed)

    def at(self, t: int) -> tuple[Tensor, ...]:
        """The arguments that identify step ``t``."""
        return self._batches[t], self._seed, tf.constant(t), self.steps

    def walk(self, state: State, begin: int, end: int) -> State:
        for t in range(begin, end):
            state = state.like(self.problem.step(state.flat, self.values, *self.at(t)))
        return state

    def directions(self) -> list[Tensors]:
        """A unit tangent for each number among the values."""
        found = []
        for i, value in enumerate(self.values):
            for k in range(int(np.prod(value.shape))):
                unit = np.zeros(int(np.prod(value.shape)))
                unit[k] = 1.0
                direction = [tf.zeros_like(other) for other in self.values]
                direction[i] = tf.constant(unit.reshape(value.shape), value.dtype)
                found.append(direction)
        return found

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
