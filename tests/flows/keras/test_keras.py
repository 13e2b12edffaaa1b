"""Training Keras models as trials: the curve, callbacks, checkpoints, data, and a tuner from end to end."""

from __future__ import annotations

import dataclasses
import math
import random
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.selection.evaluation import Fold
from hpo_core.study.callbacks import CALLBACKS, SCHEDULES, checked_callback
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_flows.keras.space.exploration import explore
from hpo_flows.keras.space.hypermodel import HyperModel, hyper_model
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.space.objective import Objective
from hpo_flows.keras.training import fit_arguments as data
from hpo_flows.keras.training.fit_arguments import FitArguments
from hpo_flows.keras.training.model import Building, built, declare_all
from hpo_flows.keras.training.objective import KerasObjective, keras_objective
from hpo_flows.keras.training.reporter import callbacks
from hpo_flows.keras.training.trial_callbacks import schedule
from hpo_flows.keras.tuner.tuner import Tuner
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.messages import Artifact, Report
from hpo_flows.objectives.splits import split
from tests.conftest import in_the_background

# Keras 3.15 over numpy 2 warns of its own conversions.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def keras() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip("keras")
        # absl, which Keras imports, closes the stream that was sys.stderr then, once Prefect configures logging and
        # something else is sys.stderr: under capsys that ends pytest's own capture. The interpreter's own it spares.
        absl_logging = pytest.importorskip("absl.logging")
        absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__
        return found


class Trial:
    """A trial without a flow, with all that it says."""

    def __init__(self, folder: Path, config: Mapping[str, Any] | None = None, **settings: Any) -> None:
        self.sent: list[Any] = []
        self.scratch, self.outbox = folder / "scratch", folder / "outbox"
        self.scratch.mkdir(parents=True)
        given = {"number": 0, "seed": 5, "fidelity": None} | settings
        self.context = TrialContext(
            config=config or {}, scratch=self.scratch, outbox=self.outbox, send=self.sent.append, **given
        )

    def curve(self, name: str) -> list[float]:
        return [each.metrics[name] for each in self.sent if isinstance(each, Report) and name in each.metrics]

    @property
    def artifacts(self) -> dict[str, str]:
        """What was logged, as MLflow shows it: the path below the run's artifacts, and where it lies."""
        found = {}
        for message in self.sent:
            if isinstance(message, Artifact):
                path = Path(message.path)
                base = path if path.is_dir() else path.parent  # of a folder MLflow keeps the content
                files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
                found |= {f"{message.folder}/{each.relative_to(base)}".lstrip("/"): str(each) for each in files}
        return found


def examples(n: int = 96) -> tuple[Any, Any]:
    """Points of the plane, and whether they lie above a line."""
    x = np.random.default_rng(0).normal(size=(n, 2)).astype("float32")
    return x, (x[:, 0] + x[:, 1] > 0).astype("float32")


X, Y = examples()
FIT = {"x": X, "y": Y, "validation_data": (X[:32], Y[:32]), "batch_size": 16}


