"""A CNN on images, with layers that augment them; the number of blocks is tuned, too."""

import json

import keras
import keras_tuner as kt
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype("float32")[:900]
x_train, x_test, y_train, y_test = train_test_split(images, labels[:900], test_size=0.2, random_state=0)

augmentation = keras.Sequential([layers.RandomTranslation(0.1, 0.1), layers.RandomRotation(0.05)], name="augment")


def build_model(hp):
    inputs = keras.Input(shape=(8, 8, 1))
    x = layers.Rescaling(1.0 / 16)(inputs)
    if hp.Boolean("augment"):
        x = augmentation(x)
    for i in range(hp.Int("conv_blocks", 1, 3, default=2)):
        filters = hp.Int(f"filters_{i}", min_value=8, max_value=32, step=8)
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        if hp.Choice("pooling", ["max", "avg"]) == "max":
            x = layers.MaxPooling2D(padding="same")(x)
        else:
            x = layers.AveragePooling2D(2, padding="same")(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(hp.Float("dropout", 0.0, 0.5, step=0.1))(x)
    outputs = layers.Dense(10, activation="softmax")(x)
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


tuner = kt.RandomSearch(
    build_model,
    objective="val_accuracy",
    max_trials=3,
    executions_per_trial=1,
    overwrite=True,
    directory="my_dir",
    project_name="digits",
)
tuner.search_space_summary()

stop_early = keras.callbacks.EarlyStopping(monitor="val_loss", patience=2)
tuner.search(x_train, y_train, epochs=3, validation_split=0.2, batch_size=64, callbacks=[stop_early])

best_model = tuner.get_best_models(num_models=2)[0]
best_model.summary()
loss, accuracy = best_model.evaluate(x_test, y_test, verbose=0)
best_hps = tuner.get_best_hyperparameters(num_trials=1)[0]

print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "test_score": accuracy,
            "missing": sorted(
                {"augment", "conv_blocks", "filters_0", "pooling", "dropout", "learning_rate"} - set(best_hps.values)
            ),
            "shape": list(best_model.predict(x_test, verbose=0).shape),
        }
    )
)
