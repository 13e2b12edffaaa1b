"""A GAN-like training: HyperModel.fit has a loop of its own over two networks, and calls the callbacks by hand."""

import json

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

real = np.random.default_rng(0).normal(3.0, 0.5, (512, 2)).astype("float32")


class GAN(keras.Model):
    def __init__(self, generator, discriminator, noise_dim):
        super().__init__()
        self.generator, self.discriminator, self.noise_dim = generator, discriminator, noise_dim

    def call(self, noise):
        return self.discriminator(self.generator(noise))


class GANHyperModel(keras_tuner.HyperModel):
    def build(self, hp):
        noise_dim = hp.Int("noise_dim", 2, 8, step=2)
        generator = keras.Sequential(
            [
                keras.Input((noise_dim,)),
                keras.layers.Dense(hp.Int("g_units", 8, 32, step=8), activation="relu"),
                keras.layers.Dense(2),
            ]
        )
        discriminator = keras.Sequential(
            [
                keras.Input((2,)),
                keras.layers.Dense(hp.Int("d_units", 8, 32, step=8), activation="relu"),
                keras.layers.Dense(1),
            ]
        )
        model = GAN(generator, discriminator, noise_dim)
        model(tf.zeros((1, noise_dim)))
        return model  # not compiled

    def fit(self, hp, model, data, epochs=2, callbacks=None, **kwargs):
        batch_size = hp.Choice("batch_size", [32, 64])
        dataset = tf.data.Dataset.from_tensor_slices(data).shuffle(512).batch(batch_size, drop_remainder=True)
        d_optimizer = keras.optimizers.Adam(hp.Float("d_lr", 1e-3, 1e-2, sampling="log"))
        g_optimizer = keras.optimizers.Adam(hp.Float("g_lr", 1e-3, 1e-2, sampling="log"))
        loss_fn = keras.losses.BinaryCrossentropy(from_logits=True)

        @tf.function
        def train_step(batch):
            noise = tf.random.normal((batch_size, model.noise_dim))
            with tf.GradientTape() as tape:
                scores = tf.concat([model.discriminator(batch), model.discriminator(model.generator(noise))], 0)
                truth = tf.concat([tf.ones((batch_size, 1)), tf.zeros((batch_size, 1))], 0)
                d_loss = loss_fn(truth, scores)
            weights = model.discriminator.trainable_weights
            d_optimizer.apply_gradients(zip(tape.gradient(d_loss, weights), weights))
            with tf.GradientTape() as tape:
                g_loss = loss_fn(tf.ones((batch_size, 1)), model(noise))
            weights = model.generator.trainable_weights
            g_optimizer.apply_gradients(zip(tape.gradient(g_loss, weights), weights))
            return d_loss, g_loss

        for callback in callbacks:
            callback.set_model(model)
        best = float("inf")
        for epoch in range(epochs):
            for batch in dataset:
                train_step(batch)
            made = model.generator(tf.random.normal((256, model.noise_dim))).numpy()
            distance = float(np.abs(made.mean(0) - data.mean(0)).mean())
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs={"distance": distance})
            print(f"epoch {epoch}: distance {distance:.3f}")
            best = min(best, distance)
        return best


tuner = keras_tuner.BayesianOptimization(
    hypermodel=GANHyperModel(),
    objective=keras_tuner.Objective("distance", "min"),
    max_trials=3,
    overwrite=True,
    directory="gan_dir",
    project_name="gan",
)
tuner.search(real, epochs=2)

best_hps = tuner.get_best_hyperparameters()[0]
model = GANHyperModel().build(best_hps)
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "keys": sorted(best_hps.values),
            "shape": list(model.generator(np.zeros((5, best_hps.get("noise_dim")), "float32")).shape),
        }
    )
)