def build_model(hp: Any) -> Any:
    import keras

    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(hp.Int("units", 2, 16), activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    rate = hp.Float("rate", 1e-3, 1.0, sampling="log", default=0.05)
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
    return model


# -- a training as a trial -------------------------------------------------------------------------------------------


def test_a_training_reports_each_epoch_and_answers_the_best(keras: Any, tmp_path: Path) -> None:
    trial = Trial(tmp_path, {"units": 4, "rate": 0.1})
    result = keras_objective(build_model, FIT, epochs=4, objective="val_loss", keep_model=True)(trial.context)
    losses = trial.curve("val_loss")
    assert len(losses) == 4
    assert trial.curve("learning_rate") == pytest.approx([0.1] * 4)
    assert result["val_loss"] == min(losses)
    assert result["best_epoch"] == losses.index(min(losses)) == trial.curve("best_epoch")[-1]
    assert result["val_accuracy"] == trial.curve("val_accuracy")[int(result["best_epoch"])]
    model = build_model(HyperParameters({"units": 4, "rate": 0.1}))
    model.optimizer.build(model.trainable_variables)
    model.load_weights(trial.artifacts["model/model.weights.h5"])
    assert model.evaluate(*FIT["validation_data"], verbose=0)[0] == pytest.approx(result["val_loss"], rel=1e-5)


def test_without_an_objective_the_last_epoch_counts(keras: Any, tmp_path: Path) -> None:
    trial = Trial(tmp_path, {"units": 4})
    result = keras_objective(build_model, lambda: FIT, epochs=2)(trial.context)
    assert result == {name: trial.curve(name)[-1] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}


@pytest.mark.slow
def test_the_graph_is_traced_once_a_training_not_once_an_epoch(keras: Any, tmp_path: Path) -> None:
    traces: list[int] = []

    def build(hp: Any) -> Any:
        class Counting(keras.layers.Layer):
            def call(self, x: Any) -> Any:
                traces.append(1)
                return x

        model = keras.Sequential([keras.Input((2,)), Counting(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    counts = []
    for epochs in (1, 6):
        traces.clear()
        keras_objective(build, FIT, epochs=epochs)(Trial(tmp_path / str(epochs)).context)
        counts.append(len(traces))
    assert counts[0] == counts[1] > 0


@pytest.mark.slow
def test_no_function_and_no_graph_of_a_training_stay(keras: Any, tmp_path: Path) -> None:
    import gc

    def held() -> int:
        gc.collect()
        return sum(type(each).__name__ in ("AtomicFunction", "FuncGraph") for each in gc.get_objects())

    objective = keras_objective(build_model, FIT, epochs=1)
    counts = []
    for i in range(3):
        objective(Trial(tmp_path / str(i), {"units": 4}).context)
        counts.append(held())
    assert counts[1] == counts[2]


@pytest.mark.slow
def test_the_same_seed_makes_the_same_curve(keras: Any, tmp_path: Path) -> None:
    objective = keras_objective(build_model, FIT, epochs=2)
    trials = [Trial(tmp_path / str(i), {"units": 8}, seed=seed) for i, seed in enumerate((1, 1, 2))]
    for trial in trials:
        objective(trial.context)
    curves = [trial.curve("val_loss") for trial in trials]
    assert curves[0] == curves[1] != curves[2]


@pytest.mark.slow
def test_draws_of_other_threads_change_no_curve(keras: Any, tmp_path: Path) -> None:
    objective = keras_objective(build_model, FIT, epochs=1)
    alone, beside = Trial(tmp_path / "alone", {"units": 8}), Trial(tmp_path / "beside", {"units": 8})
    objective(alone.context)
    with in_the_background(random.random):
        objective(beside.context)
    assert alone.curve("val_loss") == beside.curve("val_loss")
    keras.utils.set_random_seed(3)
    first = random.randint(1, 10**9)
    keras.utils.set_random_seed(3)
    assert keras.initializers.GlorotUniform().seed == first  # outside a training all is as Keras made it


def test_executions_are_averaged(keras: Any, tmp_path: Path) -> None:
    trial = Trial(tmp_path, {"units": 8})
    result = keras_objective(build_model, FIT, epochs=1, executions=2, objective="val_loss")(trial.context)
    first, second = trial.curve("val_loss")[0], trial.curve("execution_1/val_loss")[0]
    assert first != second
    assert result["val_loss"] == pytest.approx((first + second) / 2)


# -- stopping and going on -------------------------------------------------------------------------------------------


def test_a_report_that_says_stop_ends_the_training(keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, {"units": 4})
    report = TrialContext.report
    monkeypatch.setattr(TrialContext, "report", lambda self, step, metrics: report(self, step, metrics) and step < 1)
    keras_objective(build_model, FIT, epochs=9)(trial.context)
    assert len(trial.curve("val_loss")) == 2


REDUCE = [{"ReduceLROnPlateau": {"monitor": "val_loss", "patience": 1, "factor": 0.5, "min_delta": 0.1}}]


def test_a_training_that_goes_on_has_the_curve_of_one_that_never_stopped(keras: Any, tmp_path: Path) -> None:
    objective = keras_objective(build_model, FIT, epochs=99, objective="val_loss", keep_model=True)
    config = {"units": 8, "rate": 0.05}
    whole = Trial(tmp_path / "whole", config, fidelity=6, callbacks=REDUCE)
    expected = objective(whole.context)
    first = Trial(tmp_path / "first", config, fidelity=3, callbacks=REDUCE)
    objective(first.context)
    second = Trial(
        tmp_path / "second", config, number=7, seed=99, fidelity=6, callbacks=REDUCE,
        resume_from=first.outbox / "checkpoint",
    )  # fmt: skip
    result = objective(second.context)
    for name in ("loss", "val_loss", "val_accuracy", "learning_rate"):
        assert first.curve(name) + second.curve(name) == whole.curve(name)
    assert len(set(whole.curve("learning_rate"))) > 1  # so the plateau was counted across the break
    assert [each.step for each in second.sent if isinstance(each, Report) and "loss" in each.metrics] == [3, 4, 5]
    assert result == expected


@pytest.mark.slow
def test_a_training_that_goes_on_with_another_rate_has_it_lowered_as_the_parents_was(
    keras: Any, tmp_path: Path
) -> None:
    objective = keras_objective(build_model, FIT, epochs=99, objective="val_loss")
    lowers = [{"LearningRateScheduler": {"schedule": "step", "every": 2, "factor": 0.5}}]
    parent: dict[str, Any] = {}
    for fidelity, rate in ((3, 0.05), (5, 0.2), (7, 0.1)):
        config = {"units": 8, "rate": rate}
        trial = Trial(tmp_path / str(fidelity), config, fidelity=fidelity, callbacks=lowers, **parent)
        objective(trial.context)
        parent = {"resume_from": trial.outbox / "checkpoint", "parent_config": config}
    own = Trial(tmp_path / "own", config, fidelity=7, callbacks=lowers)
    objective(own.context)
    rates = own.curve("learning_rate")
    assert len(set(rates)) == 4 and trial.curve("learning_rate") == pytest.approx(rates[5:])


def test_the_best_epoch_may_lie_before_the_break(keras: Any, tmp_path: Path) -> None:
    objective = keras_objective(build_model, FIT, epochs=99, objective="val_loss")
    first = Trial(tmp_path / "first", {"units": 8, "rate": 0.05}, fidelity=2)
    best = objective(first.context)
    folder = first.outbox / "checkpoint"
    state = folder / "0" / "state.json"
    state.write_text(state.read_text().replace(str(best["val_loss"]), "0.0001"))
    result = objective(Trial(tmp_path / "second", {"units": 8, "rate": 0.05}, fidelity=3, resume_from=folder).context)
    assert (result["val_loss"], result["best_epoch"]) == (0.0001, 1.0)


def test_a_checkpoint_that_does_not_fit(keras: Any, tmp_path: Path) -> None:
    objective = keras_objective(build_model, FIT, epochs=99)
    first = Trial(tmp_path / "first", {"units": 8}, fidelity=1)
    objective(first.context)
    folder = first.outbox / "checkpoint"
    other = Trial(tmp_path / "other", {"units": 4}, fidelity=2, resume_from=folder)
    with pytest.raises(InputError, match=r"checkpoint does not fit: it has the shape \(2, 8\) where .* has \(2, 4\)"):
        objective(other.context)


def test_a_damaged_checkpoint_means_training_from_scratch(keras: Any, tmp_path: Path) -> None:
    objective = keras_objective(build_model, FIT, epochs=99)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "variables.npz").write_bytes(b"damaged")
    (tmp_path / "0" / "state.json").write_text("{}")
    trial = Trial(tmp_path / "trial", {"units": 8}, fidelity=2, resume_from=tmp_path)
    objective(trial.context)
    assert len(trial.curve("loss")) == 2
    assert trial.context.use.scratch_instead.startswith("the checkpoint cannot be read: ")


# -- callbacks -------------------------------------------------------------------------------------------------------

ALL = [
    {"EarlyStopping": {"monitor": "val_loss", "patience": 1, "restore_best_weights": True, "mode": "max"}},
    {"ModelCheckpoint": {"monitor": "val_loss", "save_best_only": True}},
    {"TensorBoard": {"write_graph": False}},
    {"LearningRateScheduler": {"schedule": "exponential", "rate": 0.5}},
    {"CSVLogger": {}},
    {"TerminateOnNaN": {}},
]


def test_callbacks_of_a_study_file_write_into_the_trial_and_are_kept(keras: Any, tmp_path: Path) -> None:
    trials = [Trial(tmp_path / str(i), {"units": 4, "rate": 0.1}, callbacks=ALL) for i in range(2)]
    for trial in trials:
        result = keras_objective(build_model, FIT, epochs=8)(trial.context)
        losses = trial.curve("val_loss")
        assert len(losses) == 2 < 8  # as mode: max sees it, the loss gets worse at once
        assert trial.curve("restored_epoch") == trial.curve("best_epoch") == [0.0]
        assert trial.curve("stopped_epoch") == [1.0]
        assert result["val_loss"] == losses[0]
        assert trial.curve("learning_rate") == pytest.approx([0.1, 0.05])
        folders = sorted(str(Path(name).parent) for name in trial.artifacts)
        assert folders == [".", "checkpoints", "tensorboard/train", "tensorboard/validation"]
        assert len(Path(trial.artifacts["training.csv"]).read_text().splitlines()) == 3
        assert keras.models.load_model(trial.artifacts["checkpoints/best.keras"]).count_params() == 17
        assert all(str(trial.outbox) in path for path in trial.artifacts.values())


def test_callbacks_for_a_fit_of_ones_own(keras: Any, tmp_path: Path) -> None:
    trial = Trial(tmp_path, callbacks=[{"CSVLogger": {"separator": ";"}}, {"CSVLogger": {}}])
    build_model(HyperParameters()).fit(**FIT, epochs=2, verbose=0, callbacks=callbacks(trial.context))
    assert len(trial.curve("val_accuracy")) == 2
    assert sorted(trial.artifacts) == ["0/training.csv", "1/training.csv"]
    assert ";" in Path(trial.artifacts["0/training.csv"]).read_text()


def test_callbacks_of_a_script_are_copied_for_each_training(keras: Any, tmp_path: Path) -> None:
    import cloudpickle

    stop = keras.callbacks.EarlyStopping("val_loss", patience=0, mode="max")
    given = [
        stop,
        keras.callbacks.ModelCheckpoint("shared/weights-{epoch}.keras"),
        keras.callbacks.CSVLogger("log.csv"),
    ]
    objective = KerasObjective(hyper_model(build_model), FIT, 4, callbacks=cloudpickle.dumps(given))
    for i in range(2):
        trial = Trial(tmp_path / str(i), {"units": 4})
        objective(trial.context)
        assert sorted(trial.artifacts) == ["checkpoints/weights-1.keras", "checkpoints/weights-2.keras", "log.csv"]
    assert stop.best_weights is None and given[1].filepath == "shared/weights-{epoch}.keras"
    assert not Path("shared").exists() and not Path("log.csv").exists()


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"schedule": "exponential", "rate": 0.5}, [1, 0.5, 0.25, 0.125, 0.0625]),
        ({"schedule": "step", "every": 2, "factor": 0.1}, [1, 1, 0.1, 0.1, 0.01]),
        ({"schedule": "cosine", "epochs": 4}, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
        ({"schedule": "cosine", "epochs": 2, "floor": 0.2}, [1, 0.6, 0.2, 0.2, 0.2]),
        ({"schedule": "tests.flows.keras.test_keras:halved"}, [0.5, 0.25, 0.125, 0.0625, 0.03125]),
    ],
    ids=str,
)
def test_schedules(settings: dict[str, Any], rates: list[float]) -> None:
    assert checked_callback({"LearningRateScheduler": settings})
    rate, found = 1.0, []
    for epoch in range(5):
        rate = schedule("callbacks.0", settings)(epoch, rate)
        found.append(rate)
    assert found == pytest.approx(rates, abs=1e-12)


