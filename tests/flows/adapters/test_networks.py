"""What PyTorch, Lightning and Transformers promise beyond the contract: what leaves nothing, and what is told."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from hpo_core.base.errors import InputError
from hpo_core.base.extras import is_installed
from hpo_core.tracking.connection import connect
from hpo_core.tracking.mlflow_store import MlflowStore
from hpo_core.tracking.trial_run import TrialRun, joined
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.messages import Failed
from tests.flows.adapters import networks
from tests.flows.adapters.contract import NETWORKS, Trained, Training
from tests.flows.adapters.contract import training as training
from tests.snippets import a_trial

HERE = "tests.flows.adapters.test_networks"


def needs(package: str) -> Any:
    skip = pytest.mark.skipif(not is_installed(package), reason=f"{package} is not installed")
    return lambda test: pytest.mark.slow(skip(test))


def left(trained: Trained) -> list[Path]:
    return [path for path in trained.checkpoint.rglob("*")] if trained.checkpoint.exists() else []


def why(trained: Trained) -> str:
    assert isinstance(trained.outcome, Failed) and trained.outcome.blamed_key, trained.outcome
    return trained.outcome.reason


@dataclass
class OneRun:
    """A trial's run, to which what is trained in the context logs by MLflow itself, and afterwards what it has."""

    store: MlflowStore
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __enter__(self) -> OneRun:
        experiment = self.store.experiment("study", create=True)
        assert experiment is not None
        self._run = TrialRun(self.store.uri, self.store.create_run(experiment, "study-0000", {}).id, experiment, {})
        self._joined = joined(self._run)
        self._joined.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._joined.__exit__(*error)
        (found,) = MlflowClient(self.store.uri).search_runs(
            [each.experiment_id for each in MlflowClient(self.store.uri).search_experiments()]
        )
        assert found.info.run_id == self._run.id and found.info.status == "RUNNING"
        self.params, self.metrics = found.data.params, found.data.metrics


@pytest.fixture
def one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OneRun]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(None)
    monkeypatch.chdir(tmp_path)
    yield OneRun(connect(f"sqlite:///{tmp_path}/mlflow.db"))
    mlflow.set_tracking_uri(before)


# -- PyTorch ------------------------------------------------------------------------------------------------------


def leaves(trial: TrialContext) -> float:
    """As one who stops by patience."""
    for epoch in trial.epochs(model=networks.network()):
        trial.report(epoch, {"loss": 1.0})
        if epoch == 1:
            break
    return 1.0


def keeps_workers(trial: TrialContext) -> float:
    from torch.utils.data import DataLoader

    loader = DataLoader(networks.data()[0], num_workers=1, persistent_workers=True)
    for epoch in trial.epochs(model=networks.network(), loader=loader):
        trial.report(epoch, {"loss": 1.0})
    return 1.0


def draws(trial: TrialContext) -> float:
    """Whatever can draw, and a scheduler with a memory."""
    import random

    import numpy as np
    import torch

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(trial.seed)
    model, generator = networks.network(), torch.Generator().manual_seed(trial.seed)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    value = 0.0
    parts = {"optimizer": optimizer, "plateau": plateau, "generator": generator, "nothing": None}
    for epoch in trial.epochs(model=model, **parts):
        drawn = random.random() + np.random.random() + torch.rand(1).item() + torch.rand(1, generator=generator).item()
        value = drawn + optimizer.param_groups[0]["lr"]
        plateau.step(1.0)
        trial.report(epoch, {"loss": value})
    return value


@needs("torch")
def test_a_loop_that_is_left_leaves_nothing(training: Training) -> None:
    trained = training(f"{HERE}:leaves", "loss", fidelity=9)
    assert list(trained.curve) == [0, 1] and not left(trained)


@needs("torch")
def test_workers_that_stay_leave_nothing(training: Training) -> None:
    assert not left(training(f"{HERE}:keeps_workers", "loss", fidelity=1))


@needs("torch")
def test_everything_that_draws_goes_on(training: Training) -> None:
    whole = training(f"{HERE}:draws", "loss", fidelity=9)
    part = training(f"{HERE}:draws", "loss", fidelity=4)
    rest = training(f"{HERE}:draws", "loss", fidelity=9, resume=part.checkpoint)
    assert part.curve | rest.curve == whole.curve and list(rest.curve) == [4, 5, 6, 7, 8]


