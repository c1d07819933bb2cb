"""A cache of its own for every test, a source in memory, and files in MNIST's format."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.images import ImageData


class Memory(ImageData):
    """300 + 60 images of 6x6 in 5 classes whose first two pixels tell image from image; counts how often it is read."""

    native_shape = (3, 6, 6)
    native_classes = 5
    held_out = {"val": Fraction(1, 10), "test": Fraction(1, 10)}  # noqa: RUF012
    version = 0
    source_parts = ("train", "test")

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.reads = 0

    def identity(self):
        return self.version

    def parts(self):
        return self.source_parts

    def read(self, part):
        self.reads += 1
        number = {"train": 300, "val": 40, "test": 60}[part]
        generator = torch.Generator().manual_seed(self.source_parts.index(part) + 10 * self.version)
        x = torch.randint(256, (number, 3, 6, 6), generator=generator).byte()
        x[:, 0, 0, 0], x[:, 0, 0, 1] = torch.arange(number) % 256, torch.arange(number) // 256 + 8 * len(part)
        return x, torch.arange(number) % 5


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LIGHTNING_GEN_CACHE", str(folder))
    return folder


@pytest.fixture
def memory():
    """memory(**kwargs): the source in memory, 8 examples a step unless told."""
    return lambda **kwargs: Memory(**{"batch_size": 8, **kwargs})


@pytest.fixture
def parts():
    """parts(*names): the source in memory that comes in these parts."""
    return lambda *names: type("Parts", (Memory,), {"source_parts": names})(batch_size=8)


@pytest.fixture
def write_idx(tmp_path):
    """write_idx(num_train, num_test, home): MNIST's four files of random greys, labels k mod 10, below tmp_path/root."""

    def function(num_train: int = 132, num_test: int = 20, home: str = "MNIST/raw") -> Path:
        folder = tmp_path / "root" / home
        folder.mkdir(parents=True)
        for name, num in (("train", num_train), ("t10k", num_test)):
            images = np.random.default_rng(num).integers(0, 256, (num, 28, 28), dtype=np.uint8)
            labels = (np.arange(num) % 10).astype(np.uint8)
            for kind, code, array in (("images-idx3", 3, images), ("labels-idx1", 1, labels)):
                header = bytes([0, 0, 8, code]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
                (folder / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())
        return tmp_path / "root"

    return function
