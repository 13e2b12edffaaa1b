"""Defines a hypermodel that augments images; its best factors are searched with the rest."""

from __future__ import annotations

from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.keras.applications.images import ImageModel
from hpo_flows.keras.space.hyperparameters import HyperParameters

STEP = 0.05


class HyperImageAugment(ImageModel):
    """Augments images; give it to :class:`HyperEfficientNet`, or call the model that it builds.

    A factor is between 0 and the number given, or between two numbers; None leaves its transform out.

    Args:
        input_shape: ``(height, width, channels)``.
        input_tensor: A Keras tensor to use as the images, instead of a shape.
        rotate: Of a half turn.
        translate_x, translate_y: Of the width, and of the height.
        contrast: Of the contrast.
        augment_layers: How many transforms each image undergoes, picked at random: a maximum, or a minimum and a
            maximum. 0 for all of them, one after another.
        **settings: Those of every hypermodel.

    Raises:
        InputError: An argument is invalid.
    """

    def __init__(
        self,
        input_shape: Any = None,
        input_tensor: Any = None,
        rotate: Any = 0.5,
        translate_x: Any = 0.4,
        translate_y: Any = 0.4,
        contrast: Any = 0.3,
        augment_layers: Any = 3,
        **settings: Any,
    ) -> None:
        super().__init__(input_shape, input_tensor, **settings)
        given = {"rotate": rotate, "translate_x": translate_x, "translate_y": translate_y, "contrast": contrast}
        self.ranges = {name: _range(name, each, 0) for name, each in given.items() if each}
        self.picks = _range("augment_layers", augment_layers, 1, int) if augment_layers else None

    def declared(self, hp: HyperParameters) -> dict[str, Any]:
        picks = 1 if self.picks is None else hp.Int("augment_layers", *self.picks)
        step = STEP if self.picks is None else None
        factors = {
            name: hp.Float(f"factor_{name}", low, high, step) for name, (low, high) in self.ranges.items() if picks
        }
        return {"augment_layers": picks, "factors": factors}

    def build(self, hp: HyperParameters) -> Any:
        import keras

        from hpo_flows.keras.applications.layers import TRANSFORMS, RandAugment

        chosen = self.declared(hp)
        inputs, x = self.begun()
        if self.picks is None:
            for name, factor in chosen["factors"].items():
                x = TRANSFORMS[name](factor)(x) if factor else x
        else:
            for _ in range(chosen["augment_layers"]):
                x = RandAugment(chosen["factors"])(x)
        return keras.Model(inputs, x, name="image_augment" if self.picks is None else "image_rand_augment")


def _range(name: str, given: Any, low: float, kind: Any = (int, float)) -> tuple[Any, Any]:
    """The ends of a range that is given as its upper end, or as both."""
    ends = tuple(given) if isinstance(given, list | tuple) else (low, given)
    if len(ends) != 2 or not all(isinstance(end, kind) and not isinstance(end, bool) for end in ends):
        what = "whole numbers" if kind is int else "numbers"
        raise InputError(name, f"{given!r} is not a number, or two", f"give the highest of its {what}, or both ends")
    return ends
