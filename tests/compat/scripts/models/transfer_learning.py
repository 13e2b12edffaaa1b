"""A pre-trained base, whose weights build_model reads from a file; how much of it is frozen is tuned."""

import json
import os

import keras
import keras_tuner as kt
import numpy as np
from keras.applications import MobileNetV2

keras.utils.set_random_seed(7)
SHAPE = (32, 32, 3)
rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 96)
images = rng.uniform(0, 60, (96, *SHAPE)).astype("float32")
for image, label in zip(images, labels):
    image[..., label] += 120
y = keras.utils.to_categorical(labels, 3)

if not os.path.exists("base.weights.h5"):  # stands for weights that others have trained
    MobileNetV2(SHAPE, alpha=0.35, include_top=False, weights=None).save_weights("base.weights.h5")


def build_model(hp):
    base = MobileNetV2(SHAPE, alpha=0.35, include_top=False, weights=None)
    base.load_weights("base.weights.h5")
    base.trainable = True
    for layer in base.layers[: hp.Choice("frozen", [100, 150])]:
        layer.trainable = False
    inputs = keras.Input(SHAPE)
    x = keras.applications.mobilenet_v2.preprocess_input(inputs)
    x = base(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(hp.Int("head", 16, 64, step=16), activation="relu")(x)
    outputs = keras.layers.Dense(3, activation="softmax")(x)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.RMSprop(1e-3), loss="categorical_crossentropy", metrics=["accuracy"])
    return model


tuner = kt.RandomSearch(build_model, "val_accuracy", max_trials=2, seed=1, project_name="transfer")
tuner.search(images[:72], y[:72], epochs=1, batch_size=24, validation_data=(images[72:], y[72:]))

best = tuner.get_best_models(1)[0]
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "keys": sorted(tuner.get_best_hyperparameters(1)[0].values),
            "trainable_is_some": 0 < len(best.trainable_weights) < len(best.weights),
            "shape": list(best.predict(images[72:], verbose=0).shape),
        }
    )
)
