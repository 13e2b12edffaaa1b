"""Connects a Keras training to its trial: checks it at the start, reports its curve, keeps its best epoch and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.keras.space.objective import Objective
from hpo_flows.keras.training import checkpoint
from hpo_flows.keras.training.model import leave_no_graph, optimizer_of
from hpo_flows.keras.training.trial_callbacks import TrialCallback, named_callbacks
from hpo_flows.objectives.context import TrialContext


def callbacks(trial: TrialContext) -> list[Any]:
    """Make the callbacks for one ``model.fit`` of a trial: those of the study file, and one that reports every epoch.

    Their files become artifacts of the trial's run. Its metrics include the learning rate, the best epoch and the epoch
    whose weights were restored.

    Raises:
        InputError: A callback cannot be made. Inside ``fit``: a callback monitors a metric that does not exist.
    """
    return EpochReporter(trial, named_callbacks(trial.callbacks, trial.scratch)).callbacks


class EpochReporter:
    """Reports one training of one trial.

    Args:
        trial: The trial.
        placed: The user's callbacks.
        objective: The metric that decides which epoch is the best; None if nothing does.
        objective_logged: Whether the objective must be among what Keras logs, and not only in what ``fit`` returns.
        prefix: Prepended to the names of the reported metrics.
        keep_weights: Keep the weights of the best epoch in memory.
        validation: Whether the training is validated after each epoch; None if that is not known.
        begun: The state that the training resumes from.
        keep_state: The folder for a checkpoint after the last epoch; None for no checkpoint.

    Attributes:
        callbacks: The callbacks for ``model.fit``.
        last: The metrics of the last epoch.
        state: The current state, including the best epoch.
        restored: The epoch whose weights an ``EarlyStopping`` has restored; None if none has.
    """

    def __init__(
        self,
        trial: TrialContext,
        placed: Sequence[TrialCallback] = (),
        *,
        objective: Objective | None = None,
        objective_logged: bool = True,
        prefix: str = "",
        keep_weights: bool = False,
        validation: bool | None = None,
        begun: checkpoint.State | None = None,
        keep_state: Path | None = None,
    ) -> None:
        import keras

        self._trial, self._placed, self._objective, self._prefix = trial, placed, objective, prefix
        parts = getattr(objective, "objectives", [objective]) if objective is not None and objective_logged else []
        self._logged = [part.name for part in parts]
        self._keep_weights, self._validation, self._keep_state = keep_weights, validation, keep_state
        self.state = begun or checkpoint.State(seed=trial.seed)
        self._first_epoch = self.state.epoch
        self.last: dict[str, float] = {}
        self.curve: list[dict[str, float]] = []
        self.restored: int | None = None
        # Instances of Keras' own class: a subclass could only be defined after importing Keras.
        self._guard = keras.callbacks.LambdaCallback(on_train_begin=self._check, on_epoch_end=self._check_logs)
        self._reporter = keras.callbacks.LambdaCallback(
            on_train_begin=self._begin, on_epoch_end=self._report, on_train_end=self._end
        )
        self.callbacks = [self._guard, *(each.callback for each in placed), self._reporter]

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the best epoch, with ``best_epoch``; or of the last one, if nothing decides which is best."""
        if self.state.best:
            return {key: value for key, value in self.state.best.items() if key != "epoch"} | {
                "best_epoch": self.state.best["epoch"]
            }
        if self.restored is not None and 0 <= self.restored - self._first_epoch < len(self.curve):
            return self.curve[self.restored - self._first_epoch] | {"best_epoch": float(self.restored)}
        return self.last

    # -- checks -----------------------------------------------------------------------------------------------------

    def _monitored(self) -> list[tuple[str, str]]:
        """The metrics that must exist, each with what depends on it."""
        named = [
            (f"{each.where}.monitor", each.callback.monitor)
            for each in self._placed
            if each.strict and isinstance(getattr(each.callback, "monitor", None), str)
        ]
        return named + [("metric", name) for name in self._logged]

    def _check(self, logs: Mapping[str, Any] | None = None) -> None:
        """Check before the first batch, when Keras does not know its metrics yet, but whether it validates is known."""
        for where, monitor in self._monitored():
            if self._validation is False and monitor.startswith("val_"):
                problem = f"{monitor!r} is not a metric of a training without validation"
                raise InputError(where, problem, "give validation_data or validation_split")

    def _check_logs(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Check after the first epoch, before any callback looks for its metric."""
        known = list(logs or {})
        validated = any(name.startswith("val_") for name in known)
        for where, monitor in self._monitored():
            if monitor in known or (monitor.startswith("val_") and not validated):  # validation may come later
                continue
            near = get_close_matches(monitor, known, 1)
            raise InputError(
                where,
                f"{monitor!r} is not a metric of the training, which has {', '.join(known)}",
                f"did you mean {near[0]!r}?" if near else "name one of these",
            )

    # -- the curve --------------------------------------------------------------------------------------------------

    def _begin(self, logs: Mapping[str, Any] | None = None) -> None:
        leave_no_graph(optimizer_of(self._reporter.model))
        if self.state.epoch == 0:
            self.state.rate = _learning_rate(self._reporter.model).get("learning_rate", 0.0)
        for each, state in zip(self._placed, self.state.callbacks, strict=False):
            vars(each.callback).update(state)  # now, since callbacks reset themselves at the start

    def _report(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        model = self._reporter.model
        self.last = {name: float(value) for name, value in (logs or {}).items() if _is_number(value)}
        if self._objective is not None and self._objective.has_value(self.last):  # it may be a sum of several
            self.last[self._objective.name] = self._objective.get_value(self.last)
        self.curve.append(self.last)
        self.state.epoch = epoch + 1
        self._note_best(epoch)
        metrics = _learning_rate(model) | self.last
        go_on = self._trial.report(epoch, {self._prefix + name: value for name, value in metrics.items()})
        if go_on is False:
            model.stop_training = True
        if self._keep_state is not None and (model.stop_training or epoch + 1 >= self._epochs):
            # Now, because EarlyStopping restores the best weights when the training ends.
            self.state.callbacks = [checkpoint.counted(each.callback) for each in self._placed]
            checkpoint.save(self._keep_state, model, self.state)

    @property
    def _epochs(self) -> int:
        """The epochs of the training; 0 in a loop of the user's own, which does not tell."""
        return int((self._reporter.params or {}).get("epochs") or 0)

    def _note_best(self, epoch: int) -> None:
        if self._objective is None or self._objective.name not in self.last:
            return
        before = self.state.best.get(self._objective.name)
        if before is None or self._objective.better_than(self.last[self._objective.name], before):
            self.state.best = self.last | {"epoch": float(epoch)}
            if self._keep_weights:
                self.state.best_weights = self._reporter.model.get_weights()

    # -- the end ----------------------------------------------------------------------------------------------------

    def _end(self, logs: Mapping[str, Any] | None = None) -> None:
        facts: dict[str, float] = {}
        for each in self._placed:
            if getattr(each.callback, "restore_best_weights", False) and each.callback.best_weights is not None:
                self.restored = int(each.callback.best_epoch)
                facts |= {"best_epoch": self.restored, "restored_epoch": self.restored}
            elif hasattr(each.callback, "best_epoch"):
                facts["best_epoch"] = int(each.callback.best_epoch)
            if getattr(each.callback, "stopped_epoch", 0):
                facts["stopped_epoch"] = int(each.callback.stopped_epoch)
        if self.state.best:
            facts["best_epoch"] = self.state.best["epoch"]
        if facts and self.state.epoch:
            self._trial.report(self.state.epoch - 1, {self._prefix + name: value for name, value in facts.items()})
        for each in self._placed:
            if each.output is not None and each.output.exists():
                self._keep(each)

    def _keep(self, placed: TrialCallback) -> None:
        """Log a callback's files as artifacts; if there are several callbacks of a kind, each below its position."""
        assert placed.output is not None
        several = sum(type(other.callback) is type(placed.callback) for other in self._placed) > 1
        folder = f"{placed.folder}/{placed.output.name}".lstrip("/") if several else placed.folder
        for path in sorted(placed.output.iterdir()):
            inside = (
                f"{folder}/{path.name}" if path.is_dir() else folder
            )  # a folder's content is uploaded without its name
            self._trial.log_artifact(path, self._prefix + inside)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except Exception:  # a metric that returns a matrix or a dict has no curve
        return False
    return True


def _learning_rate(model: Any) -> dict[str, float]:
    """The metric of that name; none in a training of the user's own that keeps its optimizer to itself."""
    import numpy as np

    optimizer = optimizer_of(model)
    return {} if optimizer is None else {"learning_rate": float(np.asarray(optimizer.learning_rate))}
