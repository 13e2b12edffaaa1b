"""Defines a hypermodel of residual networks: the first version (He et al. 2015, arXiv:1512.03385), the second, which
activates before it convolves (He et al. 2016, arXiv:1603.05027), and ResNeXt, in groups (Xie et al. 2017,
arXiv:1611.05431).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpo_flows.keras.applications.images import Classifier, channels, compiled, pooled
from hpo_flows.keras.space.hyperparameters import HyperParameters

WIDTHS = (64, 128, 256, 512)
"""The channels inside the blocks of the four stacks."""

GROUPS = 32

EPSILON = 1.001e-5


class HyperResNet(Classifier):
    """A ResNet of any version and depth."""

    def declared(self, hp: HyperParameters) -> dict[str, Any]:
        chosen = {
            "version": hp.Choice("version", ["v1", "v2", "next"], default="v2"),
            "conv3_depth": hp.Choice("conv3_depth", [4, 8]),
            "conv4_depth": hp.Choice("conv4_depth", [6, 23, 36]),
            "pooling": hp.Choice("pooling", ["avg", "max"], default="avg"),
        }
        if self.include_top:
            chosen["optimizer"] = hp.Choice("optimizer", ["adam", "rmsprop", "sgd"], default="adam")
            chosen["learning_rate"] = hp.Choice("learning_rate", [0.1, 0.01, 0.001], default=0.01)
        return chosen

    def build(self, hp: HyperParameters) -> Any:
        import keras
        from keras import layers

        chosen = self.declared(hp)
        second = chosen["version"] == "v2"
        inputs, x = self.begun()
        x = layers.Conv2D(64, 7, strides=2, padding="same", use_bias=chosen["version"] != "next", name="conv1")(x)
        x = x if second else _activated(x, "conv1")
        x = layers.MaxPooling2D(3, strides=2, padding="same", name="pool1")(x)
        block, wider = _BLOCKS[chosen["version"]]
        depths = (3, chosen["conv3_depth"], chosen["conv4_depth"], 3)
        for i, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True)):
            for j in range(depth):
                strides = 2 if i > 0 and j == 0 else 1
                x = block(x, width * wider, 4 * width, strides, j == 0, f"conv{i + 2}_block{j + 1}")
        x = pooled(_activated(x, "post") if second else x, chosen["pooling"])
        if not self.include_top:
            return keras.Model(inputs, x, name="ResNet")
        x = layers.Dense(self.classes, activation="softmax", name="probs")(x)
        optimizer = keras.optimizers.get(chosen["optimizer"])
        optimizer.learning_rate = chosen["learning_rate"]
        return compiled(keras.Model(inputs, x, name="ResNet"), optimizer)


def _normalised(x: Any, name: str) -> Any:
    from keras import layers

    return layers.BatchNormalization(axis=channels(), epsilon=EPSILON, name=f"{name}_bn")(x)


def _activated(x: Any, name: str) -> Any:
    from keras import layers

    return layers.Activation("relu", name=f"{name}_relu")(_normalised(x, name))


def _added(x: Any, shortcut: Any, name: str) -> Any:
    from keras import layers

    return layers.Activation("relu", name=f"{name}_out")(layers.Add(name=f"{name}_add")([shortcut, x]))


def _first(x: Any, width: int, out: int, strides: int, projects: bool, name: str) -> Any:
    """A block of the first version: convolutions of 1, 3 and 1 pixels, normalised, beside a shortcut."""
    from keras import layers

    shortcut = x
    if projects:
        shortcut = _normalised(layers.Conv2D(out, 1, strides=strides, name=f"{name}_0")(x), f"{name}_0")
    x = _activated(layers.Conv2D(width, 1, strides=strides, name=f"{name}_1")(x), f"{name}_1")
    x = _activated(layers.Conv2D(width, 3, padding="same", name=f"{name}_2")(x), f"{name}_2")
    return _added(_normalised(layers.Conv2D(out, 1, name=f"{name}_3")(x), f"{name}_3"), shortcut, name)


def _second(x: Any, width: int, out: int, strides: int, projects: bool, name: str) -> Any:
    """A block of the second version: the same, but each convolution comes after its activation."""
    from keras import layers

    before = _activated(x, f"{name}_0")
    shortcut = layers.Conv2D(out, 1, strides=strides, name=f"{name}_0")(before) if projects else x
    x = layers.Conv2D(width, 1, use_bias=False, name=f"{name}_1")(before)
    x = _activated(x, f"{name}_1")
    x = layers.Conv2D(width, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_2")(x)
    x = layers.Conv2D(out, 1, name=f"{name}_3")(_activated(x, f"{name}_2"))
    return layers.Add(name=f"{name}_out")([shortcut, x])


def _next(x: Any, width: int, out: int, strides: int, projects: bool, name: str) -> Any:
    """A block of ResNeXt: the first version, twice as wide inside, and there in groups."""
    from keras import layers

    from hpo_flows.keras.applications.layers import GroupedConvolution

    shortcut = x
    if projects:
        shortcut = layers.Conv2D(out, 1, strides=strides, use_bias=False, name=f"{name}_0")(x)
        shortcut = _normalised(shortcut, f"{name}_0")
    x = _activated(layers.Conv2D(width, 1, use_bias=False, name=f"{name}_1")(x), f"{name}_1")
    x = _activated(GroupedConvolution(GROUPS, 3, strides, name=f"{name}_2")(x), f"{name}_2")
    x = _normalised(layers.Conv2D(out, 1, use_bias=False, name=f"{name}_3")(x), f"{name}_3")
    return _added(x, shortcut, name)


_BLOCKS: dict[str, tuple[Callable[..., Any], int]] = {"v1": (_first, 1), "v2": (_second, 1), "next": (_next, 2)}
"""The block of each version, and how much wider it is inside."""
