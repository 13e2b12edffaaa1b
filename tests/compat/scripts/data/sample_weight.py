"""Weighted rows, a layer and a loss of one's own, the optimizer chosen by its class."""

import json

import keras
import keras_tuner as kt
import numpy as np
from keras import ops
from sklearn.datasets import load_diabetes

X, y = load_diabetes(return_X_y=True)
X, y = X.astype("float32"), (y / 100).astype("float32")
row_weights = np.where(y > 2, 2.0, 1.0).astype("float32")


@keras.saving.register_keras_serializable(package="mine")
class Gate(keras.layers.Layer):
    """Scales each feature."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, inputs):
        return inputs * self.scale


def huber(y_true, y_pred):
    error = ops.abs(y_true - y_pred)
    return ops.mean(ops.where(error < 1, 0.5 * error**2, error - 0.5), axis=-1)


def get_optimizer(hp):
    name = hp.Choice("optimizer", ["adam", "sgd", "rmsprop"])
    lr = hp.Float("learning_rate", min_value=1e-3, max_value=1e-1, sampling="log")
    return {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD, "rmsprop": keras.optimizers.RMSprop}[name](lr)


def build_model(hp: kt.HyperParameters):
    inputs = keras.Input((10,))
    x = Gate()(inputs)
    x = keras.layers.Dense(hp.Int("units", 16, 64, step=16), activation=keras.activations.silu)(x)
    x = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile(optimizer=get_optimizer(hp), loss=huber, weighted_metrics=["mae"])
    return model


tuner = kt.BayesianOptimization(build_model, objective="val_loss", max_trials=3, directory="rows", project_name="huber")
tuner.search(
    X[:330],
    y[:330],
    sample_weight=row_weights[:330],
    validation_data=(X[330:], y[330:], row_weights[330:]),
    epochs=3,
    batch_size=32,
)
best = tuner.get_best_models(num_models=1)[0]
best.save("best.keras")
again = keras.models.load_model("best.keras", custom_objects={"huber": huber})
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials()[0].score,
            "keys": sorted(tuner.get_best_hyperparameters()[0].values),
            "same_after_loading": bool(np.allclose(again.predict(X, verbose=0), best.predict(X, verbose=0), atol=1e-5)),
            "shape": list(again.predict(X, verbose=0).shape),
        }
    )
)
