import copy
import hashlib
import json
import shutil
from importlib import resources
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from datamodules import Digits
from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors import RawFeatures, ShippedClassifier, SmallClassifier
from lightning_gen.evaluation.frechet import FeatureStatistics, Reference, frechet_distance
from lightning_gen.evaluation.train_extractor import augment, extractor, train_extractor
from lightning_gen.random_source import GeneratorSource

LEVELS = Digits.levels


@pytest.fixture(scope="module")
def shipped():
    return ShippedClassifier("digits")


@pytest.fixture(scope="module")
def real():
    return Digits().split("real")


@pytest.fixture(scope="module")
def test():
    return Digits().split("test")


@pytest.fixture(scope="module")
def distance(shipped, test):
    """FD[digits] of images {0..16} from the test split."""

    def moments(x):
        statistics = FeatureStatistics(shipped.num_features)
        statistics.update(shipped(x, LEVELS))
        return statistics.compute()

    reference = Reference.from_moments(moments(test.x))
    return lambda x: frechet_distance(moments(x), reference)


# What a distance in these features must see


def test_it_recognises_digits_it_was_not_trained_on(shipped, test, real):
    for split in (test, real):
        accuracy = (shipped.logits(split.x, LEVELS).argmax(1) == split.y).double().mean()
        assert accuracy >= 0.97


def test_the_covariance_of_a_split_is_well_conditioned(shipped, test):
    features = shipped(test.x, LEVELS)
    eigenvalues = torch.linalg.eigvalsh(features.double().T.cov())
    assert features.shape == (600, 64)
    assert eigenvalues[0] > 1e-4 * eigenvalues[-1]  # no dead feature and no two alike
    assert features.std(0).min() > 0.1


def test_held_out_digits_are_near_and_noise_images_far(distance, real):
    floor = distance(real.x)
    uniform = torch.randint(LEVELS, real.x.shape, generator=torch.Generator().manual_seed(0))
    assert 0 < floor < 3
    assert distance(uniform) > 25 * floor


def test_it_rises_with_noise(distance, real):
    noise = torch.randn(real.x.shape, generator=torch.Generator().manual_seed(1))
    noisy = [(real.x + sigma * noise).round().clamp(0, LEVELS - 1) for sigma in (0, 1, 2, 4, 8)]
    distances = [distance(x) for x in noisy]
    assert distances == sorted(distances)
    assert distances[2] > 1.5 * distances[0]
    assert distances[4] > 15 * distances[0]


def test_it_rises_with_blur(distance, real):
    images, distances = real.x.float(), [distance(real.x)]
    kernel = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0]))[None, None] / 16
    for _ in range(3):
        images = functional.conv2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), kernel)
        distances.append(distance(images.round()))
    assert distances == sorted(distances)
    assert distances[1] > 10 * distances[0]


def test_it_rises_as_classes_go_missing(distance, real):
    distances = [distance(real.x[real.y >= first]) for first in (0, 1, 2, 5, 9)]
    assert distances == sorted(distances)
    assert distances[1] > 2.5 * distances[0]


def test_it_sees_few_prototypes_behind_the_right_classes(distance, real):
    prototypes = torch.cat([(real.y == label).nonzero()[:3, 0] for label in range(10)])
    assert distance(real.x[prototypes.repeat(20)]) > 5 * distance(real.x)


@pytest.mark.parametrize("axes", [(2, 3), (3,), (2,)], ids=["transposed", "mirrored", "upside down"])
def test_it_sees_the_orientation(distance, real, axes):
    turned = real.x.mT if len(axes) == 2 else real.x.flip(axes)
    assert distance(turned) > 15 * distance(real.x)


# What the extractor is


def test_the_precision_of_the_surroundings_changes_nothing(shipped, test):
    x = test.x[:50]
    expected = shipped(x, LEVELS)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = shipped(x, LEVELS)
    finally:
        torch.set_float32_matmul_precision(precision)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_batch_sizes_and_integer_types_do_not_matter(shipped, test):
    x = test.x[:65]
    expected = shipped(x, LEVELS)
    split = torch.cat([shipped(part.long(), LEVELS) for part in x.split([1, 64])])
    torch.testing.assert_close(split, expected, rtol=2e-7, atol=1e-7)


def test_the_module_that_holds_it_does_not_own_it(shipped, test):
    module = nn.Module()
    module.extractor = copy.deepcopy(shipped)
    expected = shipped(test.x[:9], LEVELS)
    module.train().to(torch.bfloat16)
    assert not module.state_dict()
    assert not list(module.parameters())
    assert torch.equal(module.extractor(test.x[:9], LEVELS), expected)
    assert not expected.requires_grad
    assert module.extractor.to("cpu") is module.extractor


def test_levels_are_seen_as_pixels(shipped, test):
    x = test.x[:9].long()
    pixels = (x * 255 / (LEVELS - 1)).round().long()
    assert torch.equal(shipped(x, LEVELS), shipped(pixels, 256))


