"""Masks part an example, and what the network sees knows nothing of what changes."""

from functools import partial

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.flow import ChannelMask, CheckerboardMask, VectorMask

MASKS = {
    "channels": (ChannelMask, (4, 3, 2)),
    "odd-channels": (ChannelMask, (5, 2, 3)),
    "halves": (ChannelMask, (5,)),
    "alternate": (VectorMask, (6,)),
    "odd-alternate": (VectorMask, (5,)),
    "alternate-channels": (VectorMask, (3, 2, 2)),
    "board": (CheckerboardMask, (2, 3, 5)),
    "even-board": (CheckerboardMask, (1, 4, 4)),
    "line": (CheckerboardMask, (1, 1, 2)),
}
BATCH = 2


@pytest.fixture(params=MASKS)
def name(request):
    return request.param


@pytest.fixture
def shape(name):
    return MASKS[name][1]


@pytest.fixture
def make(name, shape):
    """make(flip): the mask."""
    return partial(MASKS[name][0], shape)


@pytest.fixture(params=[False, True], ids=["straight", "flipped"])
def mask(make, request):
    return make(request.param)


@pytest.fixture
def x(shape):
    """Every number another one, none below 1."""
    size = torch.Size(shape).numel()
    return torch.arange(1.0, BATCH * size + 1).view(BATCH, *shape)


def places(mask, x):
    """Where an example changes, as booleans of its shape, found by changing it."""
    return (mask.merge(x, mask.split(x)[1] + 0.5) != x)[0]


def test_a_part_changes_and_the_rest_is_given(mask, x):
    given, active = mask.split(x)
    assert given.shape == (BATCH, *mask.given_shape) and active.shape == (BATCH, *mask.active_shape)
    assert active[0].numel() == places(mask, x).sum()
    assert sorted(active[0].flatten().tolist()) == x[0][places(mask, x)].tolist()
    seen = set(given[0].flatten().tolist())
    assert seen >= set(x[0][~places(mask, x)].tolist())
    assert not seen & set(active[0].flatten().tolist()) - {1.0}  # what tells hidden pixels has zeros and ones


def test_flipped_the_other_part_changes(make, x):
    one, other = (places(make(flip), x) for flip in (False, True))
    assert one.any() and other.any()
    assert torch.equal(one, ~other)


def test_what_is_given_does_not_depend_on_what_changes(mask, x):
    given, active = mask.split(x)
    merged = mask.merge(x, torch.full_like(active, torch.nan))
    assert torch.equal(mask.split(torch.where(merged.isnan(), -9.0, merged))[0], given)


def test_merging_changes_the_active_part_and_nothing_else(mask, x):
    before, (_, active) = x.clone(), mask.split(x)
    assert torch.equal(mask.merge(x, active), x)
    merged = mask.merge(x, -active)
    assert torch.equal(mask.split(merged)[1], -active)
    assert torch.equal(merged.abs(), x)
    assert torch.equal(x, before), "merging works on a copy"


@pytest.mark.parametrize("features", [1, 3])
def test_each_active_number_has_parameters_of_its_own_from_its_own_pixel(mask, shape, x, features):
    wanted = (BATCH, *mask.network_shape(features))
    params = mask.parameters_of(torch.arange(torch.Size(wanted).numel()).view(wanted), features)
    assert params.shape == (BATCH, features, *mask.active_shape)
    assert len(params.unique()) == params.numel(), "no two share one"
    if len(shape) == 3:
        pixel = torch.arange(shape[1] * shape[2]).view(shape[1:])
        read = mask.parameters_of(pixel.expand(wanted), features)
        own = mask.split(pixel.expand(BATCH, *shape).double())[1]
        assert torch.equal(read.double(), own[:, None].expand_as(read))


def test_the_places_are_those_of_the_papers(name, make, x, shape):
    """NICE: components at odd places; RealNVP: a checkerboard, and the second half of the channels."""
    changes = torch.zeros(shape, dtype=torch.bool)
    for index in torch.cartesian_prod(*map(torch.arange, shape)).view(-1, len(shape)).tolist():
        if "board" in name or name == "line":
            changes[tuple(index)] = (index[1] + index[2]) % 2 == 1
        elif "alternate" in name:
            changes[tuple(index)] = index[0] % 2 == 1
        else:
            changes[tuple(index)] = index[0] >= shape[0] // 2
    assert torch.equal(places(make(False), x), changes)


def test_on_a_board_the_network_tells_a_zero_from_a_hidden_pixel():
    mask = CheckerboardMask((1, 4, 4))
    given, _ = mask.split(torch.zeros(1, 1, 4, 4))
    assert torch.equal(given[0, 1].bool(), ~places(mask, torch.ones(1, 1, 4, 4))[0])
    assert not given[0, 0].any()


def test_masks_keep_nothing_in_checkpoints(mask):
    assert not mask.state_dict()


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        (ChannelMask, (1, 4, 4), r"ChannelMask needs two channels .*\(1, 4, 4\).*CheckerboardMask"),
        (VectorMask, (1,), r"VectorMask needs two channels"),
        (CheckerboardMask, (6,), r"CheckerboardMask is for images .*\(6,\)"),
        (CheckerboardMask, (3, 1, 1), r"CheckerboardMask is for images"),
    ],
)
def test_what_cannot_be_parted_is_refused(kind, shape, words):
    with pytest.raises(UserError, match=words):
        kind(shape)
