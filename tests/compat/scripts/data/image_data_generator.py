"""ImageDataGenerator.flow, as in many older scripts."""

import json

import tensorflow as tf
from keras_tuner.tuners import RandomSearch
from sklearn.datasets import load_digits
from tensorflow import keras
from tensorflow.keras.preprocessing.image import ImageDataGenerator

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1)[:640]
targets = tf.keras.utils.to_categorical(labels[:640], 10)

train_datagen = ImageDataGenerator(rescale=1 / 16, width_shift_range=0.1, validation_split=0.25)
train_generator = train_datagen.flow(images, targets, batch_size=32, subset="training", seed=1)
validation_generator = train_datagen.flow(images, targets, batch_size=32, subset="validation", seed=1)


def build_model(hp):
    model = keras.Sequential(
        [
            keras.layers.Conv2D(
                filters=hp.Int("conv_1_filter", min_value=8, max_value=32, step=8),
                kernel_size=hp.Choice("conv_1_kernel", values=[3, 5]),
                activation="relu",
                input_shape=(8, 8, 1),
            ),
            keras.layers.Flatten(),
            keras.layers.Dense(units=hp.Int("dense_1_units", min_value=16, max_value=64, step=16), activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Choice("learning_rate", values=[1e-2, 1e-3])),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


tuner_search = RandomSearch(
    build_model, objective="val_accuracy", max_trials=3, directory="output", project_name="generators"
)
tuner_search.search(train_generator, epochs=2, validation_data=validation_generator)

model = tuner_search.get_best_models(num_models=1)[0]
model.fit(train_generator, epochs=3, validation_data=validation_generator, initial_epoch=2)
print(
    json.dumps(
        {
            "trials": len(tuner_search.oracle.trials),
            "score": tuner_search.oracle.get_best_trials(1)[0].score,
            "keys": sorted(tuner_search.get_best_hyperparameters()[0].values),
            "batches": len(train_generator),
            "shape": list(model.predict(images[:5], verbose=0).shape),
        }
    )
)
