"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour photographs of 32x32 in ten classes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from datamodules.downloads import DownloadedImages


class CIFAR10(DownloadedImages):
    """Photographs, uint8 [3, 32, 32]: train 45,000, val 5,000, test 10,000. Judged by FID."""

    native_shape = (3, 32, 32)
    native_classes = 10
    held_out = {"val": Fraction(1, 10)}  # noqa: RUF012
    home = "cifar-10-batches-py"
    files = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta")
    extractor = {"class_path": "lightning_gen.evaluation.extractors.Inception"}  # noqa: RUF012

    def reader(self) -> Any:
        from torchvision.datasets import CIFAR10

        return CIFAR10
