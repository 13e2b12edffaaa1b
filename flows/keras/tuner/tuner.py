"""A tuner for Keras models with KerasTuner's interface."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.space.configuration import plain
from hpo_flows.keras.space.hypermodel import declares_all
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.training.fit_arguments import FitArguments, at_least_one
from hpo_flows.keras.training.model import Building, WouldTrain, built, declare_all, optimizer_of
from hpo_flows.keras.training.objective import BUILD_CONFIG, MODEL_FOLDER, WEIGHTS, KerasObjective, save_weights
from hpo_flows.keras.tuner.base_tuner import BaseTuner
from hpo_flows.keras.tuner.oracle import Oracle
from hpo_flows.keras.tuner.oracles import oracle_for
from hpo_flows.keras.tuner.running.overriding import watching_callback
from hpo_flows.keras.tuner.trial import Trial

__all__ = ["BaseTuner", "Tuner"]

ORACLE_SETTINGS = (
    "hyperparameters", "allow_new_entries", "tune_new_entries", "seed", "max_retries_per_trial",
    "max_consecutive_failed_trials", "max_epochs", "factor", "hyperband_iterations",
)  # fmt: skip


class Tuner(BaseTuner):
    """Tunes a Keras model. Run again, it continues where it ended.

    It takes KerasTuner's arguments, ``Tuner(oracle, hypermodel, ...)``, and in a shorter form a hypermodel first:
    ``Tuner(build_model, "val_loss", 30, strategy="tpe")``.

    Args:
        oracle: Says what is tried; or the hypermodel, if ``objective`` and ``max_trials`` follow it.
        hypermodel: ``build_model(hp)``, or a :class:`hpo_flows.keras.HyperModel`.
        max_model_size: The most parameters that a model may have; a trial with a larger one fails.
        optimizer, loss, metrics: Replace those that the model was compiled with.
        distribution_strategy: A ``tf.distribute.Strategy``, under whose scope models are built, in this process.
        directory, project_name, logger, tuner_id, overwrite: As for :class:`BaseTuner`.
        executions_per_trial: How often each configuration is trained; the mean counts.
        objective: Without an oracle: the metric to optimise, as Keras logs it; an
            :class:`hpo_flows.keras.Objective` if its name does not imply whether smaller is better.
        max_trials: Without an oracle: the total number of trials; None for as many as the strategy has.
        strategy: Without an oracle: the name of a strategy, or its name and settings as in a study file.
        **settings: Without an oracle the further arguments of one, as of :class:`hpo_flows.keras.Oracle` and of
            ``Hyperband``; those of :class:`BaseTuner` (``parallel``, ``isolation``, ...); and further keys of a study
            file.

    Raises:
        InputError: An argument is invalid.
    """

    def __init__(
        self,
        oracle: Any = None,
        hypermodel: Any = None,
        max_model_size: Any = None,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Any = None,
        distribution_strategy: Any = None,
        directory: str | Path | None = None,
        project_name: str | None = None,
        logger: Any = None,
        tuner_id: str | None = None,
        overwrite: bool = False,
        executions_per_trial: int = 1,
        *,
        objective: Any = None,
        max_trials: int | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if oracle is not None and not isinstance(oracle, Oracle):  # the shorter form
            objective = hypermodel if objective is None else objective
            max_trials = max_model_size if max_trials is None else max_trials
            oracle, hypermodel, max_model_size = None, oracle, None
        if oracle is None:
            its = {name: settings.pop(name) for name in ORACLE_SETTINGS if name in settings}
            oracle = oracle_for(strategy or "auto", objective=objective, max_trials=max_trials, **its)
        elif doubled := [n for n, v in (("objective", objective), ("max_trials", max_trials)) if v is not None]:
            raise InputError(doubled[0], "the oracle has it already", "give it to the oracle alone")
        self.executions_per_trial = at_least_one("executions_per_trial", executions_per_trial)
        limit = plain(max_model_size)  # numpy's numbers, too
        if limit is not None and not (isinstance(limit, int | float) and limit > 0):
            raise InputError("max_model_size", f"{max_model_size!r} is not a number above 0", "give 1_000_000, say")
        self.max_model_size, self.distribution_strategy = limit, distribution_strategy
        self.optimizer, self.loss, self.metrics = optimizer, loss, metrics
        super().__init__(
            oracle, hypermodel, directory, project_name, overwrite, logger=logger, tuner_id=tuner_id, **settings
        )

    @property
    def _building(self) -> Building:
        given = {"optimizer": self.optimizer, "loss": self.loss, "metrics": self.metrics}
        compile_ = {name: value for name, value in given.items() if value is not None}
        return Building(compile_, self.max_model_size, self.distribution_strategy)

    # -- training ---------------------------------------------------------------------------------------------------

    def build_to_explore(self, hp: HyperParameters) -> None:
        """Build a model, and run a ``fit`` of the user's own up to its training, for what they declare."""
        if declares_all(self.hypermodel):
            self.hypermodel.declare_hyperparameters(hp)
            return
        network = built(self.hypermodel, hp, Building(self._building.compile_))  # of any size
        declare_all(self.hypermodel, hp, network, self.arguments.args, {**self.arguments.kwargs, "callbacks": []})

    def _objective(self, arguments: Any, **settings: Any) -> KerasObjective:
        return KerasObjective(
            self.hypermodel,
            arguments,
            None,
            self.oracle.objective,
            self.executions_per_trial,
            keep_model=True,
            building=self._building,
            **settings,
        )

    def objective_by_value(self, arguments: Any, callbacks: Any) -> Callable[[Any], Mapping[str, float]] | None:
        return self._objective(arguments, callbacks=callbacks)

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> Any:
        """Build the trial's model and train it, as often as ``executions_per_trial`` says.

        Args:
            trial: The trial.
            *args: Those of ``fit``.
            **kwargs: The same by name, with ``callbacks``, which each training gets its own copies of.

        Returns:
            What ``fit`` returned, for each execution.
        """
        if trial.exploring:
            self.build_to_explore(trial.hyperparameters)
            raise WouldTrain
        assert trial.context is not None
        callbacks = kwargs.pop("callbacks", None) or ()
        objective = self._objective(
            FitArguments(args, kwargs),
            callbacks=[callbacks] if not isinstance(callbacks, list | tuple) else callbacks,
            watching=watching_callback(self, trial),
            quiet=False,
        )
        done = objective.train(trial.context, trial.hyperparameters)
        trial.answers += [(each.answer, each.metrics) for each in done]
        return [each.answer for each in done]

    def on_epoch_begin(self, trial: Trial, model: Any, epoch: int, logs: Any = None) -> None:
        """Called before each epoch."""
        _no_more_is_declared(trial)

    def on_epoch_end(self, trial: Trial, model: Any, epoch: int, logs: Any = None) -> None:
        """Called after each epoch."""
        _no_more_is_declared(trial)

    def on_batch_begin(self, trial: Trial, model: Any, batch: int, logs: Any = None) -> None:
        """Called before each batch."""
        _no_more_is_declared(trial)

    def on_batch_end(self, trial: Trial, model: Any, batch: int, logs: Any = None) -> None:
        """Called after each batch."""
        _no_more_is_declared(trial)

    # -- models -----------------------------------------------------------------------------------------------------

    def save_model(self, trial_id: str, model: Any, step: int = 0) -> None:
        """Keep the weights of a running trial's model in MLflow, where :meth:`load_model` finds them.

        Args:
            trial_id: The trial.
            model: Its model.
            step: The epoch; the last model that is kept counts.
        """
        context = self.oracle.running(trial_id).context
        if context is None:  # it runs for what it declares alone
            return
        folder = context.scratch / f"model_{step}"
        folder.mkdir(exist_ok=True)
        for path in save_weights(model, folder):
            context.log_artifact(path, MODEL_FOLDER)

    def load_model(self, trial: Trial) -> Any:
        """The model of a trial, built anew, with the weights of its best epoch.

        Raises:
            InputError: They cannot be read from MLflow.
        """
        ledger = self.oracle.read()
        assert ledger is not None
        weights = ledger.store.download(trial.run_id, f"{MODEL_FOLDER}/{WEIGHTS}")
        config = ledger.store.download(trial.run_id, f"{MODEL_FOLDER}/{BUILD_CONFIG}")
        if weights is None or config is None:
            problem = f"the weights of trial {trial.trial_id} are not among the artifacts of run {trial.run_id}"
            raise InputError("get_best_models", problem, "look into its run, or train its configuration again")
        network = built(self.hypermodel, trial.hyperparameters.copy(), self._building)
        with self._building.scope(), tempfile.TemporaryDirectory() as folder:
            if not network.built:
                network.build_from_config(json.loads(config))
            if (optimizer := optimizer_of(network)) is not None:
                optimizer.build(network.trainable_variables)  # the file also has the optimizer's variables
            path = Path(folder) / WEIGHTS
            path.write_bytes(weights)
            network.load_weights(path)
        return network


def _no_more_is_declared(trial: Trial) -> None:
    """End a ``run_trial`` that is run for what it declares alone: a loop of the user's own has begun to train."""
    if trial.exploring:
        raise WouldTrain