SCHEDULES: dict[str, Any] = {
    "none": lambda of, at, gamma: at.LambdaLR(of, lambda epoch: 1.0),
    "step": lambda of, at, gamma: at.StepLR(of, 2, gamma),
    "milestones": lambda of, at, gamma: at.MultiStepLR(of, [2, 5], gamma),
    "exponential": lambda of, at, gamma: at.ExponentialLR(of, gamma),
    "cosine": lambda of, at, gamma: at.CosineAnnealingLR(of, 9),
    "one cycle": lambda of, at, gamma: at.OneCycleLR(of, of.param_groups[0]["lr"], 10),
    "warm-up": lambda of, at, gamma: at.SequentialLR(
        of, [at.LinearLR(of, 0.1, total_iters=2), at.ExponentialLR(of, gamma)], [3]
    ),
    "plateau": lambda of, at, gamma: at.ReduceLROnPlateau(of, factor=gamma, patience=0),
}


def schedules(trial: TrialContext) -> float:
    """A schedule by its name, with a momentum that is the learning rate's complement."""
    import torch

    rate = float(trial.config["rate"])  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(networks.network().parameters(), rate, momentum=1 - rate, weight_decay=rate)
    made = SCHEDULES[str(trial.config["schedule"])]
    scheduler = made(optimizer, torch.optim.lr_scheduler, float(trial.config["gamma"]))  # type: ignore[arg-type]
    for epoch in trial.epochs(scheduler=scheduler, optimizer=optimizer):
        group = optimizer.param_groups[0]
        told = {name: group[name] for name in ("lr", "momentum", "weight_decay")}
        trial.report(epoch, {"loss": 1.0, "told": scheduler.get_last_lr()[0], **told})
        optimizer.step()
        scheduler.step(*([1.0] if trial.config["schedule"] == "plateau" else []))
    return 1.0


@needs("torch")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_goes_on_with_the_trials_own_rate(schedule: str, training: Training) -> None:
    given: dict[str, Any] = {"objective": f"{HERE}:schedules", "metric": "loss", "schedule": schedule, "gamma": 0.5}
    parent, own = training(**given, rate=0.4, fidelity=4), training(**given, rate=0.1)
    rest = training(**given, rate=0.1, resume=parent.checkpoint, parent={"rate": 0.4})
    assert list(rest.curve) == [4, 5, 6, 7, 8] and not rest.use.scratch_instead
    for name in ("lr", "told", "momentum", "weight_decay"):
        rates = own.losses(name)
        assert rest.losses(name) == pytest.approx({step: rates[step] for step in rest.curve}, rel=1e-9), name


@needs("torch")
@pytest.mark.parametrize("schedule", ["step", "exponential", "warm-up", "plateau"])
def test_a_schedule_goes_on_with_the_trials_own_settings(schedule: str, training: Training) -> None:
    given: dict[str, Any] = {"objective": f"{HERE}:schedules", "metric": "loss", "schedule": schedule, "rate": 0.4}
    parent = training(**given, gamma=0.5, fidelity=4)
    same = training(**given, gamma=0.5, fidelity=5, resume=parent.checkpoint).losses("lr")
    rest = training(**given, gamma=0.9, resume=parent.checkpoint, parent={"gamma": 0.5}).losses("lr")
    assert rest[4] == same[4], "what was, was"
    assert rest[8] / rest[6] == pytest.approx(0.9 if schedule == "step" else 0.81)


@needs("torch")
def test_an_optimizer_of_another_kind_trains_from_scratch(training: Training) -> None:
    parent = training(f"{NETWORKS}:torch_loop", "val_loss", fidelity=3)
    trained = training(f"{HERE}:other_optimizer", "loss", fidelity=5, resume=parent.checkpoint, parent={"rate": 0.1})
    assert list(trained.curve) == [0, 1, 2, 3, 4] and "of another kind" in trained.use.scratch_instead


def other_optimizer(trial: TrialContext) -> float:
    import torch
    from torch.utils.data import DataLoader

    model = networks.network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    loader = DataLoader(networks.data()[0], generator=torch.Generator())
    for epoch in trial.epochs(model=model, optimizer=optimizer, scheduler=scheduler, loader=loader):
        trial.report(epoch, {"loss": 1.0})
    return 1.0


