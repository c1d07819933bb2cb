"""What a distance in the features of the shipped classifiers must see, on real images; and how the gate looks at it."""

import json
import os
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from datamodules import MNIST, Digits
from lightning_gen.evaluation.extractors import Extractor, ShippedClassifier
from lightning_gen.evaluation.frechet import FeatureStatistics, Reference, frechet_distance
from lightning_gen.evaluation.gate import Ladder, blurred, ladders

DATA = os.environ.get("LIGHTNING_GEN_DATA", "")
needs_mnist = pytest.mark.skipif(not os.path.isdir(f"{DATA}/MNIST/raw"), reason="LIGHTNING_GEN_DATA holds no MNIST")
WEIGHTS = resources.files("lightning_gen.evaluation") / "weights"
SETS = {"digits": Digits, "mnist": MNIST}
NUM = {"digits": 600, "mnist": 300}
both = pytest.mark.parametrize(
    "name", ["digits", pytest.param("mnist", marks=needs_mnist)], scope="module", indirect=True
)


@dataclass
class Case:
    """A shipped classifier and images that it was not fitted on."""

    name: str
    shipped: ShippedClassifier
    splits: dict
    levels: int

    def __post_init__(self):
        self.num = NUM[self.name]
        self.real = self.splits["real"].x[: self.num]
        self.reference = Reference.from_moments(self.moments(self.splits["test"].x[: self.num]))
        self.floor = self.distance(self.real)

    def moments(self, x):
        statistics = FeatureStatistics(self.shipped.num_features)
        for part in x.split(200):
            statistics.update(self.shipped(part, self.levels))
        return statistics.compute()

    def distance(self, x):
        return frechet_distance(self.moments(x), self.reference)


