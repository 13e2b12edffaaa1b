"""One training on two processes (DistributedDataParallel) on scikit-learn's digits; rank 0 has the trial, and reports.

The ranks meet at a file in the trial's own folder. With a port, trials side by side would meet each other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from hpo_flows import TrialContext

EPOCHS, RANKS = 9, 2

images, labels = load_digits(return_X_y=True)
X, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


class Rank:
    """One process of a training: its part of the rows, the model and the optimizer."""

    def __init__(self, rank: int, meeting: str, config: Mapping[str, Any], seed: int, rows: Any) -> None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.rank, self.seed, self.rows = rank, seed, torch.as_tensor(rows)
        self.model = nn.Sequential(nn.Linear(64, config["units"]), nn.ReLU(), nn.Dropout(0.2), nn.LazyLinear(10))
        self.model(X[:1])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), config["learning_rate"])

    def agree(self) -> None:
        """Give rank 0's state, which the trial may have gone on from, to all."""
        states = [self.model.state_dict(), self.optimizer.state_dict()]
        dist.broadcast_object_list(states, src=0)
        self.model.load_state_dict(states[0])
        self.optimizer.load_state_dict(states[1])
        self.shared = DistributedDataParallel(self.model)

    def train(self, epoch: int) -> None:
        """Train one epoch, on this rank's part of every batch."""
        shuffle = torch.Generator().manual_seed(self.seed + epoch)
        torch.manual_seed(self.seed + RANKS * epoch + self.rank)  # so that dropout goes on as in one training
        self.shared.train()
        for batch in self.rows[torch.randperm(len(self.rows), generator=shuffle)].split(64 * RANKS)[:-1]:
            mine = batch[self.rank :: RANKS]
            self.optimizer.zero_grad()
            cross_entropy(self.shared(X[mine]), y[mine]).backward()
            self.optimizer.step()


def follow(child: int, *given: Any) -> None:
    """What the other ranks do: train each epoch that rank 0 names, until there is none."""
    rank = Rank(child + 1, *given)
    rank.agree()
    while (epoch := told(-1)) >= 0:
        rank.train(epoch)
    dist.destroy_process_group()


def told(epoch: int) -> int:
    """The epoch that rank 0 has named: to be trained by all, or -1 if the training has ended."""
    message = torch.tensor(epoch)
    dist.broadcast(message, src=0)
    return int(message)


def train(trial: TrialContext) -> dict[str, float]:
    """Train up to ``trial.fidelity`` epochs, as rank 0."""
    rows, held_out = trial.split(labels, stratify=labels)
    given = str(trial.scratch / "meeting"), dict(trial.config), trial.seed, rows
    others = mp.start_processes(follow, given, RANKS - 1, join=False)
    rank = Rank(0, *given)
    epochs = trial.epochs(EPOCHS, model=rank.model, optimizer=rank.optimizer)
    rank.agree()

    metrics: dict[str, float] = {}
    for epoch in epochs:
        rank.train(told(epoch))
        rank.model.eval()
        with torch.no_grad():
            logits = rank.model(X[held_out])
        accuracy = (logits.argmax(1) == y[held_out]).float().mean().item()
        metrics = {"val_loss": cross_entropy(logits, y[held_out]).item(), "val_accuracy": accuracy}
        trial.report(epoch, metrics)
    told(-1)
    dist.destroy_process_group()
    while not others.join():
        pass
    return metrics