def test_images_of_another_shape_are_refused(shipped):
    with pytest.raises(UserError, match=r"\(1, 8, 8\).*\(3, 32, 32\)"):
        shipped(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 256)
    with pytest.raises(UserError, match=r"\(1, 8, 8\).*\(2,\)"):
        shipped.logits(torch.zeros(5, 2), None)


def test_weights_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UserError, match="'letters' has no weights"):
        ShippedClassifier("letters")
    (tmp_path / "digits.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(UserError, match="does not hold the weights"):
        ShippedClassifier("digits", str(tmp_path))


def test_the_digest_tells_weights_and_architectures_apart(shipped):
    network = SmallClassifier((1, 8, 8), 10)
    first = network.digest()
    assert copy.deepcopy(network).digest() == first != shipped.digest
    with torch.no_grad():
        network.classify.bias[0] += 1e-3
    assert network.digest() != first
    wider = type("Version", (SmallClassifier,), {"VERSION": "another"})((1, 8, 8), 10)
    wider.load_state_dict(network.state_dict())
    assert wider.digest() != network.digest()


def test_raw_features_are_the_vectors():
    vectors = torch.randn(5, 2, dtype=torch.float64)
    features = RawFeatures()(vectors, None)
    assert features.dtype == torch.float32
    assert torch.equal(features, vectors.float())


@pytest.mark.parametrize(
    ("x", "levels"), [(torch.zeros(5, 3), None), (torch.zeros(5, 2), 17), (torch.zeros(5, 2).long(), None)]
)
def test_raw_features_refuse_other_data(x, levels):
    with pytest.raises(UserError, match="raw features are for real vectors"):
        RawFeatures(2)(x, levels)


# Where the weights come from


def test_the_shipped_record_is_of_the_shipped_weights(shipped, test):
    folder = resources.files("lightning_gen.evaluation") / "weights"
    record = json.loads((folder / "digits.json").read_text())
    splits = {name: Digits().split(name).fingerprint() for name in ("extractor", "test")}
    accuracy = (shipped.logits(test.x, LEVELS).argmax(1) == test.y).double().mean().item()
    assert record["digest"] == shipped.digest
    assert record["splits"] == splits
    assert record["accuracy"]["test"] == pytest.approx(accuracy, abs=1e-4)
    assert len((folder / "digits.safetensors").read_bytes()) < 200_000


def test_the_command_repeats_itself_and_its_weights_load(tmp_path):
    state = torch.get_rng_state()
    paths = [extractor("datamodules.Digits", "small", tmp_path / run, 3, steps=3, batch_size=16) for run in "ab"]
    assert torch.equal(torch.get_rng_state(), state)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert digests[0] == digests[1]
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"small.safetensors", "small.json"}
    assert (
        json.loads(paths[0].with_suffix(".json").read_text())["digest"]
        == ShippedClassifier("small", str(tmp_path / "a")).digest
    )


def test_a_failed_write_leaves_the_old_weights(tmp_path, monkeypatch):
    shutil.copy(str(resources.files("lightning_gen.evaluation") / "weights" / "digits.safetensors"), tmp_path)
    before = (tmp_path / "digits.safetensors").read_bytes()

    def interrupted(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extractor("datamodules.Digits", "digits", tmp_path, steps=2, batch_size=8)
    assert (tmp_path / "digits.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_training_depends_on_its_own_seed_alone():
    examples = Digits().split("extractor")
    digests = []
    for surroundings, seed in [(0, 5), (1, 5), (1, 6)]:
        torch.manual_seed(surroundings)
        digests.append(train_extractor(examples.x * 15, examples.y, 10, seed, steps=2, batch_size=32).digest())
    assert digests[0] == digests[1] != digests[2]


def test_augmentation_is_small_and_its_own_for_each_image():
    image = torch.full((1, 8, 8), -1.0)
    image[:, 3:5, 3:5] = 1.0
    moved = augment(image.repeat(500, 1, 1, 1), GeneratorSource(0))
    weights = moved.clamp(-1, 1) + 1
    axis = torch.arange(8.0) - 3.5
    centres = torch.stack([(weights.sum(d) * axis).sum((1, 2)) / weights.sum((1, 2, 3)) for d in (2, 3)])
    assert (centres.abs() < 2).all()
    assert (centres.std(1) > 0.2).all()
    assert (centres.mean(1).abs() < 0.1).all()


@pytest.mark.parametrize("path", ["datamodules.NoSuchData", "nowhere.Digits", "Digits"])
def test_a_data_set_that_cannot_be_imported_is_refused(path, tmp_path):
    with pytest.raises(UserError, match=path):
        extractor(path, out=tmp_path)


def test_real_vectors_train_no_classifier(tmp_path):
    with pytest.raises(UserError, match="no integer images"):
        extractor("datamodules.TwoMoons", out=tmp_path)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 20)])
def test_the_network_fits_the_images(shape):
    network = SmallClassifier(shape, 7, num_features=20)
    pixels = torch.zeros(2, *shape, dtype=torch.uint8)
    features = network.features(network.normalize(pixels))
    assert features.shape == (2, 20)
    assert network.classify(features).shape == (2, 7)
