"""Lightning on scikit-learn's digits; the callback reports, stops, and goes on from the parent's checkpoint."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import hpo_flows.lightning
from hpo_flows import TrialContext

EPOCHS = 27
"""The study's fidelity.max."""

images, labels = load_digits(return_X_y=True)
X, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


class Network(L.LightningModule):
    """Two dense layers."""

    def __init__(self, units: int, dropout: float, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.layers = nn.Sequential(nn.Linear(64, units), nn.ReLU(), nn.Dropout(dropout), nn.Linear(units, 10))

    def forward(self, batch: Any) -> Any:
        return self.layers(batch)

    def training_step(self, batch: Any) -> Any:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any) -> None:
        logits, target = self(batch[0]), batch[1]
        accuracy = (logits.argmax(1) == target).float().mean()
        self.log_dict({"val_loss": cross_entropy(logits, target), "val_accuracy": accuracy})

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)]


def train(trial: TrialContext) -> dict[str, float]:
    """Train up to ``trial.fidelity`` epochs."""
    L.seed_everything(trial.seed, verbose=False)
    rows, held_out = trial.split(labels, stratify=labels)
    loader = DataLoader(TensorDataset(X[rows], y[rows]), 64, shuffle=True)
    held = DataLoader(TensorDataset(X[held_out], y[held_out]), 512)
    network = Network(**trial.config)

    watch = hpo_flows.lightning.callback(trial)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(max_epochs=EPOCHS, callbacks=[watch], logger=False, accelerator="cpu", **quiet)
    trainer.fit(network, loader, held, ckpt_path=watch.ckpt_path)
    trial.log_dataset("digits", images, labels)
    trial.log_model(network, X[held_out][:5])
    return watch.metrics
