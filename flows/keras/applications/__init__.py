"""Ready hypermodels for images, with KerasTuner's arguments and names of hyperparameters."""

from hpo_flows.keras.applications.augment import HyperImageAugment
from hpo_flows.keras.applications.efficientnet import HyperEfficientNet
from hpo_flows.keras.applications.resnet import HyperResNet
from hpo_flows.keras.applications.xception import HyperXception

__all__ = ["HyperEfficientNet", "HyperImageAugment", "HyperResNet", "HyperXception"]
