"""What a distance in the features of the shipped MNIST classifier must see, on the real images."""

import json
import os
from importlib import resources

import pytest
import torch
from torch.nn import functional

from datamodules import MNIST
from lightning_gen.evaluation.extractors import ShippedClassifier
from lightning_gen.evaluation.frechet import FeatureStatistics, Reference, frechet_distance

DATA = os.environ.get("LIGHTNING_GEN_DATA", "")
needs_mnist = pytest.mark.skipif(not os.path.isdir(f"{DATA}/MNIST/raw"), reason="LIGHTNING_GEN_DATA holds no MNIST")
NUM = 600
WEIGHTS = resources.files("lightning_gen.evaluation") / "weights"


@pytest.fixture(scope="module")
def shipped():
    return ShippedClassifier("mnist")


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNING_GEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        data = MNIST()
        return {name: data.split(name) for name in ("real", "test", "val")}


@pytest.fixture(scope="module")
def real(splits):
    return splits["real"].x[:NUM]


@pytest.fixture(scope="module")
def distance(shipped, splits):
    """FD[mnist] of greys from 600 of the test split."""

    def moments(x):
        statistics = FeatureStatistics(shipped.num_features)
        for part in x.split(200):
            statistics.update(shipped(part, 256))
        return statistics.compute()

    reference = Reference.from_moments(moments(splits["test"].x[:NUM]))
    return lambda x: frechet_distance(moments(x), reference)


def test_the_record_is_of_the_weights(shipped):
    record = json.loads((WEIGHTS / "mnist.json").read_text())
    assert record["digest"] == shipped.digest
    assert record["accuracy"]["test"] >= 0.99
    assert len((WEIGHTS / "mnist.safetensors").read_bytes()) < 1 << 20


@needs_mnist
@pytest.mark.parametrize("name", ["test", "real", "val"])
def test_it_recognises_digits(shipped, splits, name):
    x, y = splits[name].x[:2000], splits[name].y[:2000]
    assert (shipped.logits(x, 256).argmax(1) == y).double().mean() >= 0.985


@needs_mnist
def test_no_feature_is_dead_and_no_two_are_alike(shipped, splits):
    features = shipped(splits["test"].x[:NUM], 256).double()
    eigenvalues = torch.linalg.eigvalsh(features.T.cov())
    assert features.shape == (NUM, shipped.num_features)
    assert eigenvalues[0] > 1e-5 * eigenvalues[-1]
    assert features.std(0).min() > 0.05


@needs_mnist
def test_held_out_digits_are_near_and_noise_images_far(distance, real):
    floor = distance(real)
    uniform = torch.randint(256, real.shape, generator=torch.Generator().manual_seed(0))
    assert 0 < floor < 3
    assert distance(uniform) > 25 * floor


@needs_mnist
def test_it_rises_with_noise(distance, real):
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    distances = [distance((real + sigma * noise).round().clamp(0, 255)) for sigma in (0, 16, 32, 64, 128)]
    assert distances == sorted(distances)
    assert distances[2] > 1.5 * distances[0]
    assert distances[4] > 10 * distances[0]


@needs_mnist
def test_it_rises_with_blur(distance, real):
    kernel = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0]))[None, None] / 16
    images, distances = real.float(), [distance(real)]
    for _ in range(3):
        for _ in range(3):
            images = functional.conv2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), kernel)
        distances.append(distance(images.round()))
    assert distances == sorted(distances)
    assert distances[2] > 3 * distances[0]


@needs_mnist
def test_it_rises_as_classes_go_missing(distance, splits):
    x, y = splits["real"].x[:NUM], splits["real"].y[:NUM]
    distances = [distance(x[y >= first]) for first in (0, 1, 2, 5, 9)]
    assert distances == sorted(distances)
    assert distances[1] > 2 * distances[0]


@needs_mnist
@pytest.mark.parametrize("axes", [(2, 3), (3,), (2,)], ids=["transposed", "mirrored", "upside down"])
def test_it_sees_the_orientation(distance, real, axes):
    assert distance(real.mT if len(axes) == 2 else real.flip(axes)) > 10 * distance(real)
