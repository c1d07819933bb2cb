"""Feature extractors: what a Frechet distance between data sets is measured in.

An extractor is a plain object, never a module of the model that is judged: no weights in its checkpoints, no
`.train()`, no cast to its precision.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.evaluation.pixels import to_uint8


class Extractor(ABC):
    """Maps data in their own domain to feature vectors.

    Attributes:
        name: a distance between its features is reported as FD[name].
        num_features: d.
        digest: 16 hexadecimal digits that change with the weights and with the computation.
    """

    name: str
    num_features: int
    digest: str

    @abstractmethod
    def __call__(self, x: Tensor, levels: int | None) -> Tensor:
        """Features [B, d], float32, of `x`: integers in {0..levels-1}, or real vectors where `levels` is None.

        Raises:
            UserError: data this extractor is not made for.
        """

    def to(self, device: torch.device | str) -> Self:
        """This extractor, computing on `device` from now on."""
        return self


class RawFeatures(Extractor):
    """Real vectors [B, D] as their own features.

    Args:
        num_features: D, known before the first vector is; the toys lie in the plane.
    """

    name = "raw"
    digest = hashlib.sha256(b"raw-1").hexdigest()[:16]

    def __init__(self, num_features: int = 2) -> None:
        self.num_features = num_features

    def __call__(self, x: Tensor, levels: int | None) -> Tensor:
        if levels is not None or not x.is_floating_point() or x.shape[1:] != (self.num_features,):
            raise UserError(
                f"raw features are for real vectors [B, {self.num_features}], not for {x.dtype} of shape"
                f" {tuple(x.shape)} with levels = {levels}"
            )
        return x.float()


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
        content = hashlib.sha256(f"{self.VERSION} {json.dumps(self.config, sort_keys=True)}".encode())
        for name, tensor in sorted(self.state_dict().items()):
            content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            content.update(tensor.cpu().contiguous().numpy())
        return content.hexdigest()[:16]


class ShippedClassifier(Extractor):
    """The penultimate layer of a classifier whose weights are package data; `train_extractor.py` made them.

    The network is frozen and computes in float64, which autocast, TF32 and bfloat16 matrix products leave alone: the
    features are the same in every precision context, on every device and for every batch size.

    Args:
        name: of the weights, `weights/<name>.safetensors`.
        directory: where they lie, if not in the package.

    Raises:
        UserError: no such weights, or a file that does not hold a `SmallClassifier`.
    """

    def __init__(self, name: str = "digits", directory: str | None = None) -> None:
        network = _load_network(name, None if directory is None else Path(directory))
        self.name = name
        self.shape = tuple(network.config["shape"])
        self.num_features = network.config["num_features"]
        self.digest = network.digest()
        self._network = network.double().eval().requires_grad_(False)

    def __call__(self, x: Tensor, levels: int | None) -> Tensor:
        """Features [B, num_features], float32, of integers x [B, C, H, W].

        Raises:
            UserError: images of another shape than the classifier was trained on, or data without levels.
        """
        return self._features(x, levels).float()

    def logits(self, x: Tensor, levels: int | None) -> Tensor:
        """Class logits [B, num_classes], float32, of integers x [B, C, H, W]; refuses what `__call__` refuses."""
        with torch.no_grad():
            return self._network.classify(self._features(x, levels)).float()

    def to(self, device: torch.device | str) -> Self:
        self._network.to(device)
        return self

    @torch.no_grad()
    def _features(self, x: Tensor, levels: int | None) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise UserError(
                f"the extractor {self.name!r} takes images of shape {self.shape}, the data have {tuple(x.shape[1:])}"
            )
        pixels = to_uint8(x, levels).to(self._network.classify.weight.device)
        return self._network.features(self._network.normalize(pixels.double()))


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
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} does not hold the weights of an extractor: {error}") from error
    return network
