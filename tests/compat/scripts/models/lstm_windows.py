"""LSTM or GRU on sliding windows of a series."""

import json

import numpy as np
from keras.layers import GRU, LSTM, Dense, Dropout, Input
from keras.models import Sequential
from keras.optimizers import Adam
from keras_tuner import BayesianOptimization
from sklearn.preprocessing import MinMaxScaler

series = np.sin(np.arange(420) / 8) + np.random.default_rng(0).normal(0, 0.05, 420)
scaler = MinMaxScaler()
scaled = scaler.fit_transform(series.reshape(-1, 1))
WINDOW = 16


def windows(data, size):
    x, y = [], []
    for i in range(len(data) - size):
        x.append(data[i : i + size])
        y.append(data[i + size, 0])
    return np.array(x), np.array(y)


X, Y = windows(scaled, WINDOW)
X_train, y_train, X_test, y_test = X[:320], Y[:320], X[320:], Y[320:]


class Sequence:
    """Holds what is shared by the models."""

    units = (8, 24)


def build_model(hp):
    model = Sequential()
    model.add(Input((WINDOW, 1)))
    layer = {"lstm": LSTM, "gru": GRU}[hp.Choice("cell", ["lstm", "gru"])]
    n_layers = hp.Int("n_layers", 1, 2)
    for i in range(n_layers):
        units = hp.Int("units_" + str(i), *Sequence.units, step=8)
        model.add(layer(units, return_sequences=i < n_layers - 1))
        model.add(Dropout(hp.Float("dropout_" + str(i), 0, 0.3, step=0.1)))
    model.add(Dense(1, activation=hp.Choice("dense_activation", values=["linear", "sigmoid"], default="linear")))
    model.compile(loss="mse", optimizer=Adam(hp.Choice("lr", [1e-2, 5e-3])), metrics=["mae"])
    return model


tuner = BayesianOptimization(
    build_model,
    objective="val_loss",
    max_trials=3,
    num_initial_points=2,
    alpha=1e-4,
    beta=2.6,
    seed=42,
    directory="bayesian",
    project_name="series",
)
tuner.search(x=X_train, y=y_train, epochs=2, batch_size=32, validation_data=(X_test, y_test), shuffle=False, verbose=0)

best = tuner.get_best_models()[0]
predicted = scaler.inverse_transform(best.predict(X_test, verbose=0))
trial = tuner.oracle.get_best_trials(num_trials=1)[0]
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": trial.score,
            "mae": trial.metrics.get_best_value("val_mae"),
            "learning_rate_is_one_of": tuner.get_best_hyperparameters()[0].get("lr") in (1e-2, 5e-3),
            "shape": list(predicted.shape),
        }
    )
)