@pytest.fixture(scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def case(name):
    data = SETS[name]()
    splits = {split: data.split(split) for split in ("extractor", "real", "test")}
    return Case(name, ShippedClassifier(name), splits, data.levels)


@pytest.fixture(scope="module")
def found(case):
    return ladders(case.shipped, case.splits["real"], case.splits["test"].x, case.levels, case.num)


# The laws, of the shipped weights


@both
def test_it_rises_with_noise(found):
    clean, _, second, _, most = found["noise"].distances
    assert found["noise"].rises
    assert second > 2.5 * clean and most > 25 * clean


@both
def test_it_rises_with_blur(found):
    clean, *_, most = found["blur"].distances
    assert found["blur"].rises
    assert most > 25 * clean


@both
def test_it_rises_as_classes_go_missing(found):
    clean, first, *_, half = found["missing_classes"].distances
    assert found["missing_classes"].rises
    assert first > 2 * clean and half > 10 * clean


@both
def test_it_recognises_images_it_was_not_trained_on(case):
    least = {"digits": 0.97, "mnist": 0.985}[case.name]
    for split in ("test", "real"):
        x, y = case.splits[split].x[:600], case.splits[split].y[:600]
        logits = torch.cat([case.shipped.logits(part, case.levels) for part in x.split(200)])
        assert (logits.argmax(1) == y).double().mean() >= least


@both
def test_no_feature_is_dead_and_no_two_are_alike(case):
    features = case.shipped(case.real, case.levels).double()
    eigenvalues = torch.linalg.eigvalsh(features.T.cov())
    assert features.shape == (case.num, 64)
    assert eigenvalues[0] > 1e-5 * eigenvalues[-1]
    assert features.std(0).min() > 0.05


@both
def test_held_out_images_are_near_and_noise_images_far(case):
    uniform = torch.randint(case.levels, case.real.shape, generator=torch.Generator().manual_seed(0))
    assert 0 < case.floor < 3
    assert case.distance(uniform) > 25 * case.floor


@both
def test_it_sees_few_prototypes_behind_the_right_classes(case):
    labels = case.splits["real"].y[: case.num]
    prototypes = torch.cat([(labels == label).nonzero()[:3, 0] for label in range(10)])
    assert case.distance(case.real[prototypes.repeat(20)]) > 5 * case.floor


@both
@pytest.mark.parametrize("axes", [(2, 3), (3,), (2,)], ids=["transposed", "mirrored", "upside down"])
def test_it_sees_the_orientation(case, axes):
    assert case.distance(case.real.mT if len(axes) == 2 else case.real.flip(axes)) > 10 * case.floor


# The records


@pytest.mark.parametrize(("name", "accuracy"), [("digits", 0.95), ("mnist", 0.99)])
def test_the_record_is_of_the_weights_and_shows_that_they_passed(name, accuracy):
    record = json.loads((WEIGHTS / f"{name}.json").read_text())
    assert record["digest"] == ShippedClassifier(name).digest
    assert record["accuracy"]["test"] >= accuracy
    assert len((WEIGHTS / f"{name}.safetensors").read_bytes()) < 1 << 20
    for damage in ("noise", "blur", "missing_classes"):
        assert all(low < high for low, high in pairwise(record["gate"][damage]["fd"]))


def test_the_record_of_the_digits_says_what_is_found():
    data, shipped = Digits(), ShippedClassifier("digits")
    record = json.loads((WEIGHTS / "digits.json").read_text())
    test = data.split("test")
    accuracy = (shipped.logits(test.x, 17).argmax(1) == test.y).double().mean().item()
    assert record["accuracy"]["test"] == pytest.approx(accuracy, abs=1e-4)
    assert record["splits"] == {name: data.split(name).fingerprint() for name in ("extractor", "test")}
    assert record["gate"].pop("real") == data.split("real").fingerprint()
    again = ladders(shipped, data.split("real"), test.x, 17, seed=record["seed"])
    assert record["gate"] == {
        damage: {**ladder.record(), "fd": pytest.approx(ladder.distances, rel=1e-3)} for damage, ladder in again.items()
    }


# The gate itself


class Brightness(Extractor):
    """Mean and spread of an image: blind to nothing but order."""

    name, digest, num_features = "brightness", "0" * 16, 2

    def __call__(self, x, levels):
        flat = x.flatten(1).float()
        return torch.stack([flat.mean(1), flat.std(1)], 1)


class Constant(Extractor):
    name, digest, num_features = "constant", "1" * 16, 1

    def __call__(self, x, levels):
        return torch.zeros(len(x), 1)


@dataclass
class Labelled:
    x: Tensor
    y: Tensor


@pytest.fixture(scope="module")
def halves():
    """200 images of 5 classes of very uneven sizes, darker by class, twice."""
    generator = torch.Generator().manual_seed(0)

    def half():
        y = torch.repeat_interleave(torch.arange(5), torch.tensor([90, 60, 30, 15, 5]))
        y = y[torch.randperm(200, generator=generator)]
        grey = 200 - 30 * y[:, None, None, None] + 20 * torch.randn(200, 1, 6, 9, generator=generator)
        return Labelled(grey.round().clamp(0, 255).to(torch.uint8), y)

    return half(), half()


def test_features_that_see_nothing_do_not_pass(halves):
    held_out, reference = halves
    assert not any(ladder.rises for ladder in ladders(Constant(), held_out, reference.x, 256).values())


def test_every_step_of_a_ladder_has_as_many_images(halves):
    held_out, reference = halves
    seen = []

    class Counting(Brightness):
        def __call__(self, x, levels):
            seen.append((len(x), x.dtype, levels))
            return super().__call__(x, levels)

    found = ladders(Counting(), held_out, reference.x, 256, num=120)
    # the last three classes have 50 images together: fewer than half of 120
    assert {name: ladder.num for name, ladder in found.items()} == {"noise": 120, "blur": 120, "missing_classes": 50}
    steps = sum(len(found[name].damage) for name in ("noise", "blur"))
    assert [num for num, _, _ in seen] == [120] * (1 + steps) + [50] * 3
    assert {rest for _, *rest in map(tuple, seen) for rest in [tuple(rest)]} == {(torch.uint8, 256)}
    assert found["missing_classes"].damage == (0.0, 1.0, 2.0)


def test_a_ladder_rises_strictly():
    assert Ladder((0.0, 1.0, 2.0), (1.0, 2.0, 3.0), 5).rises
    for distances in ((1.0, 1.0, 2.0), (1.0, 3.0, 2.0), (1.0, float("nan"), 2.0)):
        assert not Ladder((0.0, 1.0, 2.0), distances, 5).rises


def test_blur_keeps_flat_images_and_spreads_a_point():
    flat = torch.full((1, 2, 8, 8), 77, dtype=torch.uint8)
    assert torch.equal(blurred(flat, 1.5), flat) and torch.equal(blurred(flat, 0.0), flat)
    point = torch.zeros(1, 1, 31, 31, dtype=torch.uint8)
    point[..., 13:18, 13:18] = 250
    found = blurred(point, 2.0)[0, 0].double()
    axis = torch.arange(31) - 15.0
    for weights in (found.sum(0), found.sum(1)):
        variance = (weights * axis**2).sum() / weights.sum()
        assert variance.item() == pytest.approx(2 + 4, rel=0.05)  # of five equal pixels, and of the filter
