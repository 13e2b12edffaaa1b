"""A PyDataset that makes batches as they are asked for; it counts the epochs, and holds a lock."""

import json
import threading

import keras
import keras_tuner as kt
import numpy as np


class Noisy(keras.utils.PyDataset):
    """A curve, with noise that differs in each epoch."""

    def __init__(self, size, batch_size=32, noise=0.1, **kwargs):
        super().__init__(**kwargs)
        self.x = np.linspace(-2, 2, size).astype("float32")[:, None]
        self.batch_size, self.noise, self.epochs = batch_size, noise, 0
        self.lock = threading.Lock()
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return len(self.x) // self.batch_size

    def __getitem__(self, index):
        with self.lock:
            rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
            x = self.x[rows]
            return x, np.sin(2 * x) + self.rng.normal(0, self.noise, x.shape).astype("float32")

    def on_epoch_end(self):
        self.epochs += 1
        self.rng.shuffle(self.x)


train, held_out = Noisy(640), Noisy(160, noise=0.0)


def build_model(hp):
    model = keras.Sequential([keras.Input((1,))])
    for _ in range(hp.Int("depth", 1, 3)):
        model.add(keras.layers.Dense(hp.Int("width", 8, 32, step=8), hp.Choice("activation", ["tanh", "relu", "selu"])))
    model.add(keras.layers.Dense(1))
    model.compile(keras.optimizers.Adam(hp.Float("lr", 1e-3, 3e-2, sampling="log")), "mse", metrics=["mae"])
    return model


tuner = kt.BayesianOptimization(build_model, "val_mae", max_trials=3, num_initial_points=3, seed=1, overwrite=True)
tuner.search(train, validation_data=held_out, epochs=3, verbose=0)

best = tuner.get_best_models()[0]
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "keys": sorted(tuner.get_best_hyperparameters()[0].values),
            "epochs_counted": train.epochs > 0,
            "shape": list(best.predict(held_out, verbose=0).shape),
        }
    )
)