def halved(epoch: int, rate: float) -> float:
    return rate / 2


def test_every_callback_that_can_be_named_takes_the_settings_that_it_is_said_to_have(keras: Any) -> None:
    import inspect

    for name, settings in CALLBACKS.items():
        known = inspect.signature(getattr(keras.callbacks, name).__init__).parameters
        for each in dataclasses.fields(settings):
            assert known[each.name].default == each.default, (name, each.name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("EarlyStoping", ": 'EarlyStoping' is not a callback; did you mean 'EarlyStopping'"),
        ("Backup", ": 'Backup' is not a callback; choose one of EarlyStopping, ReduceLROnPlateau"),
        ({"EarlyStopping": {"patiense": 3}}, ".EarlyStopping.patiense: .* did you mean 'patience'"),
        ({"EarlyStopping": {"patience": -1}}, ".EarlyStopping.patience: -1 is not a whole number of at least 0"),
        ({"EarlyStopping": {"patience": True}}, ".EarlyStopping.patience: True is not a whole number"),
        ({"EarlyStopping": {"patience": 2.0}}, ".EarlyStopping.patience: 2.0 is not a whole number"),
        ({"EarlyStopping": {"restore_best_weights": 1}}, ".restore_best_weights: 1 is not true or false"),
        ({"EarlyStopping": {"mode": "lowest"}}, ".mode: 'lowest' is not one of auto, min, max"),
        ({"EarlyStopping": {"min_delta": math.inf}}, ".min_delta: inf is not a finite number"),
        ({"EarlyStopping": {"monitor": ""}}, ".monitor: ''"),
        ({"ReduceLROnPlateau": {"factor": 1.5}}, ".factor: 1.5 is not a number below 1"),
        ({"ModelCheckpoint": {"filepath": "/etc/passwd"}}, ".filepath: 'ModelCheckpoint' has no setting 'filepath'"),
        ({"ModelCheckpoint": {"save_freq": 0}}, ".save_freq: 0 is not one of epoch or a whole number of at least 1"),
        ({"TensorBoard": {"profile_batch": [1]}}, ".profile_batch: "),
        ({"TerminateOnNaN": {"x": 1}}, ".TerminateOnNaN.x: 'TerminateOnNaN' has no setting 'x'; there is none"),
        ({"EarlyStopping": 3}, ": EarlyStopping has the settings 3; write them as names and values"),
        ({"EarlyStopping": {}, "TensorBoard": {}}, "is not one callback"),
        (3, "is not one callback"),
        ("LearningRateScheduler", ".schedule: None is not a schedule; give one of exponential, step, cosine"),
        ({"LearningRateScheduler": {"schedule": "linear"}}, ".schedule: 'linear' is not a schedule"),
        ({"LearningRateScheduler": {"schedule": "step", "every": 2}}, ".factor: 'step' needs it; add it"),
        (
            {"LearningRateScheduler": {"schedule": "cosine", "epochs": 0}},
            ".epochs: 0 is not a whole number",
        ),
        ({"LearningRateScheduler": {"schedule": "m:f", "rate": 1}}, "has no setting 'rate'"),
    ],
)
def test_callbacks_that_cannot_be_meant_are_refused_with_the_study(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"callbacks\.0.*{message}"):
        spec_with(callbacks=[given])


