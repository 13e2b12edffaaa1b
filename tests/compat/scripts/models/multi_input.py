"""Two inputs, two outputs with a loss each; the objective is a metric of one output."""

import json

import keras
import keras_tuner as kt
import numpy as np

rng = np.random.default_rng(2)
n = 400
tokens = rng.integers(0, 50, (n, 12))
numbers = rng.normal(size=(n, 4)).astype("float32")
price = (numbers.sum(1) + (tokens < 10).sum(1)).astype("float32")
sold = (price > price.mean()).astype("float32")


class House(kt.HyperModel):
    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def build(self, hp):
        text = keras.Input((12,), name="text", dtype="int32")
        extra = keras.Input((4,), name="extra")
        with hp.name_scope("text"):
            a = keras.layers.Embedding(self.vocabulary, hp.Int("embedding", 4, 16, step=4))(text)
            a = keras.layers.GlobalAveragePooling1D()(a)
        with hp.name_scope("extra"):
            b = keras.layers.Dense(hp.Int("units", 4, 16, step=4), activation="relu")(extra)
        x = keras.layers.concatenate([a, b])
        outputs = {
            "price": keras.layers.Dense(1, name="price")(x),
            "sold": keras.layers.Dense(1, activation="sigmoid", name="sold")(x),
        }
        model = keras.Model([text, extra], outputs)
        model.compile(
            optimizer=hp.Choice("optimizer", ["adam", "rmsprop"]),
            loss={"price": "mse", "sold": "binary_crossentropy"},
            loss_weights={"price": hp.Float("price_weight", 0.1, 1.0), "sold": 1.0},
            metrics={"price": ["mae"], "sold": ["accuracy"]},
        )
        return model


tuner = kt.Hyperband(
    House(vocabulary=50),
    objective=kt.Objective("val_sold_accuracy", direction="max"),
    max_epochs=3,
    factor=3,
    hyperband_iterations=1,
    project_name="houses",
)
tuner.search(
    {"text": tokens[:300], "extra": numbers[:300]},
    {"price": price[:300], "sold": sold[:300]},
    validation_data=(
        {"text": tokens[300:], "extra": numbers[300:]},
        {"price": price[300:], "sold": sold[300:]},
    ),
    batch_size=50,
)

best = tuner.get_best_models()[0]
predicted = best.predict({"text": tokens[300:], "extra": numbers[300:]}, verbose=0)
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "keys": sorted(key for key in tuner.get_best_hyperparameters()[0].values if not key.startswith("tuner/")),
            "shape": [list(predicted[name].shape) for name in sorted(predicted)],
        }
    )
)
