"""The project's own classifiers of small images, whose weights are package data."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors.base import Classifier
from lightning_gen.evaluation.extractors.weights import digest
from lightning_gen.evaluation.pixels import to_uint8


class SmallClassifier(nn.Module):
    """A convolutional classifier for small images, the network of a `ShippedClassifier`.

    3x3 convolutions, every one after the first with stride 2 until both sides are at most 4, then a linear layer to the
    features. SiLU throughout: it leaves no feature dead, as ReLU does, so that covariances have full rank.

    Args:
        shape: [C, H, W] of an image.
        num_classes: number of logits.
        num_features: width of the penultimate layer.
        width: channels of the first convolution; the others have twice as many.
    """

    VERSION = "small-classifier-1"
    """Part of an extractor's digest: to be raised whenever equal weights would give other features."""

    def __init__(self, shape: Sequence[int], num_classes: int, num_features: int = 64, width: int = 16) -> None:
        super().__init__()
        self.config = {
            "shape": list(shape),
            "num_classes": num_classes,
            "num_features": num_features,
            "width": width,
        }
        channels, *sides = shape
        layers = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
        channels = width
        while max(sides) > 4:
            layers += [nn.Conv2d(channels, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.SiLU()]
            channels, sides = 2 * width, [(side + 1) // 2 for side in sides]
        layers += [nn.Flatten(), nn.Linear(channels * math.prod(sides), num_features), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.classify = nn.Linear(num_features, num_classes)

    @staticmethod
    def normalize(pixels: Tensor) -> Tensor:
        """Pixels {0..255} to [-1, 1], float32 (float64 pixels stay float64)."""
        return pixels / 127.5 - 1

    def digest(self) -> str:
        """16 hexadecimal digits of the version, the configuration and the weights."""
        return digest(f"{self.VERSION} {json.dumps(self.config, sort_keys=True)}", self.state_dict())


class TrainedClassifier(Classifier):
    """The penultimate layer of a trained `SmallClassifier`.

    The network is frozen and computes in float64, which autocast, TF32 and bfloat16 matrix products leave alone: the
    features are the same in every precision context, on every device and for every batch size.

    Args:
        network: copied.
        name: of the extractor.
    """

    def __init__(self, network: SmallClassifier, name: str) -> None:
        self.name = name
        self.shape = tuple(network.config["shape"])
        self.num_features = network.config["num_features"]
        self.digest = network.digest()
        self._network = copy.deepcopy(network).double().eval().requires_grad_(False)

    @torch.no_grad()
    def features_and_logits(self, x: Tensor, levels: int | None) -> tuple[Tensor, Tensor]:
        """Features [B, num_features] and logits [B, num_classes], float32, of integers x [B, C, H, W].

        Raises:
            UserError: images of another shape than the classifier was trained on, or data without levels.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise UserError(
                f"the extractor {self.name!r} takes images of shape {self.shape}, the data have {tuple(x.shape[1:])}"
            )
        pixels = to_uint8(x, levels).to(self._network.classify.weight.device)
        features = self._network.features(self._network.normalize(pixels.double()))
        return features.float(), self._network.classify(features).float()

    def to(self, device: torch.device | str) -> Self:
        self._network.to(device)
        return self


class ShippedClassifier(TrainedClassifier):
    """A classifier whose weights are package data; `lightning-gen extractor` made them.

    Args:
        name: of the weights, `weights/<name>.safetensors`.
        directory: where they lie, if not in the package.

    Raises:
        UserError: no such weights, or a file that does not hold a `SmallClassifier`.
    """

    def __init__(self, name: str = "digits", directory: str | None = None) -> None:
        super().__init__(_load_network(name, None if directory is None else Path(directory)), name)


def shipped() -> list[str]:
    """Names of the classifiers in the package."""
    files = (resources.files("lightning_gen.evaluation") / "weights").iterdir()
    return sorted(file.name.removesuffix(".safetensors") for file in files if file.name.endswith(".safetensors"))


def _load_network(name: str, directory: Path | None) -> SmallClassifier:
    folder = resources.files("lightning_gen.evaluation") / "weights" if directory is None else directory
    source = folder / f"{name}.safetensors"
    if not source.is_file():
        raise UserError(f"the extractor {name!r} has no weights: there is no file {source}")
    with resources.as_file(source) as path:
        try:
            with safe_open(path, framework="pt") as file:
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
                config = json.loads((file.metadata() or {})["config"])
            with torch.device("meta"):  # no initial weights: making them would draw from the global random state
                network = SmallClassifier(**config)
            network.load_state_dict(weights, assign=True)
            record = folder / f"{name}.json"  # which the command that made them wrote beside them
            digest_then = json.loads(record.read_text())["digest"] if record.is_file() else network.digest()
            if network.digest() != digest_then:
                raise ValueError(f"they are damaged, their digest is not {digest_then} as {record.name} says")
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} does not hold the weights of an extractor: {error}") from error
    return network
