"""Feature extractors: what distances between data sets are measured in."""

from lightning_gen.evaluation.extractors.base import Classifier, Extractor, RawFeatures
from lightning_gen.evaluation.extractors.choose import choose
from lightning_gen.evaluation.extractors.classifier import ShippedClassifier, SmallClassifier, TrainedClassifier
from lightning_gen.evaluation.extractors.module import ModuleFeatures
from lightning_gen.evaluation.extractors.torch_fidelity_networks import Inception, TorchFidelity

__all__ = [
    "Classifier",
    "Extractor",
    "Inception",
    "ModuleFeatures",
    "RawFeatures",
    "ShippedClassifier",
    "SmallClassifier",
    "TorchFidelity",
    "TrainedClassifier",
    "choose",
]
