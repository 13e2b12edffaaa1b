"""Two layers of the hypermodels for images. Importing this loads Keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

TRANSFORMS = {
    "rotate": lambda factor: keras.layers.RandomRotation(factor),
    "translate_x": lambda factor: keras.layers.RandomTranslation(0.0, factor),
    "translate_y": lambda factor: keras.layers.RandomTranslation(factor, 0.0),
    "contrast": lambda factor: keras.layers.RandomContrast(factor),
}
"""The transforms by name, each a layer of a factor that says how far it goes."""


@keras.saving.register_keras_serializable(package="hpo_flows")
class RandAugment(keras.layers.Layer):  # type: ignore[misc]
    """Changes each image by one of several transforms, picked at random (Cubuk et al. 2020, arXiv:1909.13719).

    Args:
        factors: How far each transform goes, by name; one with 0 leaves its images as they are.
        **settings: Those of every layer.
    """

    def __init__(self, factors: Mapping[str, float], **settings: Any) -> None:
        super().__init__(**settings)
        self.factors = dict(factors)
        self.transforms = [TRANSFORMS[name](factor) if factor else None for name, factor in self.factors.items()]
        self.random = keras.random.SeedGenerator()

    def build(self, input_shape: Any) -> None:
        for transform in self.transforms:
            if transform is not None:
                transform.build(input_shape)
        super().build(input_shape)

    def call(self, images: Any, training: bool = False) -> Any:
        if not training:
            return images
        shape = (keras.ops.shape(images)[0], 1, 1, 1)
        picked = keras.random.randint(shape, 0, len(self.transforms), seed=self.random)
        changed = images
        for i, transform in enumerate(self.transforms):
            if transform is not None:
                changed = keras.ops.where(picked == i, transform(images, training=True), changed)
        return changed

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factors": self.factors}


@keras.saving.register_keras_serializable(package="hpo_flows")
class GroupedConvolution(keras.layers.Layer):  # type: ignore[misc]
    """A convolution in groups of channels that keeps their number (Xie et al. 2017, arXiv:1611.05431).

    It is a convolution of each channel by itself, then a sum over those of a group, since TensorFlow has no derivative
    of grouped convolutions without a GPU.

    Args:
        groups: How many groups there are.
        kernel_size, strides: Those of a convolution.
        **settings: Those of every layer.
    """

    def __init__(self, groups: int, kernel_size: int = 3, strides: int = 1, **settings: Any) -> None:
        super().__init__(**settings)
        self.groups, self.kernel_size, self.strides = groups, kernel_size, strides
        self.depthwise: Any = None

    def build(self, input_shape: Any) -> None:
        self.axis = len(input_shape) - 1 if keras.config.image_data_format() == "channels_last" else 1
        self.width = input_shape[self.axis] // self.groups
        self.depthwise = keras.layers.DepthwiseConv2D(
            self.kernel_size, self.strides, "same", depth_multiplier=self.width, use_bias=False, name="depthwise"
        )
        self.depthwise.build(input_shape)
        super().build(input_shape)

    def call(self, x: Any) -> Any:
        x = self.depthwise(x)
        shape = list(keras.ops.shape(x))
        before, after = shape[: self.axis], shape[self.axis + 1 :]
        x = keras.ops.reshape(x, [*before, self.groups, self.width, self.width, *after])
        x = keras.ops.sum(x, axis=self.axis + 1)
        return keras.ops.reshape(x, [*before, self.groups * self.width, *after])

    def compute_output_shape(self, input_shape: Any) -> Any:
        size = [None if n is None else -(-n // self.strides) for n in input_shape]
        size[0], size[self.axis] = input_shape[0], input_shape[self.axis]
        return tuple(size)

    def get_config(self) -> dict[str, Any]:
        own = {"groups": self.groups, "kernel_size": self.kernel_size, "strides": self.strides}
        return {**super().get_config(), **own}
