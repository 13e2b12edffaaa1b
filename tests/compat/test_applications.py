"""The hypermodels for images: KerasTuner's spaces, and models of our own that train. Nothing is downloaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpo_core.base.errors import InputError
from hpo_flows.keras.applications import HyperEfficientNet, HyperImageAugment, HyperResNet, HyperXception
from hpo_flows.keras.space.exploration import explore
from hpo_flows.keras.space.hypermodel import declares_all
from hpo_flows.keras.space.hyperparameters import HyperParameters

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SHAPE = (32, 32, 3)

SETTINGS: dict[Any, list[dict[str, Any]]] = {
    HyperResNet: [{"classes": 3}, {"include_top": False}],
    HyperXception: [{"classes": 3}, {"include_top": False}],
    HyperEfficientNet: [{"classes": 3}],
    HyperImageAugment: [
        {},
        {"augment_layers": 0, "rotate": [0.2, 0.3], "translate_x": 0.1, "translate_y": None, "contrast": None},
        {"augment_layers": [2, 4], "contrast": [0.25, 0.5]},
    ],
}

CASES = [(kind, settings) for kind, several in SETTINGS.items() for settings in several]


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_the_space_is_known_without_a_model(kind: Any, settings: dict[str, Any]) -> None:
    model = kind(input_shape=SHAPE, **settings)
    assert declares_all(model) and not declares_all(type("Mine", (kind,), {})(input_shape=SHAPE, **settings))
    assert len(explore(model.declare_hyperparameters).space.parameters) >= 2


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (HyperResNet, {"classes": 3}, "input_shape: is missing; give it, or input_tensor"),
    (HyperXception, {"input_shape": SHAPE}, "classes: is missing; say how many"),
    (HyperEfficientNet, {"input_shape": SHAPE}, "classes: is missing"),
    (
        HyperEfficientNet,
        {"input_shape": SHAPE, "classes": 3, "augmentation_model": "no"},
        "augmentation_model: 'no'",
    ),
    (HyperImageAugment, {"input_shape": SHAPE, "rotate": [1, 2, 3]}, r"rotate: \[1, 2, 3\] is not a number, or two"),
    (HyperImageAugment, {"input_shape": SHAPE, "contrast": "much"}, "contrast: 'much' is not a number, or two"),
    (HyperImageAugment, {"input_shape": SHAPE, "augment_layers": 1.5}, "give the highest of its whole numbers"),
]


@pytest.mark.parametrize(("kind", "settings", "message"), WRONG)
def test_wrong_arguments(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**settings)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_the_space_is_that_of_keras_tuner(kind: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import keras
    import keras_tuner

    def untrained(*args: Any, **kwargs: Any) -> Any:
        return keras.applications.EfficientNetB0(*args, **{**kwargs, "weights": None})

    from keras_tuner.src.applications import efficientnet

    monkeypatch.setitem(efficientnet.EFFICIENTNET_MODELS, "B0", untrained)
    theirs = keras_tuner.HyperParameters()
    getattr(keras_tuner.applications, kind.__name__)(input_shape=SHAPE, **settings).build(theirs)
    mine = HyperParameters()
    kind(input_shape=SHAPE, **settings).declare_hyperparameters(mine)
    expected = {each["config"]["name"]: each for each in theirs.get_config()["space"]}
    found = {each["config"]["name"]: each for each in mine.get_config()["space"]}
    for each in (*expected.values(), *found.values()):
        each["config"]["default"] = mine.values[each["config"]["name"]]  # None may stand for the lowest value
    assert found == expected and mine.values == theirs.values


IMAGES = np.random.default_rng(0).random((8, *SHAPE)).astype("float32")

CLASSES = np.eye(3, dtype="float32")[np.arange(8) % 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "values"),
    [
        *((HyperResNet(True, SHAPE, None, 3), {"version": v, "learning_rate": 0.001}) for v in ("v1", "v2", "next")),
        *((HyperXception(True, SHAPE, None, 3), {"activation": a, "pooling": "flatten"}) for a in ("relu", "selu")),
        (HyperEfficientNet(SHAPE, None, 3, HyperImageAugment(SHAPE), weights=None), {"factor_rotate": 0.25}),
    ],
)  # fmt: skip
def test_a_model_trains_and_can_be_saved(model: Any, values: dict[str, Any], tmp_path: Any) -> None:
    import keras

    network = model.build(HyperParameters(values))
    history = network.fit(IMAGES, CLASSES, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    network.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert np.allclose(again.predict(IMAGES, verbose=0), network.predict(IMAGES, verbose=0), atol=1e-5)
    keras.backend.clear_session()


@pytest.mark.slow
def test_images_are_augmented_in_training_alone() -> None:
    import keras

    hp = HyperParameters({"augment_layers": 2, "factor_contrast": 0.25, "factor_rotate": 0.5})
    model = HyperImageAugment(SHAPE, translate_y=None).build(hp)
    assert (model.name, model.output_shape) == ("image_rand_augment", (None, *SHAPE))
    assert np.array_equal(model.predict(IMAGES, verbose=0), IMAGES)
    changed = np.array(model(IMAGES, training=True))
    assert 0 < sum(not np.array_equal(a, b) for a, b in zip(changed, IMAGES, strict=True))
    assert np.array_equal(np.array(HyperImageAugment(SHAPE, augment_layers=0).build(HyperParameters())(IMAGES)), IMAGES)
    tensor = keras.layers.Input(SHAPE)
    assert HyperImageAugment(input_tensor=tensor * 2.0).build(HyperParameters()).inputs[0] is tensor
