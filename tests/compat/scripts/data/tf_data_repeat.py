"""An endless tf.data pipeline with augmentation, and steps_per_epoch."""

import json

import keras
import keras_tuner as kt
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

AUTOTUNE = tf.data.AUTOTUNE
BATCH = 32
images, labels = load_digits(return_X_y=True)
images = (images / 16).reshape(-1, 8, 8, 1).astype("float32")


def augment(image, label):
    image = tf.image.random_brightness(image, 0.1)
    return tf.clip_by_value(image, 0.0, 1.0), tf.one_hot(label, 10)


train = (
    tf.data.Dataset.from_tensor_slices((images[:640], labels[:640]))
    .shuffle(640, reshuffle_each_iteration=True)
    .map(augment, num_parallel_calls=AUTOTUNE)
    .repeat()
    .batch(BATCH)
    .prefetch(AUTOTUNE)
)
val = (
    tf.data.Dataset.from_tensor_slices((images[640:800], labels[640:800]))
    .map(lambda image, label: (image, tf.one_hot(label, 10)))
    .cache()
    .batch(BATCH)
    .repeat()
)


def build_model(hp):
    model = keras.Sequential()
    model.add(keras.layers.Input((8, 8, 1)))
    model.add(keras.layers.Conv2D(hp.Int("filters", 8, 24, 8), hp.Choice("kernel", [3, 5]), activation="relu"))
    model.add(keras.layers.GlobalMaxPooling2D())
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile("adam", loss="categorical_crossentropy", metrics=["categorical_accuracy"])
    return model


tuner = kt.RandomSearch(
    build_model, objective="val_categorical_accuracy", max_trials=3, directory="tfdata", project_name="repeat"
)
tuner.search(train, steps_per_epoch=20, epochs=2, validation_data=val, validation_steps=5)

best = tuner.get_best_models()[0]
seen = [np.asarray(batch[1]).argmax(1) for batch in train.take(2)]
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "keys": sorted(tuner.get_best_hyperparameters()[0].values),
            "batches_differ": bool((seen[0] != seen[1]).any()),
            "evaluated": len(best.evaluate(val, steps=5, verbose=0)),
            "shape": list(best.predict(images[:7], verbose=0).shape),
        }
    )
)
