"""The contract that the adapter of every library fulfils, on an objective as its user writes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hpo_core.base.seeding import trial_seed
from hpo_core.history.trial import Trial
from hpo_core.study.file import study_from
from hpo_flows.api import open_ledger, run
from hpo_flows.objectives.messages import Failed
from hpo_flows.objectives.reference import Objective
from tests.flows.adapters.contract import ADAPTERS, ROOT, Adapter, Training, each_adapter
from tests.flows.adapters.contract import training as training


def close(adapter: Adapter, values: dict[int, float]) -> object:
    return pytest.approx(values, rel=adapter.tolerance)


@each_adapter()
def test_a_training_that_goes_on_is_one_that_never_paused(adapter: Adapter, training: Training) -> None:
    whole = training(adapter.objective, adapter.metric, fidelity=9)
    assert list(whole.curve) == list(range(9)), "every step, once, in order"
    assert len({frozenset(metrics) for metrics in whole.curve.values()}) == 1 and adapter.metric in whole.curve[0]
    assert whole.metrics[adapter.metric] == whole.curve[8][adapter.metric]

    part = training(adapter.objective, adapter.metric, fidelity=3)
    assert list(part.curve) == [0, 1, 2]
    first, last = part.curve[0][adapter.metric], whole.curve[8][adapter.metric]
    assert last < 0.95 * first, "it learns, so the curves say something"
    rest = training(adapter.objective, adapter.metric, fidelity=9, resume=part.checkpoint)
    assert list(rest.curve) == [3, 4, 5, 6, 7, 8]
    assert rest.use.scratch_instead == "" and {"fidelity", "resume_from"} <= set(rest.use.read)
    losses = part.losses(adapter.metric) | rest.losses(adapter.metric)
    assert losses == close(adapter, whole.losses(adapter.metric))
    assert rest.metrics == pytest.approx(whole.metrics, rel=adapter.tolerance)


@each_adapter()
def test_a_training_that_goes_on_with_another_rate_trains_by_that_rate(adapter: Adapter, training: Training) -> None:
    """As population based training has it: what was set in the parent does not come back with its checkpoint."""
    given = {"objective": adapter.objective, "metric": adapter.metric}
    parent = training(**given, rate=0.5, fidelity=3)
    own, other = training(**given, rate=0.1), training(**given, rate=0.5, resume=parent.checkpoint)
    rest = training(**given, rate=0.1, resume=parent.checkpoint, parent={"rate": 0.5})
    if rest.use.scratch_instead:
        assert rest.losses(adapter.metric) == close(adapter, own.losses(adapter.metric))
        return
    assert list(rest.curve) == [3, 4, 5, 6, 7, 8]
    assert rest.losses(adapter.metric) != close(adapter, other.losses(adapter.metric))
    if adapter.rate:
        rates = own.losses(adapter.rate)
        assert rest.losses(adapter.rate) == close(adapter, {step: rates[step] for step in rest.curve})
    part = training(**given, rate=0.1, fidelity=6, resume=parent.checkpoint, parent={"rate": 0.5})
    last = training(**given, rate=0.1, resume=part.checkpoint)
    losses = part.losses(adapter.metric) | last.losses(adapter.metric)
    assert list(last.curve) == [6, 7, 8] and losses == close(adapter, rest.losses(adapter.metric))


@each_adapter()
def test_the_seed_decides_what_is_drawn(adapter: Adapter, training: Training) -> None:
    first, again, other = (training(adapter.objective, adapter.metric, fidelity=2, seed=seed) for seed in (1, 1, 2))
    assert again.losses(adapter.metric) == close(adapter, first.losses(adapter.metric))
    assert other.losses(adapter.metric) != close(adapter, first.losses(adapter.metric))


@each_adapter()
def test_it_stops_when_told(adapter: Adapter, training: Training) -> None:
    stopped = training(adapter.objective, adapter.metric, fidelity=9, stop_after=4)
    assert list(stopped.curve) == [0, 1, 2, 3]
    assert stopped.metrics[adapter.metric] == stopped.curve[3][adapter.metric]
    rest = training(adapter.objective, adapter.metric, fidelity=6, resume=stopped.checkpoint)
    assert list(rest.curve) == [4, 5], "what it leaves can be gone on from"


@each_adapter()
def test_without_fidelity_it_leaves_nothing(adapter: Adapter, training: Training) -> None:
    trained = training(adapter.objective, adapter.metric, fidelity=None)
    assert trained.metrics[adapter.metric] == trained.curve[max(trained.curve)][adapter.metric]
    assert not trained.checkpoint.exists() or list(trained.checkpoint.iterdir()) == []


@each_adapter()
def test_with_a_damaged_checkpoint_it_trains_from_scratch(adapter: Adapter, training: Training) -> None:
    part = training(adapter.objective, adapter.metric, fidelity=1)
    for path in part.checkpoint.rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    rest = training(adapter.objective, adapter.metric, fidelity=3, resume=part.checkpoint)
    assert list(rest.curve) == [0, 1, 2] and "checkpoint" in rest.use.scratch_instead


@each_adapter()
def test_a_training_that_evaluates_nothing_is_told(adapter: Adapter, training: Training) -> None:
    failed = training(adapter.objective, adapter.metric, fidelity=2, evaluate=False).outcome
    assert isinstance(failed, Failed) and failed.blamed_key, "it ends the study: the next trial would fail alike"
    assert adapter.missing in failed.reason and "\n" not in failed.reason


def test_importing_an_adapter_loads_no_library() -> None:
    modules, libraries = {each.module for each in ADAPTERS}, {name for each in ADAPTERS for name in each.needs}
    code = f"import sys, {', '.join(f'hpo_flows.{name}' for name in modules)}; print(*{libraries} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True).stdout == b"\n"


@pytest.mark.slow
@each_adapter()
def test_a_study_promotes_trials_that_go_on(
    adapter: Adapter, training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: None
) -> None:
    """In worker processes, with the checkpoints in MLflow."""
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    spec = study_from(
        {
            "name": "goes-on",
            "objective": adapter.objective,
            "metric": adapter.metric,
            "direction": "minimize",
            "space": {
                "rate": {"type": "float", "low": 0.1, "high": 0.5},
                "evaluate": {"type": "fixed", "value": True},
            },
            "fidelity": {"name": "steps", "min": 1, "max": 9},
            "strategy": "hyperband",
            "stop": {"trials": 13},
        }
    )
    history = run(open_ledger(spec, uri), Objective(adapter.objective, (str(ROOT),))).history
    assert len(history.complete) == 13, [trial.reason for trial in history]
    client = MlflowClient(uri)

    def curve(trial: Trial) -> dict[int, float]:
        return {point.step: point.value for point in client.get_metric_history(trial.run_id, adapter.metric)}

    promoted = [trial for trial in history if trial.parent is not None]
    assert {trial.fidelity for trial in promoted} == {3.0, 9.0}
    for trial in promoted:
        assert trial.notes["continued"] == f"yes: trial {trial.parent}"
        seed = trial_seed(spec.seed, history.origin(trial))
        whole = training(adapter.objective, adapter.metric, fidelity=trial.fidelity, seed=seed, **trial.config)
        parts, each = curve(trial), trial
        while each.parent is not None:
            each = history.trials[each.parent]
            parts |= curve(each)
        assert parts == close(adapter, whole.losses(adapter.metric)), f"trial {trial.number}"
