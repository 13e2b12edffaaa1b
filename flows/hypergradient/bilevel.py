"""Defines the two-level problem: an inner optimisation of weights, and the validation loss where it ends.

Notation: the *state* ``s`` is all that an inner step changes (weights, the optimiser's slots, and variables such as
moving averages); ``h`` are the values of the hyperparameters; ``s_{t+1} = step(s_t, h, t)``. The batch and all noise of
step ``t`` are functions of the seed and ``t``, so a step can be computed again, and finite differences mean something.
Everything is a pure function of tensors; the variables of the model are never assigned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hpo_core.base.errors import InputError
from hpo_flows.hypergradient.compiled import Compiled
from hpo_flows.hypergradient.hyperparameters import Batch, Hyperparameter, Place
from hpo_flows.hypergradient.optimizers import SGD, Optimizer, Tensor, Tensors
from hpo_flows.objectives.seeds import seeded

_TRACING = RLock()


@contextmanager
def exact_moments() -> Iterator[None]:
    """Within this context, normalisation layers have correct second derivatives.

    ``tf.nn.moments`` leaves the derivative of the variance by the mean out of the graph, since it is zero. But the
    second derivative by the inputs passes through it, and would silently be wrong by any amount. The lock admits one
    thread at a time, since otherwise one could save another's replacement as the original.
    """
    with _TRACING:
        theirs = tf.nn.moments
        tf.nn.moments = _moments
        try:
            yield
        finally:
            tf.nn.moments = theirs


def _moments(
    x: Tensor, axes: Any, shift: Any = None, keepdims: bool = False, name: Any = None
) -> tuple[Tensor, Tensor]:
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
    return (mean if keepdims else tf.squeeze(mean, axes)), variance


def cross_entropy(y: Tensor, logits: Tensor) -> Tensor:
    """``-sum(y log softmax(logits))``, shape ``(b,)``; ``y`` is one-hot or a distribution, shape ``(b, C)``.

    TensorFlow's fused operation is not used: its second derivative treats the targets as constants.
    """
    return -tf.reduce_sum(y * tf.nn.log_softmax(logits), axis=-1)


def squared_error(y: Tensor, prediction: Tensor) -> Tensor:
    """``(y - prediction)**2``, summed over outputs, shape ``(b,)``."""
    difference = tf.reshape(prediction, tf.shape(y)) - y
    return tf.reduce_sum(tf.reshape(difference * difference, [tf.shape(y)[0], -1]), axis=1)


@dataclass(frozen=True)
class State:
    """What an inner step changes: the weights, the optimiser's slots, and variables that are not trained."""

    weights: Tensors
    slots: Tensors
    variables: Tensors

    @property
    def flat(self) -> Tensors:
        return [*self.weights, *self.slots, *self.variables]

    @property
    def nbytes(self) -> int:
        return sum(int(np.prod(t.shape)) * t.dtype.size for t in self.flat)

    def like(self, flat: Sequence[Tensor]) -> State:
        """A state of the same structure from a flat sequence of tensors."""
        a, b = len(self.weights), len(self.weights) + len(self.slots)
        return State(list(flat[:a]), list(flat[a:b]), list(flat[b:]))


