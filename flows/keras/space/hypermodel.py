"""Defines the hypermodel: what a user gives a tuner, with KerasTuner's interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.keras.space.hyperparameters import HyperParameters


class HyperModel:
    """A model as a function of ``hp``. Override :meth:`build`, and :meth:`fit` if ``model.fit`` is not enough.

    Args:
        name: Its name.
        tunable: False to leave all hyperparameters that :meth:`build` declares at their defaults, but for those that
            were declared before.
    """

    def __init__(self, name: str | None = None, tunable: bool = True) -> None:
        self.name, self.tunable = name, tunable
        if not tunable:
            self.build = self._build_apart  # type: ignore[method-assign]

    def _build_apart(self, hp: HyperParameters) -> Any:
        return type(self).build(self, hp.copy())

    def build(self, hp: HyperParameters) -> Any:
        """The compiled model of a configuration."""
        raise NotImplementedError(f"{type(self).__name__} has no build(hp); define it, and return a compiled model")

    def declare_hyperparameters(self, hp: HyperParameters) -> None:
        """Declare parameters before anything is built."""

    def fit(self, hp: HyperParameters, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Train a model; returns Keras' history, the metrics as a dict, or the objective as a number.

        Pass ``kwargs["callbacks"]`` on to ``model.fit``, or curves, callbacks and checkpoints do not work.
        """
        return model.fit(*args, **kwargs)


class FunctionModel(HyperModel):
    """The hypermodel of a plain ``build_model(hp)``."""

    def __init__(self, function: Callable[[HyperParameters], Any]) -> None:
        super().__init__(getattr(function, "__name__", None))
        self._function = function

    def build(self, hp: HyperParameters) -> Any:
        return self._function(hp)


def declares_all(model: Any) -> bool:
    """Whether ``declare_hyperparameters`` of a hypermodel declares all that there is, so that nothing need be built."""
    return bool(getattr(model, "declares_all", False))


def hyper_model(given: Any) -> Any:
    """Wrap a function as a :class:`HyperModel`. A hypermodel, also one of KerasTuner's class, is returned as it is.

    None is returned as well: a tuner with a ``run_trial`` of its own needs none.

    Raises:
        InputError: It is neither.
    """
    if given is None:
        return None
    if callable(getattr(given, "build", None)) and callable(getattr(given, "fit", None)):
        return given
    if callable(given):
        return FunctionModel(given)
    raise InputError("build_model", f"{given!r} is not a function of hp", "give build_model(hp), or a HyperModel")
