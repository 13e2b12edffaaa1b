"""A script's callbacks, and its data: each training has copies of its own, and data are never changed on their way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpo_flows.keras as kt
from hpo_core.base.errors import InputError
from hpo_flows.keras.space.hypermodel import hyper_model
from hpo_flows.keras.space.objective import Objective
from hpo_flows.keras.training import fit_arguments
from hpo_flows.keras.training.fit_arguments import FitArguments
from hpo_flows.keras.training.model import Building, built
from hpo_flows.keras.training.objective import KerasObjective
from tests.flows.keras.test_keras import FIT, X, Y, build_model
from tests.flows.keras.test_keras import Trial as Alone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

DATA = FitArguments((), FIT)


def test_files_at_fixed_paths_are_of_the_trial_alone(keras: Any, tmp_path: Path) -> None:
    there = tmp_path / "there"
    given = [
        keras.callbacks.ModelCheckpoint(str(there / "best.keras"), save_best_only=True),
        keras.callbacks.CSVLogger(str(there / "log.csv")),
        keras.callbacks.TensorBoard(str(there / "logs"), write_graph=False),
        keras.callbacks.BackupAndRestore(str(there / "backup"), delete_checkpoint=False),
    ]
    for number in range(2):
        trial = Alone(tmp_path / str(number), {"units": 4, "rate": 0.1}, number=number)
        KerasObjective(hyper_model(build_model), DATA, 2, callbacks=given)(trial.context)
        names = set(trial.artifacts)
        assert {"checkpoints/best.keras", "log.csv", "backup/latest.weights.h5"} <= names
        assert {str(Path(name).parent) for name in names if "tensorboard" in name} == {
            "tensorboard", "tensorboard/train", "tensorboard/validation",
        }  # fmt: skip
        (events,) = [path for name, path in trial.artifacts.items() if str(Path(name).parent) == "tensorboard"]
        assert hparams_in(events) == ({"units": 4, "rate": 0.1}, str(number))
    assert not there.exists()


def hparams_in(events: str) -> tuple[dict[str, Any], str]:
    """What TensorBoard's HParams page finds in a file: the values, and the name of their group."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    for event in EventFileLoader(events).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                if data.HasField("session_start_info"):
                    info = data.session_start_info
                    return {name: each.number_value for name, each in info.hparams.items()}, info.group_name
    raise AssertionError(f"{events} has no hyperparameters")


def test_a_copy_for_each_execution(keras: Any, tmp_path: Path) -> None:
    class Counting(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.epochs = 0

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.epochs += 1
            assert self.epochs == epoch + 1

    counting, stop = Counting(), keras.callbacks.EarlyStopping("val_loss", patience=0, mode="max")
    objective = KerasObjective(hyper_model(build_model), DATA, 2, executions=2, callbacks=[counting, stop])
    objective(Alone(tmp_path, {"units": 4}).context)
    assert counting.epochs == 0 and stop.best_weights is None


@pytest.mark.filterwarnings("ignore:Early stopping conditioned on metric:UserWarning")
def test_a_callback_may_monitor_what_is_not_there_as_in_keras(keras: Any, tmp_path: Path) -> None:
    stop = keras.callbacks.EarlyStopping("val_lost", mode="min")
    objective = KerasObjective(hyper_model(build_model), DATA, 1, Objective("val_loss", "min"), callbacks=[stop])
    assert objective(Alone(tmp_path, {"units": 4}).context)["val_loss"] > 0


def test_what_is_compiled_anew_keeps_the_rest(keras: Any, tmp_path: Path) -> None:
    other = keras.optimizers.SGD(0.5)
    network = built(hyper_model(build_model), kt.HyperParameters(), Building({"optimizer": other}))
    assert float(np.asarray(network.optimizer.learning_rate)) == 0.5 and network.optimizer is not other
    assert network.loss == "binary_crossentropy"
    trial = Alone(tmp_path, {"units": 4})
    found = KerasObjective(hyper_model(build_model), DATA, 1, building=Building({"optimizer": "sgd"}))(trial.context)
    assert {"accuracy", "val_accuracy"} <= set(found)


def test_a_model_that_is_too_large(keras: Any) -> None:
    with pytest.raises(kt.errors.FailedTrialError, match="max_model_size"):
        built(hyper_model(build_model), kt.HyperParameters({"units": 16}), Building(max_size=20))
    assert built(hyper_model(build_model), kt.HyperParameters({"units": 2}), Building(max_size=20)).built


# -- data ------------------------------------------------------------------------------------------------------------


def endless(tf: Any, plain: Any) -> Any:
    return plain.repeat()


def shuffled(tf: Any, plain: Any) -> Any:
    return plain.shuffle(10).batch(4)


def augmented(tf: Any, plain: Any) -> Any:
    return plain.map(lambda x, y: (x + tf.random.normal([2]), y))


def generated(tf: Any, plain: Any) -> Any:
    return tf.data.Dataset.from_generator(lambda: iter([1, 2]), tf.int32)


def counted(tf: Any, plain: Any) -> Any:
    count = tf.Variable(0.0)
    return plain.map(lambda x, y: (x + count.assign_add(1.0), y))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (endless, "is a data set without an end"),
        (shuffled, "is a data set that shuffles"),
        (augmented, "is a data set that draws at random"),
        (generated, "is a data set that calls Python code"),
        (counted, "is a data set that keeps state"),
    ],
)
def test_data_sets_that_do_not_read_the_same_each_time_are_not_written(
    keras: Any, tmp_path: Path, make: Any, why: str
) -> None:
    import tensorflow as tf

    dataset = make(tf, tf.data.Dataset.from_tensor_slices((X, Y)))
    with pytest.raises(InputError, match=f"search: validation_data {why}.*; give search.data=make_data"):
        fit_arguments.write(FitArguments((), {"validation_data": dataset}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_data_sets_that_do_are_written_as_they_are(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    plain = tf.data.Dataset.from_tensor_slices((X, Y)).map(lambda x, y: (2 * x, y)).cache().batch(7).prefetch(2)
    found = fit_arguments.read(fit_arguments.write(FitArguments((plain,), {}), tmp_path)).args[0]
    for (x, _), (x_found, _) in zip(plain, found, strict=True):
        np.testing.assert_array_equal(x, x_found)


def test_a_function_makes_the_data_where_it_trains(keras: Any, tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"x": X, "y": Y, "validation_data": FIT["validation_data"]}

    objective = KerasObjective(hyper_model(build_model), FitArguments((), {"batch_size": 48}, make), 1)
    for number in range(2):
        trial = Alone(tmp_path / str(number), {"units": 4})
        assert objective(trial.context)["val_loss"] > 0
    assert made == [1]  # once in a process
    with pytest.raises(InputError, match="data: it returned tuple instead of a dict of arguments"):
        FitArguments((), {}, lambda: (X, Y)).made()  # type: ignore[arg-type, return-value]


def test_several_at_a_time_need_data_that_can_be_sent(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    monkeypatch.setenv("HPO_HOME", str(tmp_path / "home"))
    shuffles = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(10).batch(4)
    tuner = kt.RandomSearch(build_model, "val_loss", directory=tmp_path, project_name="two", parallel=2)
    with pytest.raises(InputError, match=r"parallel: 2 trials at a time .* but x is a .* shuffles .*make_data"):
        tuner.search(shuffles)
    with pytest.raises(InputError, match=r"callbacks.0.int: 3 is not a Keras callback"):
        tuner.search(X, Y, callbacks=[3])
