"""Autoencoders: what passes a bottleneck, and what is not told the noise level."""

from functools import partial

import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.networks import Bottleneck, ConvDecoder, ConvEncoder, NoiseBlind, PlainMLP

LINEAR = partial(PlainMLP, widths=[])


@pytest.mark.parametrize("cond_dim", [None, 4])
def test_no_more_passes_than_the_features(cond_dim):
    network = Bottleneck((1, 4, 4), (1, 4, 4), cond_dim, features=3, encoder=LINEAR, decoder=LINEAR)
    cond = None if cond_dim is None else torch.randn(1, 4).expand(40, 4)
    out = network(torch.randn(40, 1, 4, 4), cond).flatten(1)
    assert torch.linalg.matrix_rank(out - out.mean(0), rtol=1e-4) == 3
    with pytest.raises(UserError, match="features"):
        Bottleneck((4,), (4,), features=0, encoder=LINEAR, decoder=LINEAR)
    with pytest.raises(UserError, match="NoiseBlind"):
        Bottleneck((4,), 4, encoder=LINEAR, decoder=LINEAR)


def test_it_starts_where_it_is_told():
    parts = dict(encoder=partial(ConvEncoder, widths=(8,)), decoder=partial(PlainMLP, widths=[4]))
    network = Bottleneck((1, 6, 6), (1, 6, 6), features=5, **parts)
    nn.init.zeros_(network.decoder.output.weight)
    value = torch.randn(1, 6, 6)
    network.start_at(value)
    torch.testing.assert_close(network(torch.randn(3, 1, 6, 6)), value.expand(3, -1, -1, -1))


def test_the_noise_level_is_not_told():
    network = partial(
        Bottleneck, features=4, encoder=partial(ConvEncoder, widths=(8,)), decoder=partial(ConvDecoder, widths=(8,))
    )
    blind = NoiseBlind((2, 6, 6), 2, 3, network=network).eval()
    x, cond = torch.randn(5, 2, 6, 6), torch.randn(5, 3)
    out = blind(x, torch.randn(5), cond)
    assert out.shape == x.shape and torch.equal(out, blind(x, torch.randn(5), cond))
    assert torch.equal(out, blind.map(x, cond))
