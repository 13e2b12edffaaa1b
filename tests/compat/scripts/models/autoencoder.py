"""A subclassed autoencoder; the encoder of the best model is used afterwards."""

import json

import keras
import keras_tuner
from keras import layers, losses
from sklearn.datasets import load_digits

x = (load_digits().data / 16).astype("float32")
x_train, x_test = x[:1000], x[1000:1300]


class Autoencoder(keras.Model):
    def __init__(self, latent_dim, hidden, **kwargs):
        super().__init__(**kwargs)
        self.encoder = keras.Sequential(
            [layers.Dense(hidden, activation="relu"), layers.Dense(latent_dim, activation="relu")]
        )
        self.decoder = keras.Sequential(
            [layers.Dense(hidden, activation="relu"), layers.Dense(64, activation="sigmoid")]
        )

    def call(self, x):
        return self.decoder(self.encoder(x))


def model_builder(hp):
    model = Autoencoder(hp.Int("latent_dim", 4, 16, 4), hp.Choice("hidden", [16, 32]))
    optimizer = hp.Choice("optimizer", ["adam", "sgd"])
    if optimizer == "sgd":
        hp.Float("momentum", 0.0, 0.9, default=0.5)
        optimizer = keras.optimizers.SGD(0.1, momentum=hp.get("momentum"))
    model(x_train[:1])
    model.compile(optimizer=optimizer, loss=losses.MeanSquaredError())
    return model


tuner = keras_tuner.RandomSearch(model_builder, objective="val_loss", max_trials=3, seed=3, overwrite=True)
tuner.search(x_train, x_train, epochs=2, validation_data=(x_test, x_test), verbose=2)

best_model = tuner.get_best_models(num_models=1)[0]
encoded = best_model.encoder(x_test).numpy()
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "encoded_as_chosen": encoded.shape[1] == tuner.get_best_hyperparameters()[0]["latent_dim"],
            "test_loss": float(best_model.evaluate(x_test, x_test, verbose=0)),
            "shape": list(best_model.predict(x_test, verbose=0).shape),
        }
    )
)