def spec_with(**settings: Any) -> StudySpec:
    space = {"units": {"type": "int", "low": 2, "high": 16}}
    base = {"name": "s", "objective": "m:f", "metric": "val_loss", "direction": "minimize", "space": space}
    return study_from(base | {"stop": {"trials": 2}} | settings)


def test_callbacks_decide_what_losses_mean() -> None:
    from hpo_core.study.resume import compare

    spec = spec_with(callbacks=["TerminateOnNaN", {"EarlyStopping": {"patience": 3}}])
    assert spec.callbacks == [{"TerminateOnNaN": {}}, {"EarlyStopping": {"patience": 3}}]
    with pytest.raises(InputError, match="callbacks"):
        compare(spec, spec_with())
    assert set(SCHEDULES) == {"exponential", "step", "cosine"}


@pytest.mark.parametrize(
    ("fit", "named", "metric", "message"),
    [
        (FIT, [{"EarlyStopping": {"monitor": "val_los"}}], None, r"callbacks\.0\.EarlyStopping\.monitor: 'val_los' is "
         "not a metric of the training, which has accuracy, loss, val_accuracy, val_loss; did you mean 'val_loss'"),
        (FIT, [{"ReduceLROnPlateau": {"monitor": "auc"}}], None, "'auc' is not a metric"),
        ({"x": X, "y": Y}, ["EarlyStopping"], None, "'val_loss' is not a metric of a training without validation"),
        (FIT, [], "val_auc", "metric: 'val_auc' is not a metric of the training"),
        (FIT, [{"LearningRateScheduler": {"schedule": "tests.absent:f"}}], None, "schedule: 'tests.absent:f' c"),
        (lambda: [X, Y], [], None, "data: list is not a dict of arguments"),
    ],
)  # fmt: skip
def test_a_metric_that_does_not_exist(
    keras: Any, tmp_path: Path, fit: Any, named: list[Any], metric: str | None, message: str
) -> None:
    trial = Trial(tmp_path, {"units": 4}, callbacks=[checked_callback(each) for each in named])
    with pytest.raises(InputError, match=message):
        keras_objective(build_model, fit, epochs=2, objective=metric)(trial.context)
    assert len(trial.curve("loss")) == 0


