"""Builds compiled Keras models from a user's ``build_model(hp)`` or hypermodel, with KerasTuner's interface.

Keras is imported where a model is built, so that the flow's process does not load it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.keras.space.hypermodel import HyperModel
from hpo_flows.keras.space.hyperparameters import HyperParameters

log = logging.getLogger("hpo")


def built(model: Any, hp: HyperParameters, compile_: dict[str, Any] | None = None) -> Any:
    """Build the compiled Keras model of a configuration.

    Args:
        model: A :class:`HyperModel`.
        hp: The configuration.
        compile_: An ``optimizer``, ``loss`` or ``metrics`` to replace the model's own.

    Raises:
        InputError: The result is not a compiled Keras model.
    """
    import keras

    if hasattr(model, "declare_hyperparameters"):
        model.declare_hyperparameters(hp)
    network = model.build(hp)
    if not isinstance(network, keras.Model):
        problem = f"it returned {type(network).__name__} instead of a Keras model"
        raise InputError("build_model", problem, "return the model that it builds" if network is None else "")
    if compile_:
        given = {"optimizer": getattr(network, "optimizer", None), "loss": getattr(network, "loss", None)} | compile_
        if not isinstance(given["optimizer"], str):  # copied, since an optimizer belongs to one model
            given["optimizer"] = keras.optimizers.deserialize(keras.optimizers.serialize(given["optimizer"]))
        network.compile(**given)
    if not getattr(network, "compiled", False):
        raise InputError("build_model", "the model that it returned is not compiled", "call model.compile in it")
    return network


def build_state(network: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Create the variables of optimizer and metrics now, not while the first batch is traced.

    TensorFlow never frees the functions that initialise variables created inside a graph, and they keep the graph
    alive: several MiB per training of a small network.

    Args:
        network: A compiled model.
        args, kwargs: Those of ``fit``; the metrics are built only if they start with arrays ``x`` and ``y``.
    """
    import keras

    if not network.built:
        return
    network.optimizer.build(network.trainable_variables)
    x, y = (args[i] if len(args) > i else kwargs.get(name) for i, name in enumerate(("x", "y")))
    try:
        one = keras.tree.map_structure(lambda each: keras.ops.zeros((1, *each.shape[1:]), str(each.dtype)), (x, y))
        inputs = keras.tree.map_structure(lambda each: keras.KerasTensor(each.shape, each.dtype), one[0])
        outputs = network.compute_output_spec(inputs)
        predicted = keras.tree.map_structure(lambda each: keras.ops.zeros(each.shape, each.dtype), outputs)
        network.compute_metrics(one[0], one[1], predicted)
    except Exception:  # a dataset instead of arrays, or bad data, for which the training gives a better message
        log.debug("metrics are built by the training", exc_info=True)
    network.reset_metrics()


def leave_no_graph(optimizer: Any) -> None:
    """Make the optimizer of a single replica apply its gradients without summing them over replicas first.

    Keras requests that sum from TensorFlow while tracing the training, and TensorFlow keeps its derivative, with the
    graph of the training, until the process ends: 2 MiB per training of a small network. With one replica the sum is
    the gradient itself.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # inside one that scales the loss
    strategy = getattr(inner, "_distribution_strategy", None)  # with TensorFlow only
    if strategy is not None and strategy.num_replicas_in_sync == 1:
        inner._all_reduce_sum_gradients = _unchanged


def _unchanged(gradients: Any) -> Any:
    return gradients


class _WouldTrain(BaseException):
    """Raised when a training would start. Not an Exception, so that no ``except`` of the user's catches it."""


class _Untrained:
    """A stand-in for a model that ends the user's function once it starts to train or use the model."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        if name in ("fit", "train_on_batch", "evaluate", "predict", "train_step"):
            return self._stop
        return getattr(self._model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._stop()

    def _stop(self, *args: Any, **kwargs: Any) -> None:
        raise _WouldTrain


def declare_all(model: Any, hp: HyperParameters, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run a user's ``fit`` up to the training, so that it declares its parameters (a batch size, say)."""
    if not overrides_fit(model):
        return
    try:
        model.fit(hp, _Untrained(network), *args, **kwargs)
    except _WouldTrain:
        pass


def overrides_fit(model: Any) -> bool:
    """Whether the user's class overrides ``fit``."""
    theirs = getattr(type(model), "fit", None)
    return theirs is not HyperModel.fit and not getattr(theirs, "__module__", "").startswith("keras_tuner.")
