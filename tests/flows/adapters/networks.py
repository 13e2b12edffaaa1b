"""Objectives of PyTorch, Lightning and Transformers, as their users write them: for the contract of the adapters."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import hpo_flows.lightning
import hpo_flows.transformers
from hpo_flows.objectives.context import TrialContext

EPOCHS = 9


@cache
def data() -> tuple[Any, Any]:
    """Rows to train on and rows to evaluate on, with their labels, as data sets."""
    import torch
    from torch.utils.data import TensorDataset

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(120, 6, generator=generator)
    y = (2 * X[:, 0] + X[:, 1] * X[:, 2] > 0).long()
    return TensorDataset(X[:80], y[:80]), TensorDataset(X[80:], y[80:])


def network() -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


def torch_loop(trial: TrialContext) -> dict[str, float]:
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader

    torch.manual_seed(trial.seed)
    train, valid = data()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 * trial.config["rate"])  # type: ignore[operator]
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    generator = torch.Generator().manual_seed(trial.seed)
    loader = DataLoader(train, 16, shuffle=True, generator=generator)

    metrics: dict[str, float] = {}
    for epoch in trial.epochs(5, model=model, optimizer=optimizer, scheduler=scheduler, loader=loader):
        model.train()
        for X, y in loader:
            optimizer.zero_grad()
            cross_entropy(model(X), y).backward()
            optimizer.step()
        if trial.config["evaluate"]:
            model.eval()
            X, y = valid.tensors
            with torch.no_grad():
                metrics = {"val_loss": cross_entropy(model(X), y).item(), "rate": scheduler.get_last_lr()[0]}
            trial.report(epoch, metrics)
        scheduler.step()
    torch.rand(3)
    with torch.no_grad():
        next(model.parameters()).zero_()  # what is done after the loop is not part of the training
    return metrics


def lightning(trial: TrialContext, forgets: bool = False, **more: Any) -> dict[str, float]:
    import lightning as L
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader

    class Model(L.LightningModule):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.network = network()

        def training_step(self, batch: Any, number: int) -> Any:
            X, y = batch
            loss = cross_entropy(self.network(X), y)
            if trial.config["evaluate"]:
                rate = self.optimizers().param_groups[0]["lr"]
                self.log_dict({"train_loss": loss, "rate": rate}, on_epoch=True, on_step=False)
            return loss

        def validation_step(self, batch: Any, number: int) -> None:
            X, y = batch
            self.log("val_loss", cross_entropy(self.network(X), y))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), self.hparams["rate"])
            steps = int(self.trainer.estimated_stepping_batches)
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams["rate"], steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")  # Lightning's own use of PyTorch
    warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
    L.seed_everything(trial.seed, verbose=False)
    train, valid = data()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "default_root_dir": trial.scratch} | more

    watch = hpo_flows.lightning.callback(trial)
    quiet = {"max_epochs": EPOCHS if trial.fidelity is not None else 5} | quiet
    trainer = L.Trainer(callbacks=[watch, *quiet.pop("callbacks", [])], **quiet)
    loaders = DataLoader(train, 16, shuffle=True), DataLoader(valid, 16) if trial.config["evaluate"] else None
    checkpoint = watch.ckpt_path
    trainer.fit(Model(0.1 * trial.config["rate"]), *loaders, ckpt_path=None if forgets else checkpoint)  # type: ignore[operator]
    return watch.metrics


def transformers(trial: TrialContext, forgets: bool = False, sets: Sequence[str] = (), **more: Any) -> dict[str, float]:
    import transformers as hf

    train, valid = ([{"input_ids": row, "labels": row} for row in _words(each)] for each in data())
    hf.set_seed(trial.seed)
    size = {"vocab_size": 16, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    model = hf.GPT2LMHeadModel(hf.GPT2Config(**size, bos_token_id=0, eos_token_id=0))

    watch = hpo_flows.transformers.callback(trial)
    arguments = {
        "learning_rate": 0.1 * trial.config["rate"],  # type: ignore[operator]
        "num_train_epochs": EPOCHS if trial.fidelity is not None else 5,
        "per_device_train_batch_size": 16,
        "eval_strategy": "epoch" if trial.config["evaluate"] else "no",
        "save_strategy": "no",
        "seed": trial.seed,
        "use_cpu": True,
        "disable_tqdm": True,
    } | more
    args = hf.TrainingArguments(str(trial.scratch / "trainer"), **arguments)
    data_sets = {"train_dataset": train, "eval_dataset": {name: valid for name in sets} or valid}
    trainer = hf.Trainer(model, args, **data_sets, callbacks=[watch], compute_metrics=lambda predicted: rate())

    def rate() -> dict[str, float]:
        return {"rate": trainer.lr_scheduler.get_last_lr()[0]}

    checkpoint = watch.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=None if forgets else checkpoint)
    return watch.metrics


def _words(rows: Any) -> Any:
    """Sentences of 8 words that count up from one that the first feature tells."""
    import torch

    first = rows.tensors[0][:, :1].abs().mul(5).long()
    return (first + torch.arange(8)) % 16
