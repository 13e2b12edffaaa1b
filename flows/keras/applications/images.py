"""What the hypermodels for images share: their input, their top, and that their space is known without building."""

from __future__ import annotations

from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.keras.space.hypermodel import HyperModel
from hpo_flows.keras.space.hyperparameters import HyperParameters


class ImageModel(HyperModel):
    """A hypermodel of images.

    Args:
        input_shape: ``(height, width, channels)``.
        input_tensor: A Keras tensor to use as the images, instead of a shape.
        **settings: Those of every hypermodel.

    Raises:
        InputError: Neither of the two is given.
    """

    def __init__(self, input_shape: Any = None, input_tensor: Any = None, **settings: Any) -> None:
        super().__init__(**settings)
        if input_shape is None and input_tensor is None:
            raise InputError("input_shape", "is missing", "give it, or input_tensor")
        self.input_shape, self.input_tensor = input_shape, input_tensor

    def declared(self, hp: HyperParameters) -> dict[str, Any]:
        """Declare all hyperparameters; returns their values by name."""
        raise NotImplementedError

    def declare_hyperparameters(self, hp: HyperParameters) -> None:
        self.declared(hp)

    @property
    def declares_all(self) -> bool:
        """Whether :meth:`declare_hyperparameters` declares all that there is, as it does unless a user derives more."""
        return type(self).__module__.startswith(f"{__package__}.")

    def begun(self) -> tuple[Any, Any]:
        """The inputs of a model, and the images."""
        import keras

        if self.input_tensor is not None:
            return keras.utils.get_source_inputs(self.input_tensor), self.input_tensor
        inputs = keras.layers.Input(shape=self.input_shape)
        return inputs, inputs


class Classifier(ImageModel):
    """A hypermodel that tells classes of images apart.

    Args:
        include_top: Whether it ends with a layer of classes and is compiled; otherwise with pooled features.
        input_shape, input_tensor: As for all.
        classes: How many there are.
        **settings: Those of every hypermodel.

    Raises:
        InputError: The number of classes is missing.
    """

    def __init__(
        self,
        include_top: bool = True,
        input_shape: Any = None,
        input_tensor: Any = None,
        classes: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(input_shape, input_tensor, **settings)
        if include_top and not classes:
            raise InputError("classes", "is missing", "say how many classes there are, or give include_top=False")
        self.include_top, self.classes = include_top, classes


def pooled(x: Any, pooling: str) -> Any:
    """Features without height and width."""
    from keras import layers

    kinds = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D, "flatten": layers.Flatten}
    return kinds[pooling](name=f"{pooling}_pool")(x)


def compiled(model: Any, optimizer: Any) -> Any:
    """A model of one-hot classes, compiled."""
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def channels() -> int:
    """The axis of the channels."""
    import keras

    return -1 if keras.config.image_data_format() == "channels_last" else 1