@needs("torch")
def test_a_checkpoint_of_other_parts_changes_nothing(training: Training) -> None:
    scratch = training(f"{NETWORKS}:torch_loop", "val_loss", fidelity=3)
    other = training(f"{HERE}:draws", "loss", fidelity=2)
    trained = training(f"{NETWORKS}:torch_loop", "val_loss", fidelity=3, resume=other.checkpoint)
    assert "this training ['loader', 'model'" in trained.use.scratch_instead and trained.curve == scratch.curve


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


@needs("torch")
def test_what_is_pickled_in_a_checkpoint_is_not_run(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"parts": Evil()}, tmp_path / "training.pt", pickle_module=pickle)
    trained = training(f"{HERE}:draws", "loss", fidelity=2, resume=tmp_path)
    assert "checkpoint" in trained.use.scratch_instead and not (tmp_path / "evil").exists()


@needs("torch")
def test_mistakes_in_the_parts_are_told(tmp_path: Path) -> None:
    trial = a_trial(tmp_path)
    with pytest.raises(InputError, match="model: a function has no state_dict and is no DataLoader"):
        trial.epochs(3, model=leaves)
    with pytest.raises(InputError, match="epochs: the study has no fidelity to set them"):
        trial.epochs(model=networks.network())
    assert list(trial.epochs(3, model=networks.network())) == [0, 1, 2]


# -- Lightning ----------------------------------------------------------------------------------------------------


def lightning_forgets(trial: TrialContext) -> dict[str, float]:
    return networks.lightning(trial, forgets=True)


def lightning_short(trial: TrialContext) -> dict[str, float]:
    return networks.lightning(trial, max_epochs=2)


def lightning_long(trial: TrialContext) -> dict[str, float]:
    return networks.lightning(trial, min_epochs=5)


def lightning_logs(trial: TrialContext) -> dict[str, float]:
    from lightning.pytorch.loggers import MLFlowLogger

    return networks.lightning(trial, logger=MLFlowLogger(), log_every_n_steps=5)


def lightning_early(trial: TrialContext) -> dict[str, float]:
    from lightning.pytorch.callbacks import EarlyStopping

    return networks.lightning(trial, callbacks=[EarlyStopping("val_loss", min_delta=100.0, patience=2)])


@needs("lightning")
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("short", "max_epochs: it is 2, and the trial's fidelity is 4; give the study's fidelity.max"),
        ("long", "min_epochs: with it a training goes on that the study has ended; leave it out"),
    ],
)
def test_mistakes_with_lightning_are_told(kind: str, told: str, training: Training) -> None:
    assert told in why(training(f"{HERE}:lightning_{kind}", "val_loss", fidelity=4))


@needs("lightning")
@pytest.mark.filterwarnings("ignore")  # Lightning's, of num_workers and of PyTorch
def test_lightnings_mlflow_logger_logs_to_the_trials_run(training: Training, one_run: OneRun) -> None:
    with one_run as found:
        training(f"{HERE}:lightning_logs", "val_loss", fidelity=2)
    assert found.params["rate"] and {
        "lightning-train_loss",
        "lightning-rate",
        "lightning-val_loss",
        "lightning-epoch",
    } == set(found.metrics)


@needs("lightning")
def test_a_checkpoint_that_lightning_is_not_given_is_told(training: Training) -> None:
    part = training(f"{NETWORKS}:lightning", "val_loss", fidelity=1)
    failed = training(f"{HERE}:lightning_forgets", "val_loss", fidelity=3, resume=part.checkpoint)
    assert why(failed).endswith("give ckpt_path=callback.ckpt_path")


@needs("lightning")
def test_lightnings_own_early_stopping_leaves_nothing(training: Training) -> None:
    trained = training(f"{HERE}:lightning_early", "val_loss", fidelity=9)
    assert list(trained.curve) == [0, 1, 2] and not left(trained)


# -- Transformers -------------------------------------------------------------------------------------------------


def transformers_steps(trial: TrialContext) -> dict[str, float]:
    return networks.transformers(trial, max_steps=12, eval_strategy="steps", eval_steps=3)


def transformers_forgets(trial: TrialContext) -> dict[str, float]:
    return networks.transformers(trial, forgets=True)


def transformers_short(trial: TrialContext) -> dict[str, float]:
    return networks.transformers(trial, num_train_epochs=2)


def transformers_mixes(trial: TrialContext) -> dict[str, float]:
    return networks.transformers(trial, eval_strategy="steps", eval_steps=3)


def transformers_logs(trial: TrialContext) -> dict[str, float]:
    return networks.transformers(trial, report_to=trial.config["to"])


