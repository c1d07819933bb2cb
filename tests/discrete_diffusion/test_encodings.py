"""Laws of what networks see: whose features are whose, and where."""

import pytest
import torch

from lightning_gen.discrete_diffusion import OneHot, Ordinal

LEVELS = 4
ENCODINGS = [OneHot(), Ordinal()]


def states(shape, values, seed=0):
    return torch.randint(values, (3, *shape), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_features_come_first_and_places_stay(encoding, masked):
    """Channel c of an image has the features c F..(c+1) F, each at its own pixel, height and width in their order."""
    values = LEVELS + masked
    features = encoding.features(LEVELS, values)
    image, sequence = states((2, 3, 5), values), states((7,), values)
    own = encoding.encode(image, LEVELS, values)
    assert own.shape == (3, 2, 3, 5, features)
    found = encoding(image, LEVELS, values)
    assert found.shape == (3, 2 * features, 3, 5) and found.dtype == torch.get_default_dtype()
    for c, h, w, f in torch.cartesian_prod(*map(torch.arange, (2, 3, 5, features))).reshape(-1, 4).tolist():
        assert torch.equal(found[:, c * features + f, h, w], own[:, c, h, w, f])
    found = encoding(sequence, LEVELS, values)
    assert found.shape == (3, features, 7)
    assert torch.equal(found.transpose(1, 2), encoding.encode(sequence, LEVELS, values))


@pytest.mark.parametrize("values", [LEVELS, LEVELS + 1])
def test_one_hot_has_a_feature_of_each_state(values):
    encoded = OneHot().encode(torch.arange(values)[None], LEVELS, values)
    assert OneHot().features(LEVELS, values) == values and torch.equal(encoded[0], torch.eye(values))


def test_ordinal_is_the_level_between_minus_one_and_one():
    encoded = Ordinal().encode(torch.arange(5)[None], 5, 5)
    assert encoded[0, :, 0].tolist() == [-1, -0.5, 0, 0.5, 1]


def test_ordinal_tells_a_mask_from_the_middle():
    encoded = Ordinal().encode(torch.arange(6)[None], 5, 6)[0]
    assert encoded[:, 0].tolist() == [-1, -0.5, 0, 0.5, 1, 0]
    assert encoded[:, 1].tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_all_states_look_different(encoding):
    encoded = encoding.encode(torch.arange(257)[None], 256, 257)[0]
    assert encoded.unique(dim=0).shape[0] == 257
