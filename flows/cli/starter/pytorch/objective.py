"""The objective of study.yaml: PyTorch on scikit-learn's digits. Replace data and model by your own."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 9
"""fidelity.max in study.yaml: the schedule of the learning rate is that of a whole training."""

images, labels = load_digits(return_X_y=True)
X, y = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels)


def build(filters: int, dropout: float) -> nn.Module:
    """A small convolutional network."""
    convolution = nn.Conv2d(1, filters, 3, padding=1)
    head = nn.Flatten(), nn.Dropout(dropout), nn.Linear(filters * 16, 10)
    return nn.Sequential(convolution, nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2), *head)


def train(trial: Any) -> dict[str, float]:
    """Train up to ``trial.fidelity`` epochs with the configuration of a trial; return the metrics on held-out images.

    Args:
        trial: A hpo_flows.TrialContext. ``trial.config`` has a value for each parameter of study.yaml,
            ``trial.seed`` is the trial's own seed, ``trial.fidelity`` the number of epochs.
    """
    torch.manual_seed(trial.seed)
    # 20 % of the rows are kept for `final:`, and not seen here.
    rows, held_out = trial.split(labels, stratify=labels)
    loader = DataLoader(TensorDataset(X[rows], y[rows]), 64, shuffle=True)
    model = build(trial.config["filters"], trial.config["dropout"])
    optimizer = torch.optim.AdamW(model.parameters(), trial.config["learning_rate"])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

    metrics: dict[str, float] = {}
    for epoch in trial.epochs(EPOCHS, model=model, optimizer=optimizer, scheduler=scheduler, loader=loader):
        model.train()
        for batch, target in loader:
            optimizer.zero_grad()
            cross_entropy(model(batch), target).backward()
            optimizer.step()
        scheduler.step()
        model.eval()
        with torch.no_grad():
            logits = model(X[held_out])
        loss = cross_entropy(logits, y[held_out]).item()
        metrics = {"val_loss": loss, "val_accuracy": (logits.argmax(1) == y[held_out]).float().mean().item()}
        trial.report(epoch, metrics)
    trial.log_model(model, X[held_out][:5])  # kept in MLflow if this is the best trial so far
    return metrics
