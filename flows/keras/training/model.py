"""Builds compiled Keras models from a user's ``build_model(hp)`` or hypermodel, with KerasTuner's interface.

Keras is imported where a model is built, so that the flow's process does not load it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from hpo_core.base.errors import InputError
from hpo_flows.keras.space.hypermodel import HyperModel
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.space.model_size import check_size

log = logging.getLogger("hpo")


@dataclass(frozen=True)
class Building:
    """How a tuner makes of ``build(hp)`` the model that is trained.

    Args:
        compile_: An ``optimizer``, ``loss`` or ``metrics`` to replace the model's own.
        max_size: The most parameters that a model may have; None for no limit.
        distribution: A ``tf.distribute.Strategy`` under whose scope models are built; None for none.
    """

    compile_: Mapping[str, Any] = field(default_factory=dict)
    max_size: float | None = None
    distribution: Any = None

    def scope(self) -> AbstractContextManager[Any]:
        """The scope in which models and what belongs to them are made."""
        return nullcontext() if self.distribution is None else self.distribution.scope()


def built(model: Any, hp: HyperParameters, building: Building | None = None) -> Any:
    """Build the Keras model of a configuration.

    Args:
        model: A :class:`HyperModel`.
        hp: The configuration.
        building: What a tuner changes about it.

    Raises:
        InputError: The result is not a Keras model, or one that is not compiled, and only ``model.fit`` trains it.
        FailedTrialError: It is too large.
    """
    import keras

    building = building or Building()
    if hasattr(model, "declare_hyperparameters"):
        model.declare_hyperparameters(hp)
    with building.scope():
        network = model.build(hp)
        if not isinstance(network, keras.Model):
            problem = f"it returned {type(network).__name__} instead of a Keras model"
            raise InputError("build_model", problem, "return the model that it builds" if network is None else "")
        if building.compile_:
            _compile(network, building.compile_)
    if not getattr(network, "compiled", False) and not overrides_fit(model):
        raise InputError("build_model", "the model that it returned is not compiled", "call model.compile in it")
    check_size(network, building.max_size)
    return network


def _compile(network: Any, given: Mapping[str, Any]) -> None:
    """Compile a model anew, with some of it replaced."""
    import keras

    own = {"optimizer": optimizer_of(network), "loss": getattr(network, "loss", None)}
    if network.compiled:
        own["metrics"] = network._compile_metrics and network._compile_metrics._user_metrics
    settings = own | dict(given)
    if not isinstance(settings["optimizer"], str):  # copied, since an optimizer belongs to one model
        settings["optimizer"] = keras.optimizers.deserialize(keras.optimizers.serialize(settings["optimizer"]))
    network.compile(**settings)


def optimizer_of(network: Any) -> Any:
    """A model's optimizer; None if a training of the user's own optimises it."""
    return getattr(network, "optimizer", None)


def build_state(network: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Create the variables of optimizer and metrics now, not while the first batch is traced.

    TensorFlow never frees the functions that initialise variables created inside a graph, and they keep the graph
    alive: several MiB per training of a small network.

    Args:
        network: A compiled model.
        args, kwargs: Those of ``fit``; the metrics are built only if they start with arrays ``x`` and ``y``.
    """
    import keras

    if not network.built or optimizer_of(network) is None:
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


class WouldTrain(BaseException):
    """Raised when a training would start. Not an Exception, so that no ``except`` of the user's catches it."""


class _Untrained:
    """A stand-in for a model that ends the user's function once it starts to train or use the model."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return _would_train if name in (*TRAINS, "train_step") else getattr(self._model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _would_train()


TRAINS = ("fit", "train_on_batch", "evaluate", "predict")


def _would_train(*args: Any, **kwargs: Any) -> Any:
    raise WouldTrain


def declare_all(model: Any, hp: HyperParameters, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run a user's ``fit`` up to the training, so that it declares its parameters (a batch size, say)."""
    if not overrides_fit(model):
        return
    with nothing_trains(), suppress(WouldTrain):  # a loop of their own may use parts of the network
        model.fit(hp, _Untrained(network), *args, **kwargs)


@contextmanager
def nothing_trains() -> Iterator[None]:
    """Raise :class:`WouldTrain` wherever a Keras model is trained or used, or a gradient is recorded.

    Where nothing has imported Keras, it is not imported for this.
    """
    with ExitStack() as stack:
        if (keras := sys.modules.get("keras")) is not None:
            for name in TRAINS:
                stack.enter_context(patch.object(keras.Model, name, _would_train))
        if (tensorflow := sys.modules.get("tensorflow")) is not None:
            stack.enter_context(patch.object(tensorflow.GradientTape, "__enter__", _would_train))
        yield


def overrides_fit(model: Any) -> bool:
    """Whether the user's class overrides ``fit``."""
    theirs = getattr(type(model), "fit", HyperModel.fit)
    return theirs is not HyperModel.fit and not getattr(theirs, "__module__", "").startswith("keras_tuner.")
