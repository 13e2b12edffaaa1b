"""The adapters that the contract holds for, and one training of any of them in this process, as a worker runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.extras import is_installed
from hpo_core.selection.milestones import Milestones
from hpo_flows.objectives.messages import Done, Failed, Report, Use
from hpo_flows.objectives.reference import Objective
from hpo_flows.workers.attempt import Attempt, train
from hpo_flows.workers.job import Job

ROOT = Path(__file__).parents[3]


NOTHING = "metrics: the training evaluated nothing; give "


@dataclass(frozen=True)
class Adapter:
    """One way to use one library.

    The objective trains up to ``trial.fidelity`` on data that it makes, with dropout, sampled rows or whatever else is
    drawn at random in its library, by the learning rate ``trial.config["rate"]`` (0.1 to 0.5) and the seed
    ``trial.seed``. Its loss falls with each step. If ``trial.config["evaluate"]`` is False, it evaluates nothing.

    Args:
        name: In the tests' ids.
        module: Below ``hpo_flows``.
        objective: ``module:function``.
        metric: What it minimises, reported at every step and returned.
        needs: The packages, by import name, that its objective needs.
        missing: What is said of a training that evaluates nothing.
        slow: Whether its tests are.
        rate: The metric that tells the learning rate of each step, where a schedule changes it; empty if none does.
        tolerance: How far a continued training may be from an uninterrupted one, as a share of the value.
    """

    name: str
    module: str
    objective: str
    metric: str
    needs: tuple[str, ...]
    missing: str = NOTHING
    slow: bool = False
    rate: str = ""
    tolerance: float = 1e-6


LEARNS = "the objective returned no 'validation-Logloss' but ['learn-Logloss']"
RETURNS = "the objective returned no 'val_loss' but []"
BOOSTING, NETWORKS = "tests.flows.adapters.boosting", "tests.flows.adapters.networks"
HUGGING_FACE = ("transformers", "accelerate")

ADAPTERS = [
    Adapter("xgboost", "xgboost", f"{BOOSTING}:xgboost_native", "valid-logloss", ("xgboost",)),
    Adapter("xgboost sklearn", "xgboost", f"{BOOSTING}:xgboost_sklearn", "validation_0-logloss", ("xgboost",)),
    Adapter("lightgbm", "lightgbm", f"{BOOSTING}:lightgbm_native", "valid-binary_logloss", ("lightgbm",)),
    Adapter("lightgbm sklearn", "lightgbm", f"{BOOSTING}:lightgbm_sklearn", "valid_0-binary_logloss", ("lightgbm",)),
    Adapter("catboost", "catboost", f"{BOOSTING}:catboost_sklearn", "validation-Logloss", ("catboost",), LEARNS),
    Adapter("torch", "torch", f"{NETWORKS}:torch_loop", "val_loss", ("torch",), RETURNS, True, "rate"),
    Adapter("lightning", "lightning", f"{NETWORKS}:lightning", "val_loss", ("lightning",), NOTHING, True, "rate"),
    Adapter(
        "transformers",
        "transformers",
        f"{NETWORKS}:transformers",
        "eval_loss",
        HUGGING_FACE,
        NOTHING,
        True,
        "eval_rate",
    ),
]


def each_adapter() -> Any:
    """Parametrises a test by the adapters; those whose library is not installed are skipped."""
    return pytest.mark.parametrize(
        "adapter", [pytest.param(each, id=each.name, marks=_marks(each)) for each in ADAPTERS]
    )


def _marks(adapter: Adapter) -> list[Any]:
    marks: list[Any] = [pytest.mark.slow] if adapter.slow else []
    if absent := [package for package in adapter.needs if not is_installed(package)]:
        marks.append(pytest.mark.skip(reason=f"{' and '.join(absent)} is not installed"))
    return marks


@dataclass
class Trained:
    """What came of one training.

    Attributes:
        outcome: As the worker sends it.
        curve: The metrics of each step, in the order of the reports.
        use: What the objective used of its trial.
        checkpoint: The folder of what it left; it may be absent.
    """

    checkpoint: Path
    outcome: Done | Failed = field(default_factory=lambda: Failed("it never ended"))
    curve: dict[int, dict[str, float]] = field(default_factory=dict)
    use: Use = field(default_factory=Use)

    @property
    def metrics(self) -> dict[str, float]:
        assert isinstance(self.outcome, Done), self.outcome
        return dict(self.outcome.metrics)

    def losses(self, metric: str) -> dict[int, float]:
        return {step: metrics[metric] for step, metrics in self.curve.items()}


@dataclass(frozen=True)
class Training:
    """Trains in this process, each time in a folder of its own below ``folder``."""

    folder: Path

    def __call__(
        self,
        objective: str,
        metric: str,
        *,
        fidelity: float | None = 9,
        resume: Path | None = None,
        parent: Mapping[str, Any] | None = None,
        seed: int = 11,
        stop_after: int | None = None,
        **config: Any,
    ) -> Trained:
        """Train once.

        Args:
            objective, metric: As an :class:`Adapter` has them.
            fidelity: The trial's.
            resume: The checkpoint of the parent trial.
            parent: How the parent's configuration differs from this trial's.
            seed: The trial's.
            stop_after: After how many steps a rule of early stopping ends the training; None for none.
            config: Changes the configuration ``rate: 0.3, evaluate: True``.
        """
        config = {"rate": 0.3, "evaluate": True} | config
        place = self.folder / str(len(list(self.folder.iterdir())))
        trained = Trained(place / "outbox" / "checkpoint")
        sent: list[Any] = []
        reference = Objective(objective, (str(ROOT),))
        milestones = None if stop_after is None else Milestones(stop_after, every=10**6)
        job = Job(
            reference,
            {metric: 1},
            config,
            0,
            seed,
            fidelity,
            place,
            resume,
            None if parent is None else config | parent,
            milestones=milestones,
        )
        attempt = Attempt(sent.append)
        attempt.answers.put(False)
        trained.outcome = train(job, reference.load(), attempt)
        for message in sent:
            if isinstance(message, Report):
                known = trained.curve.setdefault(message.step, {})
                assert not known.keys() & message.metrics.keys(), "a step was reported twice"
                known |= message.metrics
            elif isinstance(message, Use):
                trained.use = message
        return trained


@pytest.fixture
def training(tmp_path: Path) -> Training:
    (tmp_path / "trials").mkdir()
    return Training(tmp_path / "trials")
