"""A Tuner with a training loop written by hand, which calls on_batch_end and on_epoch_end."""

import json

import keras
import keras_tuner as kt
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_iris

features, target = load_iris(return_X_y=True)
order = np.random.default_rng(0).permutation(150)
features, target = features[order].astype("float32"), target[order]


class LoopTuner(kt.Tuner):
    def run_trial(self, trial, train_ds, val_ds):
        hp = trial.hyperparameters
        model = self.hypermodel.build(hp)
        optimizer = keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log", default=1e-2))
        loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        loss_metric = keras.metrics.Mean()
        batch_size = hp.Int("batch_size", 16, 48, step=16)

        @tf.function
        def run_train_step(x, y):
            with tf.GradientTape() as tape:
                loss = loss_fn(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            loss_metric.update_state(loss)
            return loss

        history = []
        for epoch in range(3):
            self.on_epoch_begin(trial, model, epoch, logs={})
            for batch, (x, y) in enumerate(train_ds.shuffle(120).batch(batch_size)):
                self.on_batch_begin(trial, model, batch, logs={})
                loss = run_train_step(x, y)
                self.on_batch_end(trial, model, batch, logs={"loss": float(loss)})
            correct = sum(int((model(x).numpy().argmax(1) == y.numpy()).sum()) for x, y in val_ds.batch(30))
            logs = {"loss": float(loss_metric.result()), "val_accuracy": correct / 30}
            self.on_epoch_end(trial, model, epoch, logs=logs)
            loss_metric.reset_state()
            history.append(logs["val_accuracy"])
        return max(history)


def build_model(hp):
    model = keras.Sequential([keras.Input((4,))])
    for i in range(hp.Int("layers", 1, 2)):
        model.add(keras.layers.Dense(hp.Int(f"units_{i}", 8, 32, step=8), activation="relu"))
    model.add(keras.layers.Dense(3))
    return model


tuner = LoopTuner(
    oracle=kt.oracles.BayesianOptimizationOracle(objective=kt.Objective("val_accuracy", "max"), max_trials=4),
    hypermodel=build_model,
    directory="results",
    project_name="loop",
)
train = tf.data.Dataset.from_tensor_slices((features[:120], target[:120]))
val = tf.data.Dataset.from_tensor_slices((features[120:], target[120:]))
tuner.search(train, val)

best_hps = tuner.get_best_hyperparameters(1)[0]
print("Best hyperparameters:", best_hps.values)
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "missing": sorted({"batch_size", "learning_rate", "layers", "units_0"} - set(best_hps.values)),
            "shape": list(tuner.hypermodel.build(best_hps)(features).shape),
        }
    )
)
