"""A table with numbers and words: layers that were adapted to the data are part of the model."""

import json

import keras
import keras_tuner as kt
import numpy as np
import tensorflow as tf

rng = np.random.default_rng(1)
rows = 600
table = {
    "age": rng.integers(18, 80, rows).astype("float32"),
    "income": rng.lognormal(10, 0.5, rows).astype("float32"),
    "city": rng.choice(["paris", "rome", "oslo"], rows).astype(object),
}
target = ((table["age"] > 40) ^ (table["city"] == "rome")).astype("int32")


def to_dataset(start, stop, shuffle=False):
    columns = {name: values[start:stop] for name, values in table.items()}
    columns["city"] = tf.constant(columns["city"].tolist())
    data = tf.data.Dataset.from_tensor_slices((columns, target[start:stop]))
    if shuffle:
        data = data.shuffle(200, seed=0)
    return data.batch(32).prefetch(tf.data.AUTOTUNE)


train_ds, val_ds = to_dataset(0, 450, shuffle=True), to_dataset(450, rows)

normalizers = {}
for name in ("age", "income"):
    normalizers[name] = keras.layers.Normalization(axis=None)
    normalizers[name].adapt(table[name])
lookup = keras.layers.StringLookup(output_mode="one_hot")
lookup.adapt(train_ds.map(lambda features, _: features["city"]))


def build_model(hp):
    inputs = {
        "age": keras.Input(shape=(1,), name="age"),
        "income": keras.Input(shape=(1,), name="income"),
        "city": keras.Input(shape=(1,), name="city", dtype="string"),
    }
    features = [normalizers[name](inputs[name]) for name in normalizers] + [lookup(inputs["city"])]
    x = keras.layers.Concatenate()(features)
    for _ in range(hp.Int("num_layers", 1, 2)):
        x = keras.layers.Dense(hp.Int("units", 8, 32, step=8), activation=hp.Choice("activation", ["relu", "tanh"]))(x)
    x = keras.layers.Dense(1, activation="sigmoid")(x)
    model = keras.Model(inputs, x)
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model


tuner = kt.RandomSearch(build_model, objective="val_accuracy", max_trials=3, directory="tabular", project_name="people")
tuner.search(train_ds, epochs=2, validation_data=val_ds)

best_model = tuner.get_best_models()[0]
best_model.evaluate(val_ds)
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials()[0].score,
            "keys": sorted(tuner.get_best_hyperparameters()[0].values),
            "shape": list(best_model.predict(val_ds, verbose=0).shape),
        }
    )
)
