"""What the tests of KerasTuner's interface share."""

from tests.flows.keras.test_keras import keras

__all__ = ["keras"]
