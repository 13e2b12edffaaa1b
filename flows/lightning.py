"""Connects a Lightning training to its trial: reports its epochs, stops it, goes on from the parent's checkpoint.

Lightning is imported in the functions, so that importing this file stays cheap.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.base.extras import require
from hpo_flows.adapters.own_settings import settings_of, with_own_settings
from hpo_flows.adapters.random_states import keeps_workers, own_generators, random_states, restore_random_states
from hpo_flows.adapters.reporting import EpochReporter
from hpo_flows.objectives.context import TrialContext

CHECKPOINT = "training.ckpt"

__all__ = ["LightningCallback", "callback"]


def callback(trial: TrialContext) -> LightningCallback:
    """Make the callback for one training of a trial, by ``Trainer.fit`` of Lightning 2.

    It reports ``trainer.callback_metrics`` at the end of every epoch with a validation. It ends the training at the
    trial's fidelity, which counts epochs, or when a rule of the study says so: ``max_epochs`` stays that of a whole
    training. Its attribute ``ckpt_path`` is the value for ``fit``, and ``metrics`` what to return.

    A ``MLFlowLogger`` logs to the trial's run, too, with ``lightning-`` before the names unless it has another prefix.

    Args:
        trial: The trial.

    Raises:
        ExtraMissing: Lightning is not installed.
    """
    require("lightning", "hpo_flows.lightning.callback")
    from lightning.pytorch import Callback

    made: LightningCallback = type("LightningCallback", (LightningCallback, Callback), {})(trial)
    return made


class LightningCallback(EpochReporter):
    """The callback that :func:`callback` makes; it is one of Lightning's, too."""

    evaluates = "val_dataloaders to fit, and log in validation_step"
    state_key = "hpo_flows"
    """Under which Lightning keeps its state in checkpoints."""

    _validated = False
    _settings: Mapping[str, Any] | None = None
    """What may be hyperparameters in the states of optimizers and schedules, by their keys in a checkpoint."""
    _begun: Mapping[str, Any] | None = None
    """The parent's, if they are to be replaced."""
    _loaded: dict[str, Any] | None = None

    @cached_property
    def ckpt_path(self) -> Path | None:
        """The checkpoint that the training goes on from; None means from scratch."""
        import torch

        folder = self._trial.resume_from
        if folder is None:
            return None
        try:
            # Lightning would unpickle it. What this can read holds nothing but tensors and plain values.
            saved = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
            state = saved["callbacks"][self.state_key]
            self._first = state["epochs"]
            if self._trial.reconfigured:
                self._begun = state["settings"]
        except Exception as error:  # of a damaged file
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            self._trial.scratch_instead(f"the checkpoint cannot be read: {reason}")
            return None
        return folder / CHECKPOINT

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._check_length("max_epochs", trainer.max_epochs)
            if trainer.min_epochs or trainer.min_steps:
                problem = "with it a training goes on that the study has ended"
                raise InputError("min_epochs" if trainer.min_epochs else "min_steps", problem, "leave it out")

    def state_dict(self) -> dict[str, Any]:
        metrics = self._curve.get(self._last, {})
        return {"epochs": self._last + 1, "metrics": metrics, "random": random_states(), "settings": self._settings}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["callbacks"].get(self.state_key)
        if trainer.state.fn == "fit" and state is not None:
            self._last = state["epochs"] - 1
            self._curve[self._last] = state["metrics"]
            restore_random_states(state["random"])  # now, since making the iterator over the batches draws
            self._loaded = checkpoint

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._check_resumed("ckpt_path")
        parts = {"optimizer_states": trainer.optimizers}
        parts["lr_schedulers"] = [each.scheduler for each in trainer.lr_scheduler_configs]
        self._settings = {name: [settings_of(each.state_dict()) for each in made] for name, made in parts.items()}
        if self._loaded is not None and self._begun is not None:
            # Lightning has made the optimizers by now, and restores their states next.
            for name, own in self._settings.items():
                self._loaded[name] = with_own_settings(self._loaded[name], self._begun[name], own)
        self._loaded = None

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        epoch = trainer.current_epoch
        if self._validated or not trainer.enable_validation:
            self._report(epoch, {name: value.item() for name, value in trainer.callback_metrics.items()})
        self._validated = False
        if self._ends_after(epoch):
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        from torch.utils.data import DataLoader

        loaders = trainer.train_dataloader
        for each in loaders if isinstance(loaders, list | tuple) else [loaders]:
            if not isinstance(each, DataLoader) or own_generators(each) or keeps_workers(each):
                return
        if self._ended:
            file = self._trial.scratch / CHECKPOINT
            trainer.save_checkpoint(file)
            self._trial.leave_checkpoint(lambda folder: shutil.move(file, folder / CHECKPOINT))
