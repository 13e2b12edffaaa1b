"""Defines the trial context: the only argument of an objective, with its inputs and its ways to report.

numpy, models and splits are imported in the methods that need them, so that an objective pays only for what it uses.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo_core.base.errors import InputError
from hpo_core.history.trial import HYPERGRADIENT, HYPERGRADIENT_NORM
from hpo_core.ledger.tags import MODEL, ON_BEST
from hpo_core.selection.evaluation import Fold, Phase
from hpo_core.selection.milestones import Milestones
from hpo_core.space.configuration import Scalar, identity
from hpo_core.tracking.models import check_kind, load_model, save_model
from hpo_flows.objectives.artifacts import Artifacts
from hpo_flows.objectives.datasets import describe
from hpo_flows.objectives.folds import CrossValidation
from hpo_flows.objectives.messages import DatasetUsed, FoldScore, FromObjective, NotKept, Report, Use
from hpo_flows.objectives.result import MissingMetric, as_metrics, as_step
from hpo_flows.objectives.splits import folds, split

if TYPE_CHECKING:
    from hpo_flows.objectives.splits import Rows

CHECKPOINT = "checkpoint"

THE_MODEL = "the model is not kept"


class TrialContext(Artifacts):
    """Handed to the objective as its only argument.

    Attributes:
        config: Values of the active parameters, by name.
        number: The trial's number in the study.
        seed: The trial's own seed, in ``[0, 2**31)``, the same at every attempt. A promoted trial has its parent's, so
            that its training continues as if it had never paused.
        scratch: The trial's own folder, empty at first and deleted after the trial.
        callbacks: The study's callbacks as plain data, for :func:`hpo_flows.keras.callbacks`.
        parent_config: The configuration of the trial whose checkpoint is in ``resume_from``; None without one. It may
            differ from ``config`` under a strategy that changes hyperparameters in the middle of a training (``pbt``).
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
        send: Callable[[FromObjective], None],
        resume_from: Path | None = None,
        parent_config: Mapping[str, Scalar] | None = None,
        milestones: Milestones | None = None,
        answer: Callable[[], bool] = lambda: True,
        callbacks: Sequence[Mapping[str, Mapping[str, Any]]] = (),
        phase: Phase = "search",
        fold: Fold | None = None,
        champion: Path | None = None,
        reshuffle: bool = False,
        repeats: bool = False,
        metric: str | None = None,
    ) -> None:
        super().__init__(outbox, send)
        self.config, self.number, self.seed, self.scratch = config, number, seed, scratch
        self.callbacks = callbacks
        self._fidelity, self._resume_from = fidelity, resume_from
        self.parent_config = parent_config
        self._milestones, self._answer, self._judged, self._go_on = milestones, answer, -1, True
        self._metric = metric  # that of the study, by which it is judged; None for any
        self._read: set[str] = set()
        self._scratch_reason = ""
        self._phase, self._fold, self._reshuffle, self._repeats = phase, fold, reshuffle, repeats
        self._validation: CrossValidation | None = None
        self._champion_folder = champion
        self._on_best: list[tuple[str, Callable[[], object]]] = []
        self._hypergradients = 0
        self.reported: dict[str, float] = {}
        self._write_checkpoint: Callable[[Path], object] | None = None

    def __repr__(self) -> str:
        return f"TrialContext(number={self.number}, config={dict(self.config)}, seed={self.seed})"

    @property
    def fidelity(self) -> float | None:
        """The fidelity to train up to, counted from the start: 9 epochs, not 6 more. None if the study has none."""
        self._read.add("fidelity")
        return self._fidelity

    @property
    def resume_from(self) -> Path | None:
        """A folder with what the parent trial left in its ``checkpoint``; None means train from scratch."""
        self._read.add("resume_from")
        return self._resume_from

    @property
    def reconfigured(self) -> bool:
        """Whether it goes on from the checkpoint of a trial with another configuration."""
        return self.parent_config is not None and identity(self.parent_config) != identity(self.config)

    @property
    def checkpoint(self) -> Path:
        """A folder; trials that resume from this one receive what the objective leaves there."""
        folder = self._outbox / CHECKPOINT
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def leave_checkpoint(self, write: Callable[[Path], object]) -> None:
        """Register what writes the checkpoint: it is called with its folder when the objective has returned.

        It is not called where no trial can resume from this one: without a fidelity, and outside of the search.
        """
        self._write_checkpoint = write

    def epochs(self, epochs: int | None = None, **parts: Any) -> Iterator[int]:
        """Iterate over the epochs of a PyTorch training: :func:`hpo_flows.torch.epochs` of this trial."""
        from hpo_flows.torch import epochs as loop

        return loop(self, epochs, **parts)

    def finish_checkpoint(self) -> None:
        """Write the checkpoint as :meth:`leave_checkpoint` was told; called by the worker."""
        if self._write_checkpoint is not None and self._fidelity is not None and self._phase == "search":
            self._write_checkpoint(self.checkpoint)

    def scratch_instead(self, reason: str) -> None:
        """Declare that this trial was trained from scratch despite a checkpoint. Its run shows the reason."""
        self._scratch_reason = " ".join(str(reason).split())[:500] or "the objective chose so"

    @property
    def use(self) -> Use:
        """Which of the offered inputs the objective used; sent to the flow."""
        return Use(tuple(sorted(self._read)), self._scratch_reason)

    @property
    def phase(self) -> Phase:
        """What the objective is called for. With the rows of :meth:`split` there is no need to read it.

        ``search``: a trial. ``fold``: one fold of the final choice. ``test``: the winner's score on the test set.
        ``seed``: a re-training of the winner, to compare it with the champion. ``champion``: score :attr:`champion`.
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
        """Whether this is a re-training to compare with the champion: phase ``seed``."""
        return self._phase == "seed"

    @cached_property
    def champion(self) -> Any:
        """A model to score instead of training one, on the same rows with the same metric; None means train.

        It is set in phase ``champion`` only: the model with this alias in MLflow's registry. A scikit-learn estimator
        or a Keras model comes as itself, any other as MLflow's pyfunc.
        """
        self._read.add("champion")
        if self._champion_folder is None:
            return None

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
        reshuffle: bool | None = None,
    ) -> tuple[Rows, Rows]:
        """The rows to train on and the rows to score on, depending on the phase.

        Each trial of the search has a split of the development data of its own, the final choice a fold of it. The
        winner's test and the comparison with the champion train on all of it and score on the test data, which no other
        phase sees. The test data are the same for every trial of every study.

        Args:
            data: The number of rows, or anything with that length.
            stratify: Labels, shape ``(n,)``, whose shares are kept equal on both sides.
            groups: Shape ``(n,)``; rows of one group stay on one side. With groups, ``stratify`` only applies to folds.
            test: The share of the test data; or the test rows themselves, as row numbers or a boolean mask.
            validation: The share of the development data on which the search is scored.
            shuffle: False for rows in order of time: the rows to score on then come after the rows to train on.
            seed: Gives another split of the same data.
            reshuffle: False to give all trials of the search the same split, so that their losses differ by the
                configuration alone, and the best one is fitted to that split. By default this is so in a study with
                ``repeats: off``. Rows in order of time are never reshuffled. A promoted trial has its parent's split.

        Returns:
            Two arrays of row numbers.

        Raises:
            ValueError: The arguments do not fit each other or the data.
        """

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
            reshuffle=self.seed if (self._reshuffle if reshuffle is None else reshuffle) else None,
        )

    def folds(
        self,
        data: int | Sized,
        *,
        of: int = 5,
        stratify: Any = None,
        groups: Any = None,
        test: float | Sequence[int] = 0.2,
        shuffle: bool = True,
        seed: int = 0,
        reshuffle: bool = False,
        stop_early: bool = True,
    ) -> CrossValidation:
        """Cross-validate in each trial: loop over the folds, train and score in each, and return :meth:`fold_means`.

        In the search these are the folds of the development data, the same for every trial; a trial that repeats an
        earlier one has others. In all other phases there is one, with the rows of :meth:`split`.

        A trial whose first folds are worse than the best trial's by more than the noise has no further ones: the loop
        ends. It is complete with the mean over its folds. The strategy learns from it, but it is never the best.

        Args:
            data, stratify, groups, test, shuffle, seed: As for :meth:`split`.
            of: The number of folds.
            reshuffle: True to give each trial folds of its own. Then trials also differ by the luck of their folds, and
                more of these are needed to tell that one is worse.
            stop_early: False to train all folds of every trial.

        Returns:
            Iterates over the folds; each has the row numbers ``train`` and ``held_out`` and the method ``score``.

        Raises:
            ValueError: The arguments do not fit each other or the data, or it is the second call.
            InputError: The study has an ``early_stop``, which would end the same trial by another rule.
        """
        if self._validation is not None:
            raise ValueError("trial.folds: it was called before in this trial; cross-validate once in a trial")
        if self.phase != "search":
            one = self.split(
                data, stratify=stratify, groups=groups, test=test, shuffle=shuffle, seed=seed, reshuffle=False
            )
            self._validation = CrossValidation([one], lambda fold, metrics: True)
            return self._validation
        own = {"reshuffle": self.seed} if reshuffle or self._repeats else {}
        parts = folds(data, of=of, stratify=stratify, groups=groups, test=test, shuffle=shuffle, seed=seed, **own)
        return self.folds_of(parts, stop_early=stop_early)

    def folds_of(self, parts: Sequence[tuple[Rows, Rows]], *, stop_early: bool = True) -> CrossValidation:
        """Cross-validate over given rows, as :meth:`folds` does over its own.

        Args:
            parts: Row numbers to train on and to score on, for each fold: ``list(splitter.split(X, y))``.
            stop_early: False to train all folds of every trial.

        Returns:
            As :meth:`folds`.

        Raises:
            InputError: The study has an ``early_stop``, which would end the same trial by another rule.
        """
        if stop_early and self._milestones is not None:
            raise InputError(
                "early_stop",
                "it ends trials after some of their steps, and trial.folds after some of their folds",
                "remove it from the study, or give trial.folds(..., stop_early=False)",
            )
        stop_early = stop_early and not self._repeats  # a repeat is for the mean of full trainings
        self._validation = CrossValidation(parts, partial(self._next_fold, stop_early))
        return self._validation

    def _next_fold(self, stop_early: bool, fold: Fold, metrics: Mapping[str, float]) -> bool:
        """Send a fold's metrics; returns whether the next fold is trained."""
        asks = stop_early and fold.index + 1 < fold.of
        self._send(FoldScore(fold, metrics, asks))
        self._go_on = (self._answer() if asks else True) and self._go_on
        return self._go_on

    def fold_means(self) -> dict[str, float]:
        """The mean of each metric over the folds of :meth:`folds` that were scored; return it from the objective.

        Raises:
            ValueError: No fold was scored, or not all have the same metrics.
        """
        if self._validation is None:
            raise ValueError("trial.fold_means: there are no folds; loop over trial.folds(...) first")
        return self._validation.means()

    def on_best(self, action: Callable[[], object]) -> None:
        """Register an action for when the objective has returned and its trial is the best so far: log pictures, say.

        In a study with a final choice only the winner counts as the best, in phase ``test``; in phase ``seed`` every
        re-training does. An action that raises does not fail the trial: a warning and the tag ``hpo.not_kept`` say why,
        and the artifact ``on_best.txt`` has the traceback. Its time counts towards ``trial_timeout``.
        """
        self._on_best.append(("an action of trial.on_best raised", action))

    def log_model(self, model: Any, example: Any) -> None:
        """Keep a trained model as the artifact ``model``, if its trial is the best so far (:meth:`on_best`).

        It has a signature, an input example and its requirements, so ``mlflow models serve`` can serve it as it is. Of
        several calls, the last one counts. A model that cannot be kept is told like an action that raises.

        Args:
            model: A model of scikit-learn, Keras, XGBoost, LightGBM, CatBoost, PyTorch or Lightning; a pipeline of
                transformers; or a ``PythonModel`` of MLflow.
            example: A few rows of input; the signature is derived from them and from the model's output for them.
        """
        self._on_best = [known for known in self._on_best if known[0] != THE_MODEL]
        try:
            check_kind(model)
        except TypeError as error:  # known before it is known whether the trial is the best
            self._send(NotKept(THE_MODEL, f"TypeError: {error}"))
        else:
            self._on_best.append((THE_MODEL, lambda: self._save_model(model, example)))

    def _save_model(self, model: Any, example: Any) -> None:
        path = self.scratch / "hpo-model"
        save_model(model, path, example)
        self.log_artifact(path, MODEL)

    def log_dataset(self, name: str, features: Any, targets: Any = None) -> None:
        """Record in MLflow which data the trial used. Call it once per trial, however often the data is split.

        It costs one request per trial, and one pass over all of the data for its digest.

        Args:
            name: The dataset's name in MLflow.
            features: An array or a DataFrame, shape ``(n, ...)``.
            targets: Labels or values, shape ``(n,)``; None if there are none.
        """

        self._send(DatasetUsed(describe(name, features, targets)))

    def finish_best(self) -> None:
        """Run the actions of :meth:`on_best`; called by the worker. A trial that was stopped early runs none."""
        tracebacks = []
        for what, action in self._on_best if self._go_on else []:
            try:
                action()
            except (Exception, SystemExit) as error:
                tracebacks.append(traceback.format_exc())
                self._send(NotKept(what, f"{type(error).__name__}: {error}"))
        if tracebacks:
            with contextlib.suppress(OSError):  # a full disk, say; the reasons are told in any case
                note = self.scratch / ON_BEST
                note.write_text("\n".join(tracebacks), encoding="utf-8")
                self.log_artifact(note)

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Log the metrics of one step (an epoch, a fold, a number of trees). MLflow shows them as curves.

        It returns at once: the flow's process writes several steps in one request. Only at the milestones of the
        study's ``early_stop`` does it wait for the rule's decision, and only with the study's metric among ``metrics``:
        one step may be reported in several calls.

        Args:
            step: The step, a whole number; the first is 0.
            metrics: Values by name. Values that are not finite are logged as MLflow keeps them.

        Returns:
            Whether to continue. If not, stop training now and return the current result: the trial is complete at the
            fidelity that it has reached.

        Raises:
            ValueError: A value is not a number, or the step is not a whole number that MLflow can hold.
        """
        step = as_step(step)
        values = as_metrics(metrics)
        milestone = self._due(step) if self._metric is None or self._metric in values else None
        self.reported |= values
        self._send(Report(step, values, milestone))
        if milestone is not None:
            self._go_on = self._answer() and self._go_on
        return self._go_on

    @property
    def goes_on(self) -> bool:
        """Whether to continue; False once :meth:`report` has returned it, or the loop over :meth:`folds` was ended."""
        return self._go_on

    def _due(self, step: int) -> int | None:
        """The milestone to judge at a step, if any. Each is judged once, even if the steps jump over it."""
        if self._milestones is None or not self._go_on:
            return None
        if self._judged < 0:  # the parent trial has passed the milestones before the first report
            self._judged = self._milestones.last(step)
        if (milestone := self._milestones.last(step + 1)) <= self._judged:
            return None
        self._judged = milestone
        return milestone

    def report_hypergradient(self, gradient: Mapping[str, Any]) -> None:
        """Log the derivative of the study's metric by parameters, for the strategy ``gradient``; the last call counts.

        Args:
            gradient: Derivatives by name, on the parameter's raw scale. A number becomes the metric
                ``hypergradient/NAME``. An array, for a hyperparameter outside the search space, becomes the artifact
                ``hypergradient/NAME.npy``, and its norm the metric ``hypergradient_norm/NAME``.

        Raises:
            ValueError: A value is neither a number nor an array of numbers.
        """
        import numpy as np

        metrics: dict[str, Any] = {}
        for name, value in gradient.items():
            if np.ndim(value) == 0:
                metrics[HYPERGRADIENT + name] = value
                continue
            if np.asarray(value).dtype.kind in "US":  # numpy would parse text as a number
                raise ValueError(f"the hypergradient by {name!r} is {value!r:.80}, which is not an array of numbers")
            vector = np.asarray(value, dtype=float)
            metrics[HYPERGRADIENT_NORM + name] = np.linalg.norm(vector)
            file = self.scratch / f"{name.replace('/', '_')}.npy"
            np.save(file, vector)
            self.log_artifact(file, HYPERGRADIENT.rstrip("/"))
        # Each report gets its own step: of two values at one step in one millisecond, MLflow shows the larger.
        self._send(Report(self._hypergradients, as_metrics(metrics)))
        self._hypergradients += 1

    def check_hypergradient(self, returned: Mapping[str, float]) -> None:
        """Check that a hypergradient was logged, by :meth:`report_hypergradient` or among the returned metrics.

        Raises:
            MissingMetric: There is none.
        """
        if not self._hypergradients and not any(name.startswith(HYPERGRADIENT) for name in returned):
            raise MissingMetric(
                "the strategy goes by hypergradients, and the objective gave none; call trial.report_hypergradient, or "
                "choose another strategy"
            )
