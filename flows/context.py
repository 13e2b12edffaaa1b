"""What an objective sees of its trial."""

from __future__ import annotations

import math
import os
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo_core.configuration import Scalar
from hpo_core.milestones import Milestones
from hpo_core.trial import HYPERGRADIENT, HYPERGRADIENT_NORM, Fold, Phase

if TYPE_CHECKING:
    from flows.splits import Rows

CHECKPOINT = "checkpoint"
MODEL, ON_BEST = "model", "on_best.txt"


class TrialContext:
    """Handed to the objective as its only argument.

    Attributes:
        config: Values of the active parameters, by name.
        number: The trial's number in the study.
        seed: A seed of its own, in ``[0, 2**31)``, the same at every attempt. A promoted trial has its parent's, so
            that its training goes on as if it had never paused.
        scratch: An empty folder of its own, gone after the trial.
        callbacks: The study's callbacks as plain data, for :func:`flows.keras.callbacks`.
    """

    def __init__(
        self,
        *,
        config: Mapping[str, Scalar],
        number: int,
        seed: int,
        fidelity: float | None,
        scratch: Path,
        outbox: Path,
        send: Callable[[dict[str, Any]], None],
        resume_from: Path | None = None,
        milestones: Milestones | None = None,
        answer: Callable[[], bool] = lambda: True,
        callbacks: Sequence[Mapping[str, Mapping[str, Any]]] = (),
        phase: Phase = "search",
        fold: Fold | None = None,
        champion: Path | None = None,
    ) -> None:
        self.config, self.number, self.seed, self.scratch = config, number, seed, scratch
        self.callbacks = callbacks
        self._fidelity, self._resume_from = fidelity, resume_from
        self._outbox, self._send, self._sent = outbox, send, 0
        self._milestones, self._answer, self._judged, self._go_on = milestones, answer, -1, True
        self._read: set[str] = set()
        self._scratch_reason = ""
        self._phase, self._fold = phase, fold
        self._champion_folder = champion
        self._on_best: list[Callable[[], object]] = []
        self._hypergradients = 0

    def __repr__(self) -> str:
        return f"TrialContext(number={self.number}, config={dict(self.config)}, seed={self.seed})"

    @property
    def fidelity(self) -> float | None:
        """Up to which fidelity to train, from the start: 9 epochs, not 6 more; None where the study has none."""
        self._read.add("fidelity")
        return self._fidelity

    @property
    def resume_from(self) -> Path | None:
        """A folder with what the parent trial left in its ``checkpoint``; None: train from scratch."""
        self._read.add("resume_from")
        return self._resume_from

    @property
    def checkpoint(self) -> Path:
        """A folder; what the objective leaves there is handed to the trials that go on from this one."""
        folder = self._outbox / CHECKPOINT
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def scratch_instead(self, reason: str) -> None:
        """Say that this trial was trained from scratch although there is a checkpoint; its run shows the reason."""
        self._scratch_reason = " ".join(str(reason).split())[:500] or "the objective chose so"

    @property
    def use(self) -> dict[str, Any]:
        """What the objective made of what it was offered, for the flow."""
        return {"kind": "use", "read": sorted(self._read), "scratch_instead": self._scratch_reason}

    @property
    def phase(self) -> Phase:
        """What the objective is called for; who takes the rows from :meth:`split` need not look.

        ``search``: a trial. ``fold``: one fold of the final choice. ``test``: the winner's score on the test set.
        ``seed``: the winner, trained for comparison with the champion. ``champion``: :attr:`champion` is to be scored.
        """
        self._read.add("phase")
        return self._phase

    @property
    def fold(self) -> Fold | None:
        """The fold; None in the other phases."""
        self._read.add("phase")
        return self._fold

    @property
    def for_champion(self) -> bool:
        """Whether this is one of the re-trainings that are held against the champion: phase ``seed``."""
        return self._phase == "seed"

    @cached_property
    def champion(self) -> Any:
        """A model to be scored in place of a trained one, on the same rows by the same metric; None: train one.

        It is given in phase ``champion`` alone: the model that bears this alias in MLflow's registry, a scikit-learn
        estimator or a Keras model as itself, any other as MLflow's pyfunc.
        """
        self._read.add("champion")
        if self._champion_folder is None:
            return None
        from hpo_core.tracking import load_model

        return load_model(self._champion_folder)

    def split(
        self,
        data: int | Sized,
        *,
        stratify: Any = None,
        groups: Any = None,
        test: float | Sequence[int] = 0.2,
        validation: float = 0.2,
        shuffle: bool = True,
        seed: int = 0,
    ) -> tuple[Rows, Rows]:
        """The rows to train on and the rows to be scored on, as the phase wants them.

        In the search, one fixed split of the development data; in the final choice, a fold of it; at last, and beside
        the champion, all of it and the test data, which no other phase gets to see. The same for every trial of every
        study.

        Args:
            data: The number of rows, or anything with that length.
            stratify: Labels, shape ``(n,)``, whose shares are to be the same on both sides.
            groups: Shape ``(n,)``; rows of one group stay on one side. Beside them ``stratify`` counts in folds alone.
            test: The share of the test data, or the test rows themselves, where the data comes with them.
            validation: The share of the development data on which the search is scored.
            shuffle: False for rows in order of time: what is scored on comes after what is trained on.
            seed: Another split of the same data.

        Returns:
            Two arrays of row numbers.

        Raises:
            ValueError: The arguments do not fit each other or the data.
        """
        from flows.splits import split

        return split(
            data,
            phase=self.phase,
            fold=self.fold,
            stratify=stratify,
            groups=groups,
            test=test,
            validation=validation,
            shuffle=shuffle,
            seed=seed,
        )

    def on_best(self, action: Callable[[], object]) -> None:
        """Do something once the objective has returned, if its trial is the best so far: pictures, say, or the model.

        In a study with a final choice only the winner is the best, and in phase ``test``; in phase ``seed`` each is. An
        action that raises leaves its traceback with the run and does not fail the trial; its time counts towards
        ``trial_timeout``.
        """
        self._on_best.append(action)

    def log_model(self, model: Any, example: Any) -> None:
        """Keep a trained model, if its trial is the best so far (:meth:`on_best`), as the artifact ``model``.

        ``mlflow models serve`` takes it as it is: signature and input example are with it.

        Args:
            model: A Keras model or a scikit-learn estimator.
            example: A few rows of input; the signature is that of them and of what the model makes of them.
        """
        self.on_best(lambda: self._save_model(model, example))

    def _save_model(self, model: Any, example: Any) -> None:
        from hpo_core.tracking import save_model

        path = self.scratch / "hpo-model"
        save_model(model, path, example)
        self.log_artifact(path, MODEL)

    def log_dataset(self, name: str, features: Any, targets: Any = None) -> None:
        """Let MLflow show which data the trial used; name it once a trial, however often it is split.

        It costs a request a trial, and reading all of the data once for its digest.

        Args:
            name: What people call it.
            features: An array or a DataFrame, shape ``(n, ...)``.
            targets: Labels or values, shape ``(n,)``; None if there are none.
        """
        from flows.datasets import describe

        self._send({"kind": "dataset", "dataset": describe(name, features, targets)})

    def finish_best(self) -> None:
        """Do what was to be done if the trial is the best so far; called by the worker. A stopped one never is."""
        for action in self._on_best if self._go_on else []:
            try:
                action()
            except Exception:
                note = self.scratch / ON_BEST
                note.write_text(traceback.format_exc(), encoding="utf-8")
                self.log_artifact(note)

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Log metrics of one step (an epoch, a fold, a number of trees); they are curves in MLflow.

        Returns at once: the flow's process writes them, several steps in one request. Only at the milestones of the
        study's ``early_stop`` it waits for the rule's decision; that needs the study's metric among these.

        Args:
            step: The step, >= 0; step 0 is the first.
            metrics: By name. Values that are not finite are logged as MLflow keeps them.

        Returns:
            Whether to go on. If not, stop training now and return what there is: the trial is complete at the
            fidelity that it has reached.

        Raises:
            ValueError: A value is not a number.
        """
        message = {"kind": "report", "step": int(step), "metrics": as_metrics(metrics)}
        milestone = self._due(int(step))
        if milestone is None:
            self._send(message)
        else:
            self._send(message | {"milestone": milestone})
            self._go_on = self._answer() and self._go_on
        return self._go_on

    def _due(self, step: int) -> int | None:
        """The milestone that is to be judged at a step, if any: once each, also where steps jump over it."""
        if self._milestones is None or not self._go_on:
            return None
        if self._judged < 0:  # what lies before the first report was passed by the parent trial
            self._judged = self._milestones.last(step)
        if (milestone := self._milestones.last(step + 1)) <= self._judged:
            return None
        self._judged = milestone
        return milestone

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """Keep a file, or a folder with all that is in it, with the trial's run.

        It is copied at once, so it may be changed or removed afterwards.

        Args:
            path: What to keep.
            folder: Where below the run's artifacts it stands.

        Raises:
            FileNotFoundError: There is nothing at ``path``.
            ValueError: ``folder`` leads out of the run's artifacts.
        """
        source = Path(os.path.abspath(path))  # so that ".." has a name
        if Path(folder).is_absolute() or ".." in Path(folder).parts or not {"\\", "\0"}.isdisjoint(folder):
            raise ValueError(f"the folder {folder!r} leads out of the run's artifacts")
        self._sent += 1
        target = self._outbox / str(self._sent) / source.name
        target.parent.mkdir(parents=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=self._endless)
        else:
            shutil.copy2(source, target)
        self._send({"kind": "artifact", "path": str(target), "folder": folder})

    def report_hypergradient(self, gradient: Mapping[str, Any]) -> None:
        """Log the derivative of the study's metric by parameters, for the strategy ``gradient``; the last one counts.

        Args:
            gradient: By the parameter's name, on its raw scale. A number becomes the metric ``hypergradient/NAME``. An
                array, of what is no parameter of the space, becomes the artifact ``hypergradient/NAME.npy``, and its
                length the metric ``hypergradient_norm/NAME``.

        Raises:
            ValueError: A value is neither a number nor an array of numbers.
        """
        import numpy as np

        metrics: dict[str, Any] = {}
        for name, value in gradient.items():
            if np.ndim(value) == 0:
                metrics[HYPERGRADIENT + name] = value
                continue
            vector = np.asarray(value, dtype=float)
            metrics[HYPERGRADIENT_NORM + name] = np.linalg.norm(vector)
            file = self.scratch / f"{name.replace('/', '_')}.npy"
            np.save(file, vector)
            self.log_artifact(file, HYPERGRADIENT.rstrip("/"))
        # Of two values at one step MLflow keeps the larger, where a millisecond does not tell them apart.
        self._send({"kind": "report", "step": self._hypergradients, "metrics": as_metrics(metrics)})
        self._hypergradients += 1

    def check_hypergradient(self, returned: Mapping[str, float]) -> None:
        """See that one was logged, by :meth:`report_hypergradient` or among the metrics that the objective returned.

        Raises:
            MissingMetric: None was.
        """
        if not self._hypergradients and not any(name.startswith(HYPERGRADIENT) for name in returned):
            raise MissingMetric(
                "the strategy goes by hypergradients, and the objective gave none; call trial.report_hypergradient, or "
                "choose another strategy"
            )

    def _endless(self, folder: str, names: list[str]) -> list[str]:
        """What a copy of a folder must not enter: links to a folder around them, and the outbox that it goes to."""
        here = Path(folder).resolve()
        paths = {name: (here / name).resolve() for name in names}
        return [name for name, path in paths.items() if here.is_relative_to(path) or path == self._outbox.resolve()]


def as_metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as plain floats.

    Raises:
        ValueError: A name is not a string or a value not a number.

    >>> as_metrics({"loss": 1})
    {'loss': 1.0}
    """
    metrics: dict[str, float] = {}
    for name, value in values.items():
        try:
            metrics[name] = float(value)
        except Exception:  # a tensor's float() raises what its library likes
            raise ValueError(f"the metric {name!r} has the value {value!r:.80}, which is not a number") from None
        if not isinstance(name, str):
            raise ValueError(f"the metric name {name!r} is not a string")
    return metrics


class MissingMetric(ValueError):
    """The objective returned metrics, but not the study's: a mistake in the study file rather than in the trial."""


def as_result(value: Any, metric: str) -> dict[str, float]:
    """What an objective returned, as metrics among which the study's is finite.

    Raises:
        ValueError: It is neither a number nor a dict of numbers with the study's metric, or that is not finite.
    """
    if not isinstance(value, Mapping):
        try:
            value = {metric: float(value)}
        except Exception:
            raise ValueError(
                f"the objective returned {value!r:.80}; return the {metric} as a number, or a dict with it"
            ) from None
    metrics = as_metrics(value)
    if metric not in metrics:
        raise MissingMetric(
            f"the objective returned no {metric!r} but {sorted(metrics)}; return it, or correct metric: in the study"
        )
    if not math.isfinite(metrics[metric]):
        raise ValueError(f"the objective returned {metric} = {metrics[metric]}")
    return metrics
