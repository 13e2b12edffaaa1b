"""Defines a hypermodel of EfficientNets (Tan and Le 2019, arXiv:1905.11946), on those of ``keras.applications``."""

from __future__ import annotations

from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.keras.applications.images import Classifier, compiled, pooled
from hpo_flows.keras.space.hypermodel import HyperModel
from hpo_flows.keras.space.hyperparameters import HyperParameters

SIZES = {"B0": 224, "B1": 240, "B2": 260, "B3": 300, "B4": 380, "B5": 456, "B6": 528, "B7": 600}
"""The height and width of images that each version was designed for."""


class HyperEfficientNet(Classifier):
    """An EfficientNet of any version, with a new top.

    Args:
        input_shape: ``(height, width, channels)``; images are resized to what a version was designed for.
        input_tensor: A Keras tensor to use as the images, instead of a shape.
        classes: How many there are.
        augmentation_model: A model or a hypermodel that augments the images first.
        weights: Those to begin with: ``imagenet``, which Keras downloads, a file, or None for random ones.
        **settings: Those of every hypermodel.

    Raises:
        InputError: An argument is invalid.
    """

    def __init__(
        self,
        input_shape: Any = None,
        input_tensor: Any = None,
        classes: int | None = None,
        augmentation_model: Any = None,
        *,
        weights: str | None = "imagenet",
        **settings: Any,
    ) -> None:
        super().__init__(True, input_shape, input_tensor, classes, **settings)
        if not (augmentation_model is None or callable(augmentation_model) or _is_hypermodel(augmentation_model)):
            problem = f"{augmentation_model!r} is neither a Keras model nor a hypermodel"
            raise InputError("augmentation_model", problem, "give one, or leave it out")
        self.augmentation_model, self.weights = augmentation_model, weights

    @property
    def declares_all(self) -> bool:
        inner = self.augmentation_model
        return super().declares_all and (not _is_hypermodel(inner) or getattr(inner, "declares_all", False))

    def declared(self, hp: HyperParameters) -> dict[str, Any]:
        if _is_hypermodel(self.augmentation_model):
            self.augmentation_model.declare_hyperparameters(hp)
        return {
            "version": hp.Choice("version", list(SIZES), default="B0"),
            "pooling": hp.Choice("pooling", ["avg", "max"], default="avg"),
            "top_dropout_rate": hp.Float("top_dropout_rate", 0.2, 0.8, step=0.2, default=0.2),
            "learning_rate": hp.Choice("learning_rate", [0.1, 0.01, 0.001], default=0.01),
        }

    def build(self, hp: HyperParameters) -> Any:
        import keras
        from keras import layers

        chosen = self.declared(hp)
        inputs, x = self.begun()
        if self.augmentation_model is not None:
            augment = self.augmentation_model
            x = (augment.build(hp) if _is_hypermodel(augment) else augment)(x)
        size = SIZES[chosen["version"]]
        x = layers.Resizing(size, size)(x)
        network = getattr(keras.applications, f"EfficientNet{chosen['version']}")
        x = network(include_top=False, weights=self.weights, input_tensor=x).output
        x = layers.Dropout(chosen["top_dropout_rate"], name="top_dropout")(pooled(x, chosen["pooling"]))
        x = layers.Dense(self.classes, activation="softmax", name="probs")(x)
        model = keras.Model(inputs, x, name="EfficientNet")
        self._compile(model, hp)
        return model

    def _compile(self, model: Any, hp: HyperParameters) -> None:
        """Compile the model; may be overridden."""
        import keras

        compiled(model, keras.optimizers.SGD(self.declared(hp)["learning_rate"], momentum=0.1))


def _is_hypermodel(given: Any) -> bool:
    return isinstance(given, HyperModel)