class Bilevel:
    """A network, its data and its hyperparameters; made once and used for all their values.

    TensorFlow traces the step and its derivatives at their first use, which takes seconds. So an objective should keep
    the object from trial to trial (``functools.cache``).

    Args:
        build: Makes the model; called without arguments. Its results may differ only in their initial weights.
        loss: ``loss(y, prediction)`` of each example, shape ``(b,)``: :func:`cross_entropy`, :func:`squared_error` or
            one of twice differentiable operations.
        train: Inputs, shape ``(n, ...)``, and targets, shape ``(n, C)`` or ``(n,)``, for the inner optimisation.
        validation: Inputs and targets for the outer loss, which is the mean over all of them.
        hyperparameters: The hyperparameters by name.
        optimizer: The inner optimiser.
        batch: Examples per step; None for all of them.
        jit_compile: Whether XLA compiles the training. That takes it some seconds once in each process, and makes
            trainings of small networks several times faster. The last digits of results depend on it.

    Raises:
        InputError: A hyperparameter names a layer or variable that the model does not have.
    """

    def __init__(
        self,
        build: Callable[[], keras.Model],
        *,
        loss: Callable[[Tensor, Tensor], Tensor],
        train: tuple[Any, Any],
        validation: tuple[Any, Any],
        hyperparameters: Mapping[str, Hyperparameter],
        optimizer: Optimizer | None = None,
        batch: int | None = None,
        jit_compile: bool = False,
    ) -> None:
        self.build, self.loss, self.hyperparameters = build, loss, dict(hyperparameters)
        self.optimizer: Optimizer = SGD() if optimizer is None else optimizer
        self.jit_compile = jit_compile
        self.model = build()
        self.dtype = tf.as_dtype(self.model.trainable_variables[0].dtype)
        self.train = tuple(tf.constant(np.asarray(part), self.dtype) for part in train)
        self.validation = tuple(tf.constant(np.asarray(part), self.dtype) for part in validation)
        self.size = int(self.train[0].shape[0])
        self.batch = self.size if batch is None else min(batch, self.size)
        self._paths = [
            f"{layer.name}/{v.name}" for layer in _leaves(self.model) for v in layer._trainable_variables if v.trainable
        ]
        if len(self._paths) != len(self.model.trainable_variables):
            raise InputError("build", "the model has weights outside its layers", "put them into layers")
        self._check_layers()
        # A variable that a hyperparameter sets, or that controls noise, is an input of the step, not part of its state.
        self._set = {
            index: name for name, h in self.hyperparameters.items() if (index := self._index_of(h)) is not None
        }
        others = self.model.non_trainable_variables
        self._seeds = [i for i, v in enumerate(others) if v.dtype == "uint32"]
        self._kept = [i for i, v in enumerate(others) if i not in self._set and v.dtype == self.dtype.name]
        self.structure = self.state_of(self.model)
        self.compiled = Compiled(self)

    def _check_layers(self) -> None:
        known = {path.partition("/")[0] for path in self._paths}
        for name, h in self.hyperparameters.items():
            if h.place is Place.LEARNING_RATE and (absent := sorted(set(h.layers or ()) - known)):
                raise InputError(name, f"the model has no trained layer {absent[0]!r}", f"it has {sorted(known)}")

    def _index_of(self, h: Hyperparameter) -> int | None:
        if h.place is not Place.VARIABLE:
            return None
        layer, name = h.layers or ("", "")
        for i, v in enumerate(self.model.non_trainable_variables):
            if v.path.endswith(f"{layer}/{name}"):
                return i
        raise InputError(f"{layer}/{name}", "unknown variable of the model", "name a layer and its variable")

    def initial(self, seed: int) -> State:
        """The state before the first step, drawn with a seed."""
        with seeded(seed):
            return self.state_of(self.build())

    def state_of(self, model: keras.Model, slots: Sequence[Any] | None = None) -> State:
        """The state that starts at a model's weights, with a fresh ``slots`` unless given."""
        weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
        others = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
        kept = [others[i] for i in self._kept]
        return State(weights, self.optimizer.slots(weights) if slots is None else list(slots), kept)

    def assign(self, state: State, model: keras.Model) -> None:
        """Give a model the weights and variables of a state, to save it or to predict with it."""
        for variable, value in zip(model.trainable_variables, state.weights, strict=True):
            variable.assign(value)
        for i, value in zip(self._kept, state.variables, strict=True):
            model.non_trainable_variables[i].assign(value)

    def values(self, given: Mapping[str, Any]) -> Tensors:
        """The values of all hyperparameters as tensors, in their order.

        Raises:
            InputError: One is missing.
        """
        if absent := [name for name in self.hyperparameters if name not in given]:
            raise InputError(absent[0], "this hyperparameter has no value", "give one")
        return [tf.constant(np.asarray(given[name]), self.dtype) for name in self.hyperparameters]

    def batches(self, seed: int, steps: int) -> Tensor:
        """The examples of each step, shape ``(steps, b)``. Every epoch has its own order and repeats no example.

        If ``b`` does not divide ``n``, up to ``b - 1`` examples of an epoch are left out.
        """
        rng, per_epoch = np.random.default_rng(seed), self.size // self.batch
        epochs = [rng.permutation(self.size)[: per_epoch * self.batch] for _ in range(-(-steps // per_epoch))]
        if self.batch == self.size:
            epochs = [np.arange(self.size)] * steps
        return tf.constant(np.concatenate(epochs).reshape(-1, self.batch)[:steps], tf.int32)

    # -- the two losses -------------------------------------------------------------------------------------------

    def training_loss(
        self, weights: Tensors, variables: Tensors, values: Tensors, index: Tensor, seed: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensors]:
        """The inner loss of one batch and the variables after it.

        Args:
            weights: All weights.
            variables: The state's variables.
            values: The values of the hyperparameters.
            index: The batch, shape ``(b,)``.
            seed: The seed of the noise, a scalar.
            t: The step.
        """
        batch = Batch(tf.gather(self.train[0], index), tf.gather(self.train[1], index), index, tf.stack([seed, t]))
        x = self._through(Place.INPUTS, batch, "x", values)
        y = self._through(Place.TARGETS, batch, "y", values)
        with exact_moments():
            others = self._others(variables, values, seed, t)
            prediction, after = self.model.stateless_call(weights, others, x, training=True)
        losses = self.loss(y, prediction)
        for h, value in self._at(Place.LOSS_WEIGHT, values):
            losses = losses * h.apply(batch, value)
        total = tf.reduce_mean(losses)
        for h, value in self._at(Place.PENALTY, values):
            total = total + h.apply(dict(zip(self._paths, weights, strict=True)), value)
        return total, [tf.convert_to_tensor(after[i]) for i in self._kept]

    def validation_loss(self, weights: Tensors, variables: Tensors, values: Tensors) -> Tensor:
        """The outer loss, a scalar."""
        zero = tf.constant(0)
        others = self._others(variables, values, zero, zero)
        prediction, _ = self.model.stateless_call(weights, others, self.validation[0], training=False)
        return tf.reduce_mean(self.loss(self.validation[1], prediction))

    def predict(self, state: State, x: Any, values: Mapping[str, Any]) -> Any:
        """The model's output at a state, as an array."""
        zero = tf.constant(0)
        others = self._others(state.variables, self.values(values), zero, zero)
        return self.model.stateless_call(state.weights, others, tf.constant(x, self.dtype), training=False)[0].numpy()

    def _at(self, place: Place, values: Tensors) -> list[tuple[Hyperparameter, Tensor]]:
        pairs = zip(self.hyperparameters.values(), values, strict=True)
        return [(h, value) for h, value in pairs if h.place is place]

    def _through(self, place: Place, batch: Batch, field: str, values: Tensors) -> Tensor:
        """Apply all hyperparameters of a place to the inputs or targets, each with its own noise."""
        part = getattr(batch, field)
        for i, (h, value) in enumerate(self._at(place, values)):
            seed = batch.seed + tf.constant([1_000_003 * (i + 1), 0])
            changed = {"x": batch.x, "y": batch.y} | {field: part}
            part = h.apply(Batch(**changed, index=batch.index, seed=seed), value)
        return part

    def _others(self, variables: Tensors, values: Tensors, seed: Tensor, t: Tensor) -> Tensors:
        """All variables that are not trained: the state's, those that hyperparameters set, and the seeds of noise."""
        others = [tf.convert_to_tensor(v.value) for v in self.model.non_trainable_variables]
        for i, value in zip(self._kept, variables, strict=True):
            others[i] = value
        by_name = dict(zip(self.hyperparameters, values, strict=True))
        for i, name in self._set.items():
            others[i] = by_name[name]
        for i in self._seeds:
            others[i] = tf.cast(tf.stack([seed + 7919 * (i + 1), t]), tf.uint32)
        return others

    # -- the inner step -------------------------------------------------------------------------------------------

    def advance(self, state: State, values: Tensors, index: Tensor, seed: Tensor, t: Tensor, steps: Tensor) -> State:
        """The state after step ``t`` of ``steps``."""
        with tf.GradientTape() as tape:
            tape.watch(state.weights)
            loss, variables = self.training_loss(state.weights, state.variables, values, index, seed, t)
        gradient = [tf.convert_to_tensor(g) for g in tape.gradient(loss, state.weights, unconnected_gradients="zero")]
        progress = tf.cast(t, self.dtype) / tf.cast(tf.maximum(steps - 1, 1), self.dtype)
        momenta = [h.apply(value) for h, value in self._at(Place.MOMENTUM, values)]
        mu = momenta[0] if momenta else tf.constant(self.optimizer.momentum, self.dtype)
        rates = [self._rate(path, values, progress) for path in self._paths]
        weights, slots = self.optimizer.update(state.weights, state.slots, gradient, rates, mu, t)
        return State(weights, slots, variables)

    def _rate(self, path: str, values: Tensors, progress: Tensor) -> Tensor:
        """The learning rate of one weight tensor."""
        layer = path.partition("/")[0]
        factors = [
            h.apply(value, progress)
            for h, value in self._at(Place.LEARNING_RATE, values)
            if h.layers is None or layer in h.layers
        ]
        if not factors:
            return tf.constant(self.optimizer.learning_rate, self.dtype)
        return tf.reduce_prod(tf.stack(factors))


def _leaves(layer: Any) -> list[Any]:
    """A model's layers that have their own weights, in the order of its variables."""
    found = [layer] if layer._trainable_variables else []
    for child in layer._layers:
        found += _leaves(child)
    return found
