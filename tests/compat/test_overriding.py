"""Tuners whose methods a user has overridden: they run in this process, and are called as KerasTuner calls them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpo_flows.keras as kt
from hpo_core.base.errors import InputError
from hpo_flows.keras.space.exploration import explore
from hpo_flows.keras.space.hypermodel import hyper_model
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.space.objective import Objective
from hpo_flows.keras.training.fit_arguments import FitArguments
from hpo_flows.keras.training.model import declare_all
from hpo_flows.keras.training.objective import KerasObjective
from hpo_flows.keras.tuner.running import overriding
from hpo_flows.keras.tuner.running.overriding import overridden
from hpo_flows.keras.tuner.trial import Trial
from tests.flows.keras.test_keras import FIT, X, Y, build_model
from tests.flows.keras.test_keras import Trial as Alone

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("overriding")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPO_HOME", str(made / "home"))
        yield made


# -- anything at all: run_trial as a black box -----------------------------------------------------------------------


class BlackBox(kt.RandomSearch):
    """Minimises a parabola, without any Keras; records what is called."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.calls: list[str] = []
        super().__init__(*args, **kwargs)

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> Any:
        hp = trial.hyperparameters
        kind = hp.Choice("kind", ["plain", "shifted", "reported", "broken"])
        x = hp.Float("x", -1.0, 1.0)
        shift = hp.Float("shift", 0.5, 1.0) if kind == "shifted" else 0.0
        self.calls.append(f"run {trial.trial_id} {args} {kwargs}")
        if trial.exploring:
            return 0.0
        Path(self.get_trial_dir(trial.trial_id), "notes.txt").write_text(str(kind))
        if kind == "broken":
            raise ValueError("no such kind")
        if kind == "reported":
            for step, value in enumerate([3.0, (x - shift) ** 2, 5.0]):
                self.oracle.update_trial(trial.trial_id, {"default_objective": value, "at": step}, step=step)
            return None
        return {"default_objective": (x - shift) ** 2, "x": x}

    def on_search_begin(self) -> None:
        self.calls.append("search begins")

    def on_search_end(self) -> None:
        self.calls.append("search ends")

    def pre_create_trial(self) -> None:
        self.calls.append("before a trial")

    def on_trial_begin(self, trial: Trial) -> None:
        assert (trial.status, trial.score) == ("RUNNING", None)
        self.calls.append(f"begin {trial.trial_id}")

    def on_trial_end(self, trial: Trial) -> None:
        super().on_trial_end(trial)
        self.calls.append(f"end {trial.trial_id} {trial.status} {trial.score}")

    def get_state(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def set_state(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


def test_a_black_box(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def box(**settings: Any) -> BlackBox:
        return BlackBox(
            max_trials=8, directory=folder, project_name="box", max_consecutive_failed_trials=8, seed=3, **settings
        )

    tuner = box()
    tuner.search("data", verbose=1, weight=2)
    called = [call for call in tuner.calls if "exploring" not in call]
    assert (called[0], called[-1]) == ("search begins", "search ends")
    assert called[1:4] == ["before a trial", "begin 0", "run 0 ('data',) {'verbose': 1, 'weight': 2}"]
    assert list(tuner.spec.space) == ["kind", "x", "shift"]
    assert tuner.spec.space["shift"].when == {"kind": ["shifted"]}

    trials = tuner.oracle.trials
    assert list(trials) == [str(i) for i in range(8)] and tuner.remaining_trials == 0
    kinds = {trial.hyperparameters.get("kind") for trial in trials.values()}
    assert kinds == {"plain", "shifted", "reported", "broken"}  # as this seed has it
    for trial in trials.values():
        hp = trial.hyperparameters
        assert Path(tuner.get_trial_dir(trial.trial_id), "notes.txt").read_text() == hp.get("kind")
        if hp.get("kind") == "broken":
            assert (trial.status, trial.score) == ("FAILED", None) and "no such kind" in str(trial.message)
            continue
        shift = hp.get("shift") if hp.get("kind") == "shifted" else 0.0
        assert trial.score == pytest.approx((hp.get("x") - shift) ** 2)  # type: ignore[operator]
        if hp.get("kind") == "reported":
            assert (trial.best_step, trial.metrics.get_last_value("at")) == (1, 2.0)
            assert [each.step for each in trial.metrics.get_history("at")] == [0, 1, 2]
    ended = [call for call in called if call.startswith("end ")]
    assert sorted(call.split()[2] for call in ended) == sorted(
        "INVALID" if trial.status == "FAILED" else "COMPLETED" for trial in trials.values()
    )

    again = box()  # it finds its state, and all trials, before any search
    assert again.calls[-1].startswith("run 7") and again.get_best_hyperparameters()[0].values == (
        tuner.get_best_hyperparameters()[0].values
    )
    out = capsys.readouterr().out
    assert out.startswith("Trials train in this process, since BlackBox has run_trial, pre_create_trial, on_trial_")
    assert "\nSearch: Running Trial #1\n\nValue             |Best Value So Far |Hyperparameter\n" in out
    assert "Total elapsed time: 00h 0" in out and "Best default_objective So Far: " in out

    with pytest.raises(InputError, match="parallel: 2 trials at a time need processes of their own, but BlackBox has"):
        box(parallel=2).search()
    with pytest.raises(InputError, match="isolation: it is 'process', but BlackBox has run_trial"):
        box(isolation="process").search()


def test_a_run_trial_that_returns_nothing_ends_the_search(folder: Path) -> None:
    class Forgetful(kt.RandomSearch):
        def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> Any:
            trial.hyperparameters.Float("x", 0.0, 1.0)

    with pytest.raises(kt.errors.FatalTypeError, match="run_trial returned None; return the metrics"):
        Forgetful(directory=folder, project_name="forgetful").search(verbose=0)


def test_what_a_search_cannot_call_is_refused() -> None:
    class Mine(kt.oracles.RandomSearchOracle):
        def populate_space(self, trial_id: str) -> dict[str, Any]:
            return {"status": "STOPPED"}

    with pytest.raises(InputError, match="oracle: Mine has a populate_space of its own, which a search does not call"):
        overridden(kt.Tuner(oracle=Mine("val_loss"), hypermodel=build_model))
    assert overridden(kt.RandomSearch(build_model, "val_loss")) == []
    with pytest.raises(InputError, match="hypermodel: is missing; give build_model"):
        kt.RandomSearch(objective="val_loss")


# -- super().run_trial -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_super_run_trial_with_changed_arguments(keras: Any, folder: Path) -> None:

    class Batches(kt.BayesianOptimization):
        def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> Any:
            kwargs["batch_size"] = trial.hyperparameters.Int("batch_size", 16, 64, step=16)
            kwargs["epochs"] = trial.hyperparameters.Int("epochs", 1, 3)
            histories = super().run_trial(trial, *args, **kwargs)
            assert len(histories) == self.executions_per_trial == 2
            assert len(histories[0].history["val_loss"]) == kwargs["epochs"]
            return histories

        def on_epoch_end(self, trial: Trial, model: Any, epoch: int, logs: Any = None) -> None:
            epochs.append((trial.trial_id, epoch, model.count_params() > 0, "val_loss" in logs))

        def on_batch_end(self, trial: Trial, model: Any, batch: int, logs: Any = None) -> None:
            batches[trial.trial_id] = max(batch + 1, batches.get(trial.trial_id, 0))

    epochs: list[Any] = []
    batches: dict[str, int] = {}
    tuner = Batches(
        build_model, "val_loss", 3, directory=folder, project_name="batches", executions_per_trial=2, progress=False
    )
    tuner.search(X, Y, validation_data=FIT["validation_data"], verbose=0)
    assert set(tuner.spec.space) == {"batch_size", "epochs", "units", "rate"}
    for id, trial in tuner.oracle.trials.items():
        hp = trial.hyperparameters
        assert batches[id] == -(-len(X) // hp.get("batch_size"))  # type: ignore[operator]
        assert sum(each[0] == id for each in epochs) == 2 * hp.get("epochs")  # type: ignore[operator]
    assert all(each[2:] == (True, True) for each in epochs)
    (model,) = tuner.get_best_models()
    assert model.evaluate(*FIT["validation_data"], verbose=0)[0] > 0


# -- HyperModel.fit --------------------------------------------------------------------------------------------------


class OwnLoop(kt.HyperModel):
    """The loop of KerasTuner's guide in short: an uncompiled model, and callbacks that are called by hand."""

    def build(self, hp: Any) -> Any:
        import keras

        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(hp.Int("units", 1, 4))])

    def fit(self, hp: Any, model: Any, x: Any, y: Any, callbacks: Any = None, **kwargs: Any) -> Any:
        import keras

        optimizer = keras.optimizers.SGD(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log"))
        optimizer.build(model.trainable_variables)
        for callback in callbacks:
            callback.set_model(model)
        losses = []
        for epoch in range(3):
            losses.append(float(np.mean(np.square(np.asarray(model(x)) - y[:, None]))) / (epoch + 1))
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs={"own_loss": losses[-1]})
        return min(losses)


@pytest.mark.slow
def test_a_loop_in_fit(keras: Any, tmp_path: Path) -> None:
    trial = Alone(tmp_path, {"units": 2, "learning_rate": 0.01})
    objective = KerasObjective(OwnLoop(), FitArguments((X, Y), {}), None, Objective("own_loss", "min"), keep_model=True)
    found = objective(trial.context)
    assert found["own_loss"] == min(trial.curve("own_loss")) == trial.curve("own_loss")[-1]
    assert set(trial.artifacts) == {"model/model.weights.h5", "model/build.json"}

    model = OwnLoop()
    build = lambda hp: declare_all(model, hp, model.build(hp), (X, Y), {"callbacks": []})  # noqa: E731
    assert list(explore(build).space.parameters) == ["units", "learning_rate"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "answer", "expected"),
    [
        (None, 0.5, 0.5),
        ("val_loss", np.float32(0.5), 0.5),
        ("val_loss", [{"val_loss": 1.0, "x": 2}, {"val_loss": 2.0}], 1.5),
        (["loss", Objective("auc", "max")], {"loss": 1.0, "auc": 0.75}, 0.25),
        (
            "val_loss",
            {"loss": 1.0, "mae": 2.0},
            "FatalValueError: HyperModel.fit.. returned no 'val_loss', .* loss, mae",
        ),
        (None, {"loss": 1.0}, "FatalTypeError: HyperModel.fit.. returned loss, and no objective is given"),
        ("val_loss", None, "FatalTypeError: HyperModel.fit.. returned None; return the history"),
        ("val_loss", "good", "FatalTypeError: HyperModel.fit.. returned 'good'"),
    ],
)
def test_what_fit_may_return(keras: Any, tmp_path: Path, objective: Any, answer: Any, expected: Any) -> None:

    class Returns(kt.HyperModel):
        def build(self, hp: Any) -> Any:
            return OwnLoop().build(hp)

        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            assert set(kwargs) == {"callbacks"}  # epochs and verbose only if given
            return answer

    goal = Objective.of(objective)
    asked = KerasObjective(Returns(), FitArguments((X, Y), {}), None, goal)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=f"objective: {expected}"):
            asked(Alone(tmp_path).context)
    else:
        assert asked(Alone(tmp_path).context)[goal.name] == expected


