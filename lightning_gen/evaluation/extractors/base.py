"""What an extractor is: data in their own domain to feature vectors.

An extractor is a plain object, never a module of the model that is judged: no weights in its checkpoints, no
`.train()`, no cast to its precision.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from lightning_gen.errors import UserError


class Extractor(ABC):
    """Maps data in their own domain to feature vectors.

    Attributes:
        name: of the feature space.
        num_features: d.
        digest: 16 hexadecimal digits that change with the weights and with all of the computation: layer, resizing,
            preprocessing, precision, and a version that is raised whenever equal weights would give other features. The
            features of data are kept under it. A class of one's own sees to its own digest: nothing else notices that its
            code has changed.
        canonical: whether these are the features that the name FID is kept for.
    """

    name: str
    num_features: int
    digest: str
    canonical: bool = False

    @property
    def label(self) -> str:
        """What a Frechet distance between these features is called."""
        return "FID" if self.canonical else f"FD[{self.name}]"

    @abstractmethod
    def __call__(self, x: Tensor, levels: int | None) -> Tensor:
        """Features [B, d], float32, of `x`: integers in {0..levels-1}, or real vectors where `levels` is None.

        Raises:
            UserError: data this extractor is not made for.
        """

    def to(self, device: torch.device | str) -> Self:
        """This extractor, computing on `device` from now on."""
        return self


class Classifier(Extractor):
    """An extractor that classifies too, so that samples have an Inception score."""

    @abstractmethod
    def features_and_logits(self, x: Tensor, levels: int | None) -> tuple[Tensor, Tensor]:
        """Features [B, d] and class logits [B, C] in one pass, float32; refuses what `__call__` refuses."""

    def __call__(self, x: Tensor, levels: int | None) -> Tensor:
        return self.features_and_logits(x, levels)[0]

    def logits(self, x: Tensor, levels: int | None) -> Tensor:
        """Class logits [B, C], float32."""
        return self.features_and_logits(x, levels)[1]


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
