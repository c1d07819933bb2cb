"""CIFAR-10 in torchvision's files: its pixels where they belong."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
import torchvision.datasets

from datamodules.cifar10 import CIFAR10
from lightning_gen.errors import UserError


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The data set's files with 20 + 10 random images, planes of red, green and blue row by row, and their checksums."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(seed: int, num: int) -> dict:
        data = np.random.default_rng(seed).integers(0, 256, (num, 3072), dtype=np.uint8)
        return {"data": data, "labels": [k % 10 for k in range(num)]}

    reader = torchvision.datasets.CIFAR10
    monkeypatch.setattr(reader, "train_list", [write(f"data_batch_{k}", batch(k, 4)) for k in range(1, 6)])
    monkeypatch.setattr(reader, "test_list", [write("test_batch", batch(6, 10))])
    meta = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(reader, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return tmp_path


def test_the_splits_are_the_files(root):
    data = CIFAR10(root=str(root))
    assert (data.shape, data.levels, data.num_classes) == ((3, 32, 32), 256, 10)
    assert [len(data.split(name)) for name in ("train", "val", "test")] == [18, 2, 10]
    batches = [pickle.loads(file.read_bytes()) for file in sorted((root / "cifar-10-batches-py").glob("*_batch*"))]
    expected = [(x.tobytes(), y) for batch in batches for x, y in zip(batch["data"], batch["labels"])]
    found = [
        (x.numpy().tobytes(), y)
        for name in ("train", "val", "test")
        for x, y in zip(data.split(name).x, data.split(name).y.tolist())
    ]
    assert sorted(found) == sorted(expected)


def test_damaged_files_are_refused(root, monkeypatch):
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"half of")
    with pytest.raises(
        UserError, match=f"the files of CIFAR10 in {root}/cifar-10-batches-py are damaged or incomplete"
    ):
        CIFAR10(root=str(root), download=False).split("train")


def test_the_cache_is_keyed_by_the_files(root):
    before = CIFAR10(root=str(root)).split("train").x
    assert torch.equal(CIFAR10(root=str(root), download=False).split("train").x, before)
    assert len(CIFAR10(root=str(root)).identity()) == 8
