"""Connects a training by Hugging Face's Trainer to its trial: reports it, stops it, goes on from its checkpoint.

Transformers is imported in the functions, so that importing this file stays cheap.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.base.extras import require
from hpo_flows.adapters.own_settings import settings_of, with_own_settings
from hpo_flows.adapters.random_states import random_states, restore_random_states
from hpo_flows.adapters.reporting import EpochReporter
from hpo_flows.objectives.context import TrialContext

STATE = "trainer_state.json"

PARTS = {"optimizer.pt": "optimizer", "scheduler.pt": "lr_scheduler"}
"""The files with the states of optimizer and schedule, and their names among a callback's arguments."""

SETTINGS = "hpo_settings.pt"

PICKLES = ("training_args.bin",)
"""What a checkpoint has beside tensors and plain values; no training that goes on reads it."""

SPEED = ("_runtime", "_per_second", "_time")
"""How names of metrics end that measure the machine."""

__all__ = ["TransformersCallback", "callback"]


def callback(trial: TrialContext) -> TransformersCallback:
    """Make the callback for one training of a trial, by the ``Trainer`` of Hugging Face's Transformers.

    It reports the metrics of every evaluation. It ends the training at the trial's fidelity, or when a rule of the
    study says so: ``num_train_epochs`` stays that of a whole training. The fidelity counts epochs, or steps if you give
    ``max_steps``. Its attribute ``resume_from_checkpoint`` is the value for ``train``, and ``metrics`` what to return.

    Transformers' own MLflow callback (``report_to="mlflow"``) logs to the trial's run, too, all but the evaluations.

    Args:
        trial: The trial.

    Raises:
        ExtraMissing: Transformers or Accelerate is not installed.
    """
    for package in ("transformers", "accelerate"):
        require(package, "hpo_flows.transformers.callback")
    from transformers import TrainerCallback

    _leave_evaluations_to_the_trial()
    made: TransformersCallback = type("TransformersCallback", (TransformersCallback, TrainerCallback), {})(trial)
    return made


class TransformersCallback(EpochReporter):
    """The callback that :func:`callback` makes; it is one of Transformers', too."""

    evaluates = 'eval_dataset to Trainer, and eval_strategy="epoch"'

    _trains = False
    _counts_steps = False
    _settings: dict[str, Any] | None = None
    """What may be hyperparameters in the states of optimizer and schedule; before the training those of the parent."""
    _before_evaluation: dict[str, Any] | None = None

    @cached_property
    def resume_from_checkpoint(self) -> str | None:
        """The folder of the checkpoint that the training goes on from; None means from scratch."""
        import torch

        folder = self._trial.resume_from
        if folder is None:
            return None
        try:
            state = _read(folder)
            if (begun := folder / SETTINGS).exists() or self._trial.reconfigured:
                self._settings = torch.load(begun, weights_only=True)
        except Exception as error:  # of a damaged file
            self._trial.scratch_instead(f"the checkpoint cannot be read: {type(error).__name__}: {error}")
            return None
        self._first = state["global_step"]
        if self._trial.reconfigured:  # the Trainer then leaves the optimizer as it makes it
            own = self._trial.scratch / "parent"
            shutil.copytree(folder, own, ignore=shutil.ignore_patterns(*PARTS))
            return str(own)
        return str(folder)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._counts_steps = args.max_steps > 0
        if not self._counts_steps:
            self._check_length("num_train_epochs", args.num_train_epochs)
            if args.eval_strategy == "steps":
                raise InputError(
                    "eval_strategy",
                    "it evaluates after steps, and the training's length is in epochs",
                    'give eval_strategy="epoch", or max_steps',
                )
        else:
            self._check_length("max_steps", args.max_steps)
        self._last = state.global_step - 1
        self._check_resumed("resume_from_checkpoint")
        self._own_settings(given)

    def _own_settings(self, given: Mapping[str, Any]) -> None:
        """Note what may be hyperparameters; give the optimizer and the schedule their parents' states with them."""
        if self._settings and not self._trial.reconfigured:
            return  # the states are the parent's, and so is what they began with
        parts = {file: given[name] for file, name in PARTS.items()}
        begun, self._settings = self._settings, {file: settings_of(part.state_dict()) for file, part in parts.items()}
        if begun:
            import torch

            assert self._trial.resume_from is not None
            for file, part in parts.items():
                saved = torch.load(self._trial.resume_from / file, map_location="cpu", weights_only=True)
                part.load_state_dict(with_own_settings(saved, begun[file], self._settings[file]))

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._trains = True
        if self._counts_steps and self._reaches_fidelity(state.global_step - 1):
            if args.eval_strategy != "no" and not control.should_evaluate:
                # A training that does not pause here does not evaluate here, and evaluating draws.
                self._before_evaluation = random_states()
                control.should_evaluate = True
            self._end(args, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if not self._counts_steps and self._reaches_fidelity(round(state.epoch) - 1):
            self._end(args, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, Any], **given: Any) -> None:
        step = (state.global_step if self._counts_steps else round(state.epoch)) - 1
        if self._before_evaluation is not None:  # once for each of several data sets
            restore_random_states(self._before_evaluation)
        if not self._trains:  # before the first step, or by the user after the training
            return
        logged = {name: value for name, value in metrics.items() if name != "epoch" and not name.endswith(SPEED)}
        self._report(step, logged)
        if self._ends_after(step):
            self._end(args, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._trains, self._before_evaluation = False, None

    def _end(self, args: Any, control: Any) -> None:
        control.should_training_stop = True
        control.should_save = self._trial.fidelity is not None and not args.save_only_model

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self._ended and control.should_training_stop:
            saved = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._trial.leave_checkpoint(lambda folder: self._copy(saved, folder))

    def _copy(self, saved: Path, folder: Path) -> None:
        import torch

        shutil.copytree(saved, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*PICKLES))
        torch.save(self._settings, folder / SETTINGS)


def _leave_evaluations_to_the_trial() -> None:
    """Have Transformers' MLflow callback leave out evaluations, which are reported: it counts other steps."""
    from transformers.integrations import INTEGRATION_TO_CALLBACK, MLflowCallback

    class Training(MLflowCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **given: Any) -> None:
            logs = {name: value for name, value in logs.items() if not name.startswith("eval_")}
            super().on_log(args, state, control, logs, **given)

    if INTEGRATION_TO_CALLBACK["mlflow"] is MLflowCallback:
        INTEGRATION_TO_CALLBACK["mlflow"] = Training


def _read(folder: Path) -> dict[str, Any]:
    """The trainer's state in a checkpoint.

    Raises:
        Exception: It, or a file beside it, is damaged.
    """
    from safetensors import safe_open

    for file in folder.iterdir():
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                pass
        elif file.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(file):
            raise ValueError(f"{file.name} is not a PyTorch file")
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return state
