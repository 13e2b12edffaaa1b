"""Defines a hypermodel of Xception (Chollet 2017, arXiv:1610.02357): residual blocks of separable convolutions."""

from __future__ import annotations

from typing import Any

from hpo_flows.keras.applications.images import Classifier, channels, compiled, pooled
from hpo_flows.keras.space.hyperparameters import HyperParameters


class HyperXception(Classifier):
    """An Xception of any width and depth."""

    def declared(self, hp: HyperParameters) -> dict[str, Any]:
        chosen = {
            "activation": hp.Choice("activation", ["relu", "selu"]),
            "conv2d_num_filters": hp.Choice("conv2d_num_filters", [32, 64, 128], default=64),
            "kernel_size": hp.Choice("kernel_size", [3, 5]),
            "initial_strides": hp.Choice("initial_strides", [2]),
            "sep_num_filters": hp.Int("sep_num_filters", 128, 768, step=128, default=256),
            "num_residual_blocks": hp.Int("num_residual_blocks", 2, 8, default=4),
            "pooling": hp.Choice("pooling", ["avg", "flatten", "max"]),
        }
        if self.include_top:
            chosen["num_dense_layers"] = hp.Int("num_dense_layers", 1, 3)
            chosen["dropout_rate"] = hp.Float("dropout_rate", 0.0, 0.6, step=0.1, default=0.5)
            chosen["dense_use_bn"] = hp.Choice("dense_use_bn", [True, False])
            chosen["learning_rate"] = hp.Choice("learning_rate", [1e-3, 1e-4, 1e-5])
        return chosen

    def build(self, hp: HyperParameters) -> Any:
        import keras
        from keras import layers

        chosen = self.declared(hp)
        activation, width = chosen["activation"], chosen["sep_num_filters"]
        inputs, x = self.begun()
        settings = {"strides": chosen["initial_strides"], **_settings(activation)}
        x = _activated(layers.Conv2D(chosen["conv2d_num_filters"], chosen["kernel_size"], **settings)(x), activation)
        for _ in range(chosen["num_residual_blocks"]):
            x = _block(x, width, activation)
        x = pooled(_block(x, 2 * width, activation, halves=True), chosen["pooling"])
        if not self.include_top:
            return keras.Model(inputs, x, name="Xception")
        for _ in range(chosen["num_dense_layers"]):
            x = layers.Dense(self.classes)(x)
            x = _activated(x, activation, normalises=bool(chosen["dense_use_bn"]))
            x = layers.Dropout(chosen["dropout_rate"])(x)
        x = layers.Dense(self.classes, activation="softmax")(x)
        return compiled(keras.Model(inputs, x, name="Xception"), keras.optimizers.Adam(chosen["learning_rate"]))


def _settings(activation: str) -> dict[str, Any]:
    """Those of a convolution before an activation: what is normalised needs no bias."""
    return {"padding": "same", "use_bias": activation != "relu"}


def _activated(x: Any, activation: str, normalises: bool = True) -> Any:
    """After a layer; a SELU normalises by itself."""
    from keras import layers

    if activation == "relu" and normalises:
        x = layers.BatchNormalization(axis=channels() if len(x.shape) > 2 else -1)(x)
    return layers.Activation(activation)(x)


def _block(x: Any, filters: int, activation: str, halves: bool = False) -> Any:
    """Two separable convolutions beside a shortcut; the last block halves height and width."""
    from keras import layers

    strides, shortcut = 2 if halves else 1, x
    if halves or filters != x.shape[channels()]:
        shortcut = layers.Conv2D(filters, 1, strides=strides, padding="same")(x)
    begin = "lecun_normal" if activation == "selu" else "glorot_uniform"
    for _ in range(2):
        convolution = layers.SeparableConv2D(
            filters, 3, depthwise_initializer=begin, pointwise_initializer=begin, **_settings(activation)
        )
        x = _activated(convolution(x), activation)
    if halves:
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    return layers.Add()([x, shortcut])
