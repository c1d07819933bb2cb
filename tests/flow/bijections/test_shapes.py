"""Numbers in other places."""

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.flow import Flatten, Squeeze

X = torch.arange(2.0 * 3 * 4 * 6).view(2, 3, 4, 6)


def test_squeeze_makes_channels_of_each_two_by_two_pixels():
    """Channel c's pixel (2 i + di, 2 j + dj) becomes channel 3 (2 di + dj) + c at (i, j)."""
    layer = Squeeze((3, 4, 6))
    z, log_det = layer(X)
    assert layer.out_shape == (12, 2, 3) and not log_det.any()
    for c, row, column in torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(6)).tolist():
        channel = 3 * (2 * (row % 2) + column % 2) + c
        assert torch.equal(z[:, channel, row // 2, column // 2], X[:, c, row, column])
    assert torch.equal(layer.inverse(z), X)


def test_squeeze_agrees_with_normflows():
    """Which puts the four pixels of a channel side by side."""
    normflows = pytest.importorskip("normflows")
    ours = Squeeze((3, 4, 6))(X)[0].unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2)
    assert torch.equal(ours, normflows.flows.Squeeze().inverse(X)[0])


def test_half_of_what_is_squeezed_has_all_colours():
    z, _ = Squeeze((3, 4, 6))(X)
    assert [int(torch.isin(X[0, c], z[0, :6]).sum()) for c in range(3)] == [12] * 3  # of 24 pixels


@pytest.mark.parametrize("shape", [(1, 7, 8), (1, 8, 7), (6,)])
def test_what_cannot_be_halved_is_refused_by_its_shape(shape):
    with pytest.raises(UserError, match="cannot be halved: choose fewer levels, or a flow without") as refused:
        Squeeze(shape)
    assert str(shape) in str(refused.value)


def test_flatten_takes_any_shape():
    for x in (X, X[:, :, 0], X[:, :, 0, 0]):
        layer = Flatten(tuple(x.shape[1:]))
        z, log_det = layer(x)
        assert layer.out_shape == (x[0].numel(),) and log_det.shape == (2,) and not log_det.any()
        assert torch.equal(z, x.reshape(2, -1)) and torch.equal(layer.inverse(z), x)