def uncompiled(hp: Any) -> Any:
    import keras

    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(hp.Int("units", 1, 4))])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda hp: None, "build_model: it returned NoneType instead of a Keras model; return the model"),
        (lambda hp: "model", "it returned str instead of a Keras model"),
        (uncompiled, "build_model: the model that it returned is not compiled; call model.compile in it"),
        (3, "build_model: 3 is not a function of hp"),
    ],
)
def test_no_compiled_model(keras: Any, tmp_path: Path, build: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        keras_objective(build, FIT, epochs=1)(Trial(tmp_path, {"units": 4}).context)


def test_what_the_tuner_compiles_takes_the_place_of_the_model_s_own(keras: Any) -> None:
    model = built(hyper_model(uncompiled), HyperParameters(), Building({"optimizer": "sgd", "loss": "mse"}))
    assert (model.optimizer.name, model.loss) == ("SGD", "mse") or model.optimizer.name == "sgd"


# -- models with a fit of their own ----------------------------------------------------------------------------------


class Batches(HyperModel):
    """Tunes the size of its batches, too."""

    def build(self, hp: Any) -> Any:
        return build_model(hp)

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["batch_size"] = hp.Choice("batch", [16, 32])
        return model.fit(*args, **kwargs)


def test_what_a_fit_declares_belongs_to_the_space(keras: Any, tmp_path: Path) -> None:
    model = Batches()

    def build(hp: HyperParameters) -> None:
        declare_all(model, hp, built(model, hp), (X, Y), {"callbacks": []})

    assert list(explore(build, max_builds=60).space.parameters) == ["units", "rate", "batch"]
    trial = Trial(tmp_path, {"units": 4, "batch": 32})
    result = keras_objective(model, FIT, epochs=2, objective="val_loss")(trial.context)
    assert result["val_loss"] == min(trial.curve("val_loss"))


@pytest.mark.parametrize("answer", [lambda h: 0.25, lambda h: {"val_loss": 0.25, "x": 1}, lambda h: [0.2, 0.3]])
def test_a_fit_may_answer_numbers(keras: Any, tmp_path: Path, answer: Callable[[Any], Any]) -> None:
    class Own(Batches):
        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            return answer(None)

    objective = keras_objective(Own(), FIT, epochs=1, objective="val_loss")
    assert objective(Trial(tmp_path, {"units": 4}).context)["val_loss"] == 0.25


# -- objectives and data ---------------------------------------------------------------------------------------------

NAMES = ["loss", "val_loss", "accuracy", "val_accuracy", "acc", "binary_accuracy", "val_sparse_categorical_accuracy",
         "mse", "val_mean_absolute_error", "mae", "kl_divergence", "hinge", "AUC", "Precision", "Recall",
         "sparse_categorical_crossentropy", "poisson"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_directions_are_those_that_keras_tuner_infers(keras: Any, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from keras_tuner.src.engine.metrics_tracking import infer_metric_direction
    assert Objective.of(name).direction == infer_metric_direction(name)


def test_directions_beyond_that() -> None:
    assert [Objective.of(name).direction for name in ("val_auc", "val_f1_score", "rmse")] == ["max", "max", "min"]
    assert Objective.of(Objective("cost", "min")) == Objective("cost", "minimize")
    with pytest.raises(InputError, match=r"whether 'val_cost' is better small or large .* give Objective"):
        Objective.of("val_cost")
    with pytest.raises(InputError, match="neither min nor max"):
        Objective("cost", "down")
    assert Objective("x", "min").better_than(1.0, math.nan) and not Objective("x", "max").better_than(math.nan, 1.0)


def test_large_arrays_are_mapped_and_read_once(tmp_path: Path) -> None:
    large = np.arange(40_000, dtype="float64").reshape(200, 200)
    folder = data.write(FitArguments((large, [1, 2]), {"validation_data": (large, large), "batch_size": 4}), tmp_path)
    found = data.read(folder)
    assert isinstance(found.args[0], np.memmap) and not found.args[0].flags.writeable
    np.testing.assert_array_equal(found.args[0], large)
    assert (found.args[1], found.kwargs["batch_size"]) == ([1, 2], 4)
    assert data.read(folder) is found
    (tmp_path / "999999999-dead").mkdir()
    other = data.write(FitArguments((), {}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, other.name])


def test_data_sets_of_tensorflow_are_kept_too(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    found = data.read(data.write(FitArguments((batches,), {"validation_data": tf.constant([1.0])}), tmp_path))
    assert [len(y) for _, y in found.args[0]] == [16] * 6
    np.testing.assert_array_equal(found.kwargs["validation_data"], [1.0])


def test_data_that_cannot_be_sent(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="x is a generator, which can be read only once"):
        data.write(FitArguments((), {"x": (i for i in range(3))}), tmp_path)
    with pytest.raises(InputError, match="cannot be sent to a worker process"):
        data.write(FitArguments((), {"x": threading.Lock()}), tmp_path)
    assert list(tmp_path.iterdir()) == []


# -- the tuner -------------------------------------------------------------------------------------------------------


def test_a_tuner_s_study(keras: Any, tmp_path: Path) -> None:
    from hpo_flows.keras.tuner.tuners import BayesianOptimization, GridSearch, Hyperband, RandomSearch

    def spec(tuner: Tuner) -> dict[str, Any]:
        dumped = tuner.spec.model_dump(mode="json")
        return {key: dumped[key] for key in ("metric", "direction", "strategy", "stop", "fidelity")}

    found = spec(RandomSearch(build_model, "val_accuracy", 7))
    assert (found["metric"], found["direction"], found["stop"]["trials"]) == ("val_accuracy", "maximize", 7)
    assert found["strategy"] == {"name": "random"}
    found = spec(BayesianOptimization(build_model, Objective("val_loss", "min"), num_initial_points=3, beta=2.6))
    assert (found["strategy"], found["stop"]["trials"]) == ({"name": "bayesian", "start": 3}, 10)
    found = spec(GridSearch(build_model, "val_loss"))
    assert found["strategy"] == {"name": "grid", "steps": 10, "steps_by_name": {"units": 15}}
    assert found["stop"]["trials"] == 151  # the defaults lie beside the grid
    found = spec(Hyperband(build_model, "val_loss", max_epochs=9, factor=3, hyperband_iterations=2))
    assert found["strategy"] == {"name": "hyperband", "sampler": "random"}
    assert found["fidelity"] == {"name": "epochs", "min": 1, "max": 9, "eta": 3}
    assert found["stop"]["trials"] == 2 * (9 + 3 + 1 + 5 + 1 + 3)


@pytest.mark.filterwarnings("ignore")  # KerasTuner's own
@pytest.mark.parametrize("name", ["RandomSearch", "GridSearch", "BayesianOptimization", "Hyperband"])
def test_the_first_trial_is_the_defaults_where_keras_tuner_begins_with_them(
    keras: Any, tmp_path: Path, name: str
) -> None:
    keras_tuner = pytest.importorskip("keras_tuner")
    import hpo_flows.keras as kt

    def build(hp: Any) -> Any:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(hp.Int("units", 1, 900, default=7))])
        model.compile(hp.Choice("optimizer", ["sgd", "adam", "nadam"], default="adam"), "mse")
        return model

    theirs = getattr(keras_tuner, name)(build, "val_loss", directory=tmp_path, seed=3)
    begins = theirs.oracle.create_trial("tuner0").hyperparameters.values
    defaults = {"units": 7, "optimizer": "adam"}
    ours = getattr(kt, name)(build, "val_loss", seed=3).spec
    first = ours.propose(History(), 1)[0].config
    assert (first == defaults) is ({key: begins[key] for key in defaults} == defaults) is (name == "GridSearch")


def test_a_default_between_two_steps_is_not_tried_first(keras: Any) -> None:
    from hpo_flows.keras.tuner.tuners import GridSearch

    def build(hp: Any) -> Any:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(hp.Int("units", 2, 8, step=2, default=5))])
        model.compile("sgd", "mse")
        return model

    spec = GridSearch(build, "val_loss").spec
    assert (spec.first, spec.stop.trials) == ([], 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda kt: kt.RandomSearch(build_model, "cost"), "better small or large cannot be told"),
        (lambda kt: kt.Tuner(build_model, "val_loss").spec, "max_trials: is missing"),
        (lambda kt: kt.Tuner(build_model, "val_loss", 3, strategy="hyperbrand").spec, "did you mean 'hyperband'"),
        (lambda kt: kt.Hyperband(build_model, "val_loss", max_epochs=0), "max_epochs: 0 is not a whole number above 0"),
        (lambda kt: kt.Hyperband(build_model, "val_loss", factor=1).spec, "factor: .* below 2"),
        (lambda kt: kt.RandomSearch(build_model, "val_loss", executions_per_trial=0), "executions_per_trial: 0"),
        (lambda kt: kt.RandomSearch(uncompiled, "val_loss").spec, "not compiled"),
        (lambda kt: kt.RandomSearch(build_model, "val_loss", max_builds=2).spec, "after 2 builds"),
        (lambda kt: kt.RandomSearch(build_model, "val_loss", max_trial=3).spec, "max_trial: unknown key"),
        (lambda kt: kt.RandomSearch(build_model, "val_loss").search(X, Y, callbacks=[3]), "3 is not a Keras callback"),
        (lambda kt: kt.RandomSearch(build_model, "val_loss").search(X, Y, epochs=0), "epochs: 0"),
    ],
)
def test_a_tuner_that_cannot_be_meant(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], Any], message: str
) -> None:
    import hpo_flows.keras as kt

    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        make(kt)