@pytest.mark.slow
def test_a_history_of_ones_own_has_its_best_epoch(keras: Any, tmp_path: Path) -> None:

    class Quiet(kt.HyperModel):
        def build(self, hp: Any) -> Any:
            return build_model(hp)

        def fit(self, hp: Any, model: Any, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
            return model.fit(*args, epochs=3, verbose=0, **kwargs)  # without the callbacks

    data = FitArguments((X, Y), {"validation_data": FIT["validation_data"]})
    found = KerasObjective(Quiet(), data, None, Objective("val_loss", "min"))(Alone(tmp_path, {"units": 4}).context)
    assert found["best_epoch"] in (0.0, 1.0, 2.0) and found["val_loss"] > 0
    assert hyper_model(Quiet()).fit.__name__ == "fit" and HyperParameters().values == {}


# -- run_trial is run for what it declares --------------------------------------------------------------------------


def test_a_loop_of_ones_own_is_left_once_it_trains(tmp_path: Path) -> None:
    epochs = []

    class Loop(kt.Tuner):
        def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> Any:
            rate = trial.hyperparameters.Float("rate", 0.1, 1.0)
            for epoch in range(3):
                epochs.append(epoch)
                self.on_epoch_end(trial, None, epoch, logs={"loss": rate})
            return rate

    tuner = Loop(kt.oracles.RandomSearchOracle("loss", max_trials=1), directory=tmp_path)
    assert list(tuner.exploration.space.parameters) == ["rate"]
    assert set(epochs) == {0}


def test_a_run_that_is_left_out_is_no_failed_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(overriding, "EXPLORING_SECONDS", 0.0)

    class Slow(kt.RandomSearch):
        def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> Any:
            return trial.hyperparameters.Float("rate", 0.1, 1.0)

    tuner = Slow(objective=kt.Objective("loss", "min"), directory=tmp_path)
    assert list(tuner.exploration.space.parameters) == ["rate"]
    assert "run_trial was run 1 times" in caplog.text
    assert "raised" not in caplog.text


def test_a_fit_of_ones_own_is_left_once_it_trains_a_part_of_the_model(keras: Any) -> None:
    import tensorflow

    calls = []

    class TwoNetworks(kt.HyperModel):
        def build(self, hp: Any) -> Any:
            model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(hp.Int("units", 1, 2))])
            model.part = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
            return model

        def fit(self, hp: Any, model: Any, x: Any, callbacks: Any = None) -> Any:
            rate = hp.Float("rate", 0.1, 1.0)

            @tensorflow.function
            def step() -> Any:
                calls.append("begun")
                with tensorflow.GradientTape() as tape:
                    loss = rate * tensorflow.reduce_sum(model.part(x))
                calls.append("trained")
                return tape.gradient(loss, model.part.trainable_weights)

            step()

    model = TwoNetworks()
    build = lambda hp: declare_all(model, hp, model.build(hp), (X[:, :2],), {"callbacks": []})  # noqa: E731
    assert list(explore(build).space.parameters) == ["units", "rate"]
    assert set(calls) == {"begun"}
