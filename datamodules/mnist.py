"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 greys of 28x28."""

from __future__ import annotations

import gzip
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.downloads import DownloadedImages

REAL = Fraction(2, 11)
"""Share of the training images that the extractor is not fitted on."""


class MNIST(DownloadedImages):
    """Handwritten digits, uint8 [1, 28, 28]: train 55,000, val 5,000, test 10,000. The files may be gzipped.

    The training images are two disjoint splits as well. The shipped extractor is fitted on `extractor` (45,000) alone,
    so that `real` (10,000) is as new to it as `test` is: the distance from `real` to `test` is the floor of a table.
    The extractor belongs to split_seed 0; any other puts images that it was fitted on into `real`.
    """

    native_shape = (1, 28, 28)
    native_classes = 10
    held_out = {"val": Fraction(1, 12)}  # noqa: RUF012
    stretches = {"real": (Fraction(0), REAL), "extractor": (REAL, Fraction(1))}  # noqa: RUF012
    home = "MNIST/raw"
    files = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
    floor = "real"
    extractor = {  # noqa: RUF012
        "class_path": "lightning_gen.evaluation.extractors.ShippedClassifier",
        "init_args": {"name": "mnist"},
    }

    def reader(self) -> Any:
        from torchvision.datasets import MNIST

        return MNIST

    def file(self, name: str) -> Path | None:
        return super().file(name) or super().file(f"{name}.gz")

    def arrays(self, part: str) -> tuple[Any, Any]:
        return tuple(self._idx(name) for name in self.files if name.startswith("train") == (part == "train"))

    def _idx(self, name: str) -> np.ndarray:
        """The bytes of an idx file, in the shape that its header says."""
        file = self.file(name)
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        if data[:3] != b"\0\0\x08":
            raise ValueError(f"{file.name} is no idx file of bytes")
        start = 4 + 4 * data[3]
        shape = struct.unpack(f">{data[3]}I", data[4:start])
        return np.frombuffer(bytearray(data[start:]), np.uint8).reshape(shape)


class FashionMNIST(MNIST):
    """Clothes, in MNIST's layout and splits. No extractor is shipped for them: they are judged by FID, as grey RGB images."""

    home = "FashionMNIST/raw"
    extractor = {"class_path": "lightning_gen.evaluation.extractors.Inception"}  # noqa: RUF012

    def reader(self) -> Any:
        from torchvision.datasets import FashionMNIST

        return FashionMNIST
