"""MNIST and Fashion-MNIST: splits of files in their format, and of the real ones where LIGHTNING_GEN_DATA names them."""

import gzip
import json
import os
from importlib import resources

import numpy as np
import pytest
import torch

from datamodules.binarization import Dynamic
from datamodules.mnist import MNIST, FashionMNIST
from lightning_gen.errors import UserError

PARTS = ("extractor", "real", "val", "test")
DATA = os.environ.get("LIGHTNING_GEN_DATA", "")
needs_mnist = pytest.mark.skipif(not os.path.isdir(f"{DATA}/MNIST/raw"), reason="LIGHTNING_GEN_DATA holds no MNIST")


def rows(examples) -> list[bytes]:
    return [x.numpy().tobytes() + bytes([y]) for x, y in zip(examples.x, examples.y.tolist())]


@pytest.mark.parametrize("kind, home", [(MNIST, "MNIST/raw"), (FashionMNIST, "FashionMNIST/raw")])
def test_the_splits_are_the_files_each_image_once(write_idx, kind, home):
    root = write_idx(132, 20, home)
    data = kind(root=str(root))
    assert [len(data.split(name)) for name in (*PARTS, "train")] == [99, 22, 11, 20, 121]
    expected = []
    for name, num in (("train", 132), ("t10k", 20)):
        images = np.frombuffer((root / home / f"{name}-images-idx3-ubyte").read_bytes()[16:], np.uint8)
        labels = (root / home / f"{name}-labels-idx1-ubyte").read_bytes()[8:]
        expected += [x.tobytes() + bytes([y]) for x, y in zip(images.reshape(num, 784), labels)]
    assert sorted(sum((rows(data.split(name)) for name in PARTS), [])) == sorted(expected)
    assert sorted(rows(data.split("train"))) == sorted(rows(data.split("real")) + rows(data.split("extractor")))


def test_a_class_filter_takes_from_every_split_what_is_in_it(write_idx):
    root = str(write_idx())
    whole, some = MNIST(root=root), MNIST(root=root, classes=[3, 5])
    for name in (*PARTS, "train"):
        y = whole.split(name).y
        kept = whole.split(name).x[(y == 3) | (y == 5)]
        assert torch.equal(some.split(name).x, kept)


def test_subsets_leave_the_floor_and_the_extractors_part_whole(write_idx):
    few = MNIST(root=str(write_idx()), num_train=7, num_val=3, num_test=5)
    assert [len(few.split(name)) for name in (*PARTS, "train")] == [99, 22, 3, 5, 7]


def test_files_may_be_gzipped(write_idx):
    root = write_idx()
    before = {name: rows(MNIST(root=str(root)).split(name)) for name in PARTS}
    for file in list((root / "MNIST/raw").iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    data = MNIST(root=str(root), download=False)
    assert {name: rows(data.split(name)) for name in PARTS} == before
    packed = root / "MNIST/raw/t10k-labels-idx1-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:20])
    with pytest.raises(UserError, match=r"the files of MNIST in .* are damaged or incomplete \("):
        MNIST(root=str(root)).split("train")


@pytest.mark.parametrize(
    "kind, change, fault",
    [
        ("labels-idx1", lambda x: x[:-2], "132 images and 130 labels"),
        ("labels-idx1", lambda x: np.append(x, x), "132 images and 264 labels"),
        ("labels-idx1", lambda x: x + 1, "labels from 1 to 10, must be from 0 to 9"),
        ("images-idx3", lambda x: x[:, 4:-4, 4:-4], "images of shape (1, 20, 20), must be (1, 28, 28)"),
        ("images-idx3", lambda x: x[:, 0, 0], "images of shape (), must be (1, 28, 28)"),
    ],
)
def test_files_of_other_images_or_labels_are_refused(write_idx, kind, change, fault):
    root = write_idx()
    file = root / "MNIST/raw" / f"train-{kind}-ubyte"
    array = change(MNIST(root=str(root))._idx(file.name))
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    file.write_bytes(header + array.tobytes())
    with pytest.raises(UserError) as caught:
        MNIST(root=str(root)).split("train")
    assert str(caught.value) == f"the files in {file.parent} are not those of MNIST: its part train has {fault}."


def test_fashion_is_not_judged_by_the_classifier_of_digits():
    assert MNIST.extractor["init_args"] == {"name": "mnist"}
    assert FashionMNIST.extractor["class_path"].endswith("Inception")


@needs_mnist
def test_the_real_splits_have_their_sizes_and_every_class_in_its_share():
    data = MNIST()
    assert [len(data.split(name)) for name in (*PARTS, "train")] == [45_000, 10_000, 5_000, 10_000, 55_000]
    assert torch.bincount(data.split("test").y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    share = torch.bincount(torch.cat([data.split("train").y, data.split("val").y])).double() / 60_000
    assert share[1].item() == pytest.approx(6742 / 60_000)
    for name in ("extractor", "real", "val"):
        counts = torch.bincount(data.split(name).y)
        assert (counts - share * len(data.split(name))).abs().max() < 2
    assert len(set(rows(data.split("train")))) == 55_000  # so one image in two splits would show
    assert not set(rows(data.split("val"))) & set(rows(data.split("train")))
    assert not set(rows(data.split("real"))) & set(rows(data.split("extractor")))


@needs_mnist
def test_real_ones_are_upright():
    x = MNIST().split("val")
    ones = x.x[x.y == 1].double().mean(0)[0]
    assert ones.sum(0).std() > 2 * ones.sum(1).std()  # an upright 1 is a vertical stroke: columns differ, rows do not


@needs_mnist
def test_the_shipped_split_never_moves():
    # the shipped extractor was fitted on this part: if it moves, `real` is no longer new to it
    record = json.loads((resources.files("lightning_gen.evaluation") / "weights" / "mnist.json").read_text())
    data = MNIST()
    assert record["splits"] == {name: data.split(name).fingerprint() for name in ("extractor", "test")}


@needs_mnist
def test_real_bits_have_the_mean_of_the_greys():
    bits, greys = MNIST(binarization=Dynamic(), num_train=2000), MNIST(num_train=2000)
    error = bits.split("train").x.double().mean() - greys.split("train").x.double().mean() / 255
    assert abs(error) < 5 * 0.25 / (2000 * 784) ** 0.5
    assert torch.equal(bits.training_examples().x, greys.split("train").x)
