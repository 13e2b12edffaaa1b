"""Callbacks of one's own beside Keras's: TensorBoard, checkpoints, CSV, schedules."""

import json
import os

import keras
import keras_tuner as kt
from keras.callbacks import CSVLogger, LearningRateScheduler, ModelCheckpoint, ReduceLROnPlateau, TensorBoard
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

x, y = load_iris(return_X_y=True)
x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=0.3, random_state=0)


class PrintEpoch(keras.callbacks.Callback):
    """Says how an epoch went, and adds a metric to its logs."""

    def __init__(self, every):
        super().__init__()
        self.every = every
        self.seen = []

    def on_train_begin(self, logs=None):
        assert self.seen == [], "each training has a copy of its own"

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(epoch)
        logs["gap"] = logs["loss"] - logs["val_loss"]
        if epoch % self.every == 0:
            print(f"  epoch {epoch}: {logs['val_loss']:.3f}, {len(self.model.layers)} layers")


def build_model(hp):
    model = keras.Sequential([keras.Input((4,))])
    model.add(keras.layers.Dense(hp.Int("units", 4, 16, step=4), activation="relu"))
    model.add(keras.layers.Dense(3, activation="softmax"))
    model.compile(
        keras.optimizers.SGD(hp.Float("lr", 1e-2, 1e-1)), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


os.makedirs("logs", exist_ok=True)
callbacks = [
    PrintEpoch(every=2),
    TensorBoard("logs/tensorboard"),
    ModelCheckpoint(os.path.abspath("logs/best.keras"), monitor="val_loss", save_best_only=True),
    CSVLogger("logs/training.csv", append=True),
    ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1),
    LearningRateScheduler(lambda epoch, lr: lr * 0.9),
    keras.callbacks.LambdaCallback(on_train_end=lambda logs: print("done", sorted(logs or {}))),
    keras.callbacks.TerminateOnNaN(),
]
tuner = kt.RandomSearch(
    build_model, objective="val_loss", max_trials=3, executions_per_trial=2, seed=2, directory="logs/search"
)
tuner.search(x_train, y_train, epochs=3, validation_data=(x_val, y_val), callbacks=callbacks, verbose=0)

print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "keys": sorted(tuner.get_best_hyperparameters()[0].values),
            "gap_is_a_metric": tuner.oracle.get_best_trials(1)[0].metrics.exists("gap"),
            "mine_is_untouched": callbacks[0].seen,
            "shape": list(tuner.get_best_models()[0].predict(x_val, verbose=0).shape),
        }
    )
)