def test_a_tuner_takes_numpys_numbers(keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpo_flows.keras.tuner.tuners import Hyperband

    monkeypatch.chdir(tmp_path)

    def spec(three: Any) -> StudySpec:
        return Hyperband(build_model, "val_loss", max_epochs=three, factor=three, seed=three, parallel=three).spec

    assert spec(np.int64(3)).to_json() == spec(3).to_json()


def plane_tuner(folder: Path, **settings: Any) -> Tuner:
    from hpo_flows.keras.tuner.tuners import Hyperband

    return Hyperband(
        build_model, "val_loss", max_epochs=3, directory=folder, project_name="plane", progress=False, **settings
    )


def test_a_script_from_end_to_end(
    keras: Any,
    tmp_path: Path,
    prefect_server: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HPO_HOME", str(tmp_path / "home"))
    stop = keras.callbacks.EarlyStopping("val_loss", patience=5)
    tuner = plane_tuner(tmp_path, max_trials=4)
    tuner.search_space_summary()
    assert "units (Int)" in capsys.readouterr().out
    tuner.search(X, Y, validation_data=FIT["validation_data"], callbacks=[stop], batch_size=16)
    assert tuner.result is not None
    history = tuner.result.history
    assert [trial.fidelity for trial in history.complete] == [1.0, 1.0, 1.0, 3.0]
    promoted = history.trials[3]
    (parent,) = [trial for trial in history if trial.number == promoted.parent]
    assert parent.config == promoted.config

    again = plane_tuner(tmp_path, max_trials=4)  # a new process would find the same
    best = again.get_best_trials(3)
    assert [trial.score for trial in best] == sorted(trial.score for trial in best)
    (hp,) = again.get_best_hyperparameters()
    assert history.incumbent is not None
    assert {name: hp.values[name] for name in history.incumbent.config} == dict(history.incumbent.config)
    assert hp.get("tuner/epochs") == 3
    (model,) = again.get_best_models()
    assert model.evaluate(*FIT["validation_data"], verbose=0)[0] == pytest.approx(best[0].score, rel=1e-5)
    assert again.get_best_step() == best[0].best_step == best[0].metrics.get_best_step("val_loss")
    again.results_summary(1)
    assert f"Score: {best[0].score}" in capsys.readouterr().out
    assert not list((tmp_path / "home" / "data").iterdir())

    new = plane_tuner(tmp_path, max_trials=1, overwrite=True)
    assert new.get_best_trials() == []


@pytest.mark.slow
def test_a_search_goes_on_where_it_ended(
    keras: Any, tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPO_HOME", str(tmp_path / "home"))
    histories = []
    for trials in (2, None):
        tuner = plane_tuner(tmp_path, max_trials=trials)
        tuner.search(X, Y, validation_data=FIT["validation_data"], batch_size=16)
        assert tuner.result is not None
        histories.append(tuner.result.history)
    assert [len(history.complete) for history in histories] == [2, 6]
    assert [trial.run_id for trial in histories[1]][:2] == [trial.run_id for trial in histories[0]]


# -- a study file ----------------------------------------------------------------------------------------------------

MODULE = """
from tests.flows.keras.test_keras import FIT, build_model, uncompiled
from hpo_flows.keras import HyperParameters, keras_objective

objective = keras_objective(build_model, FIT, epochs=3)
no_model = keras_objective(lambda hp: None, FIT, epochs=1)
not_compiled = keras_objective(uncompiled, FIT, epochs=1)

widths = iter(range(2, 100))
changing = keras_objective(lambda hp: build_model(HyperParameters({"units": next(widths)})), FIT, epochs=3)
"""


def hpo_tune(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> int:
    """Write a study file and run it as the command line does; answers the exit code."""
    import yaml

    from hpo_flows.cli.app import main

    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))
    (folder / "plane.py").write_text(MODULE)
    space = {"units": {"type": "int", "low": 2, "high": 16}}
    study = {"name": "plane", "objective": "plane:objective", "metric": "val_loss", "direction": "minimize"}
    study |= {"space": space, "stop": {"trials": 1}} | settings
    (folder / "plane.yaml").write_text(yaml.safe_dump(study))
    monkeypatch.setattr(sys, "argv", ["hpo", "tune", "plane.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_callbacks_of_a_study_file_are_seen_in_mlflow(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    plateau = {"ReduceLROnPlateau": {"factor": 0.1, "patience": 1, "min_delta": 10}}
    named = [{"EarlyStopping": {"mode": "max", "patience": 1, "restore_best_weights": True}}, *ALL[1:], plateau]
    assert hpo_tune(tmp_path, monkeypatch, callbacks=named) == 0, capsys.readouterr()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("plane")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`hpo.role` = 'trial'")

    def curve(name: str) -> list[float]:
        found = client.get_metric_history(run.info.run_id, name)
        return [metric.value for metric in sorted(found, key=lambda metric: (metric.step, metric.timestamp))]

    assert curve("learning_rate")[:2] == pytest.approx([0.05, 0.025])
    assert run.data.metrics["restored_epoch"] == run.data.metrics["best_epoch"] == 0.0
    assert run.data.metrics["stopped_epoch"] == 1.0
    assert run.data.metrics["val_loss"] == curve("val_loss")[0]
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    assert {str(path) for path in files} >= {"training.csv", "checkpoints/best.keras"}
    assert {str(path.parent) for path in files} >= {"tensorboard/train", "tensorboard/validation"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"callbacks": ["EarlyStoping"]},
            "callbacks.0: 'EarlyStoping' is not a callback; did you mean 'EarlyStopping'?",
        ),
        (
            {"callbacks": [{"EarlyStopping": {"monitor": "auc"}}]},
            "callbacks.0.EarlyStopping.monitor: 'auc' is not a metric",
        ),
        ({"objective": "plane:no_model"}, "build_model: it returned NoneType instead of a Keras model"),
        ({"objective": "plane:not_compiled"}, "build_model: the model that it returned is not compiled"),
        (
            {
                "objective": "plane:changing",
                "strategy": "successive_halving",
                "fidelity": {"name": "epochs", "min": 1, "max": 3, "eta": 3},
                "stop": {"trials": 8},
            },
            "checkpoint: the parent trial's checkpoint does not fit: it has the shape (2, ",
        ),
    ],
)
def test_mistakes_in_a_study_are_one_line_and_exit_code_2(
    tmp_path: Path,
    prefect_server: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    message: str,
) -> None:
    assert hpo_tune(tmp_path, monkeypatch, **settings) == 2
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 1 and f"error: {message}" in errors and "Traceback" not in errors


@pytest.mark.parametrize(("phase", "fold"), [("search", None), ("fold", Fold(1, 3)), ("test", None)])
def test_data_of_the_trial_has_the_rows_of_its_phase(keras: Any, tmp_path: Path, phase: Any, fold: Any) -> None:
    seen: list[tuple[Any, Any]] = []

    def rows(trial: TrialContext) -> dict[str, Any]:
        train, held_out = trial.split(Y, stratify=Y)
        seen.append((train, held_out))
        return {"x": X[train], "y": Y[train], "validation_data": (X[held_out], Y[held_out]), "batch_size": 32}

    trial = Trial(tmp_path, {"units": 2, "rate": 0.1}, phase=phase, fold=fold)
    assert "val_loss" in keras_objective(build_model, rows, epochs=1)(trial.context)
    expected = split(Y, phase=phase, fold=fold, stratify=Y)
    assert [each.tolist() for each in seen[0]] == [each.tolist() for each in expected]
