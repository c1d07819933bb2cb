import pytest
import torch
from torch import nn

from lightning_gen.networks import ConvDecoder, ConvEncoder, ResidualDecoder, ResidualEncoder
from lightning_gen.networks.conv_maps import ConvLayer, halvings

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 7, 5), (1, 13, 16), (1, 1, 9)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kinds", [(ConvEncoder, ConvDecoder), (ResidualEncoder, ResidualDecoder)])
@pytest.mark.parametrize("widths", [(8,), (8, 12, 16)])
def test_any_height_and_width_is_met_exactly(shape, kinds, widths):
    encoder, decoder = kinds
    features = encoder(shape, (2, 5), widths=widths)(torch.randn(2, *shape))
    assert features.shape == (2, 2, 5)
    assert decoder((2, 5), (4, *shape[1:]), widths=widths)(features).shape == (2, 4, *shape[1:])


def test_each_layer_of_the_encoder_halves_and_of_the_decoder_doubles():
    seen = []

    def note(module: nn.Module, args: tuple, out: torch.Tensor) -> None:
        seen.append(tuple(out.shape[1:]))

    encoder, decoder = (
        ConvEncoder((1, 28, 20), (5,), widths=(8, 12, 16)),
        ConvDecoder((5,), (1, 28, 20), widths=(8, 12, 16)),
    )
    for layer in (*encoder.blocks, *decoder.blocks):
        layer.register_forward_hook(note)
    decoder(encoder(torch.randn(1, 1, 28, 20)))
    assert seen == [(8, 14, 10), (12, 7, 5), (16, 4, 3), (12, 7, 5), (8, 14, 10), (8, 28, 20)]


def test_sizes_halve_rounding_up_as_a_strided_convolution_does():
    conv, x = nn.Conv2d(1, 1, 3, stride=2, padding=1), torch.zeros(1, 1, 29, 6)
    for size in halvings("a network", (1, 29, 6), 5)[1:]:
        x = conv(x)
        assert tuple(x.shape[2:]) == size


def test_modulation_acts_between_norm_and_activation():
    layer = ConvLayer(2, 8, groups=2, activation=nn.ReLU)
    x, modulation = torch.randn(3, 2, 6, 6), torch.zeros(3, layer.modulated)
    out = layer(x, modulation)
    assert (out >= 0).all() and (out == 0).any()
    modulation[1, 8:] = 50.0  # the shifts of one example
    shifted = layer(x, modulation)
    assert torch.equal(shifted[[0, 2]], out[[0, 2]])
    assert torch.allclose(shifted[1].mean(), torch.tensor(50.0), atol=1e-3)


def test_the_activation_follows_every_layer_but_the_last():
    for network, count in (
        (ConvEncoder((1, 8, 8), (5,), activation=nn.ELU), 3),
        (ConvDecoder((5,), (1, 8, 8), activation=nn.ELU), 4),
    ):
        kinds = [type(module) for module in network.modules()]
        assert kinds.count(nn.ELU) == count and nn.SiLU not in kinds