@needs("transformers")
def test_a_fidelity_of_steps_goes_on_in_the_middle_of_an_epoch(training: Training) -> None:
    whole = training(f"{HERE}:transformers_steps", "eval_loss", fidelity=12)
    assert list(whole.curve) == [2, 5, 8, 11]
    part = training(f"{HERE}:transformers_steps", "eval_loss", fidelity=4)
    assert list(part.curve) == [2, 3], "it is evaluated at the end, whatever eval_steps is"
    rest = training(f"{HERE}:transformers_steps", "eval_loss", fidelity=12, resume=part.checkpoint)
    assert list(rest.curve) == [5, 8, 11]
    assert rest.losses("eval_loss") == pytest.approx({k: whole.losses("eval_loss")[k] for k in (5, 8, 11)}, rel=1e-6)


@needs("transformers")
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("short", "num_train_epochs: it is 2, and the trial's fidelity is 4; give the study's fidelity.max"),
        ("mixes", "eval_strategy: it evaluates after steps, and the training's length is in epochs; give"),
    ],
)
def test_mistakes_with_transformers_are_told(kind: str, told: str, training: Training) -> None:
    assert told in why(training(f"{HERE}:transformers_{kind}", "eval_loss", fidelity=4))


def transformers_sets(trial: TrialContext) -> dict[str, float]:
    return networks.transformers(trial, sets=("first", "second"))


def transformers_sets_and_steps(trial: TrialContext) -> dict[str, float]:
    return networks.transformers(
        trial, sets=("first", "second"), max_steps=12, eval_strategy="steps", eval_steps=3, eval_on_start=True
    )


@needs("transformers")
@pytest.mark.parametrize("metric", ["eval_first_loss", "eval_second_loss"])
def test_every_evaluated_data_set_is_reported(metric: str, training: Training) -> None:
    """And the training is judged by the metric of any."""
    trained = training(f"{HERE}:transformers_sets", metric, fidelity=9, stop_after=2)
    names = {f"eval_{data}_{name}" for data in ("first", "second") for name in ("loss", "rate")}
    assert [set(metrics) for metrics in trained.curve.values()] == [names, names], trained.outcome
    assert set(trained.metrics) == names


@needs("transformers")
def test_evaluating_several_data_sets_changes_no_training(training: Training) -> None:
    objective, metric = f"{HERE}:transformers_sets_and_steps", "eval_second_loss"
    whole, part = training(objective, metric, fidelity=12), training(objective, metric, fidelity=4)
    rest = training(objective, metric, fidelity=12, resume=part.checkpoint)
    assert list(rest.curve) == [5, 8, 11]
    assert rest.losses(metric) == pytest.approx({step: whole.losses(metric)[step] for step in rest.curve}, rel=1e-6)


@needs("transformers")
def test_a_checkpoint_that_transformers_is_not_given_is_told(training: Training) -> None:
    part = training(f"{NETWORKS}:transformers", "eval_loss", fidelity=1)
    assert not list(part.checkpoint.glob("training_args.bin")), "it is a pickle"
    failed = training(f"{HERE}:transformers_forgets", "eval_loss", fidelity=2, resume=part.checkpoint)
    assert why(failed).endswith("give resume_from_checkpoint=callback.resume_from_checkpoint")


@needs("transformers")
@pytest.mark.parametrize("to", ["all", "mlflow"])
def test_transformers_mlflow_callback_logs_to_the_trials_run(to: str, training: Training, one_run: OneRun) -> None:
    with one_run as found:
        training(f"{HERE}:transformers_logs", "eval_loss", fidelity=1, to=to)
    assert found.params["n_head"] == "2" and "train_loss" in found.metrics
    assert not any(name.startswith("eval_") for name in found.metrics), "they are reported"


# -- two ranks ----------------------------------------------------------------------------------------------------


@needs("torch")
def test_two_ranks_go_on_and_end_together(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # so that it is put back
    given: dict[str, Any] = {"objective": "examples.torch_ranks:train", "metric": "val_loss", "units": 16}
    given["learning_rate"] = 0.01
    whole = training(**given, fidelity=4)
    part = training(**given, fidelity=9, stop_after=2)
    assert list(part.curve) == [0, 1] and not multiprocessing.active_children()
    rest = training(**given, fidelity=4, resume=part.checkpoint)
    losses = part.losses("val_loss") | rest.losses("val_loss")
    assert list(rest.curve) == [2, 3] and losses == pytest.approx(whole.losses("val_loss"), rel=1e-6)
