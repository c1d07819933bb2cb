"""The shipped classifiers: whatever surrounds them, whatever the batches, the features are the same."""

import copy

import pytest
import torch
from torch import nn

from datamodules import Digits
from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors import Classifier, ShippedClassifier, SmallClassifier

LEVELS = Digits.levels


@pytest.fixture(scope="module")
def shipped():
    return ShippedClassifier("digits")


@pytest.fixture(scope="module")
def test():
    return Digits().split("test")


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


@pytest.mark.parametrize(("name", "digest"), [("digits", "cb15b54b2daffbe2"), ("mnist", "936fd603193d0737")])
def test_the_digests_of_the_shipped_never_move(name, digest):
    # numbers measured in these features stand in tables: another digest makes them strangers to each other
    assert ShippedClassifier(name).digest == digest


def test_features_and_logits_are_those_of_each_alone(shipped, test):
    features, logits = shipped.features_and_logits(test.x[:20], LEVELS)
    assert isinstance(shipped, Classifier) and logits.shape == (20, 10)
    assert torch.equal(features, shipped(test.x[:20], LEVELS))
    assert torch.equal(logits, shipped.logits(test.x[:20], LEVELS))
    assert features.dtype == logits.dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 20)])
def test_the_network_fits_the_images(shape):
    network = SmallClassifier(shape, 7, num_features=20)
    pixels = torch.zeros(2, *shape, dtype=torch.uint8)
    features = network.features(network.normalize(pixels))
    assert features.shape == (2, 20)
    assert network.classify(features).shape == (2, 7)
