"""The plain stack of convolutions."""

from functools import partial

import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.networks import ConvNet
from lightning_gen.specs import build as build_spec

X = torch.randn(2, 2, 7, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("widths", "kernels"), [((), [3]), ((8,), [3, 3]), ((8, 4), [3, 1, 3]), ((8, 4, 6), [3, 1, 1, 3])]
)
def test_it_is_3x3_first_and_last_and_1x1_inside(widths, kernels):
    network = ConvNet((2, 7, 6), (3, 7, 6), widths=widths)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [c.kernel_size for c in convolutions] == [(k, k) for k in kernels]
    assert [c.out_channels for c in convolutions] == [*widths, 3]
    assert network(X).shape == (2, 3, 7, 6)


@pytest.mark.parametrize(("widths", "reach"), [((), 1), ((8, 8), 2)])
def test_an_output_pixel_sees_its_neighbours_alone(awaken, widths, reach):
    network = awaken(ConvNet((2, 9, 9), (3, 9, 9), widths=widths, activation=nn.Tanh)).double()
    x = torch.zeros(1, 2, 9, 9, dtype=torch.float64, requires_grad=True)
    network(x)[0, :, 4, 4].sum().backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[4 - reach : 5 + reach, 4 - reach : 5 + reach] = True
    assert torch.equal(seen, expected)


def test_without_hidden_layers_it_is_affine_in_input_and_condition(awaken):
    network = awaken(ConvNet((2, 7, 6), (3, 7, 6), 4, widths=())).double()
    x, cond = X.double(), torch.randn(2, 4, dtype=torch.float64)
    zero = network(0 * x, 0 * cond)
    torch.testing.assert_close(network(3 * x, 2 * cond), 3 * network(x, 0 * cond) + 2 * network(0 * x, cond) - 4 * zero)
    assert (network(0 * x, cond) - zero).abs().min() > 0
    moved = network(x, cond) - network(x, 0 * cond)
    torch.testing.assert_close(moved, moved[:, :, :1, :1].expand_as(moved))  # the same at every pixel


@pytest.mark.parametrize("widths", [(), (8,), (8, 8)])
def test_with_its_last_layer_at_zero_it_is_zero_whatever_the_condition(widths):
    """What couplings and priors start from."""
    network = ConvNet((2, 7, 6), (3, 7, 6), 4, widths=widths)
    for p in network.output.parameters():
        nn.init.zeros_(p)
    assert not network(X, torch.randn(2, 4)).any()


def test_the_input_stays_as_it_is_and_the_output_is_contiguous():
    """Activations may work in place; what follows reads the output as it lies."""
    for widths in ((), (8, 8)):
        x = torch.randn(2, 2, 32, 32)
        before = x.clone()
        out = ConvNet((2, 32, 32), (3, 32, 32), widths=widths)(x)
        assert torch.equal(x, before) and out.is_contiguous()


@pytest.mark.parametrize(
    ("in_shape", "out_shape", "settings", "words"),
    [
        ((4,), (4,), {}, r"ConvNet maps an image .*\(4,\) to \(4,\): choose PlainMLP or ResidualMLP for vectors"),
        ((2, 8, 8), (2, 4, 4), {}, r"to one of its size, not shape \(2, 8, 8\) to \(2, 4, 4\)"),
        ((2, 8, 8), (6,), {}, "to one of its size"),
        ((2, 8, 8), (2, 8, 8), {"widths": (8, 0)}, "widths of ConvNet must be positive"),
    ],
)
def test_what_cannot_be_built_is_refused(in_shape, out_shape, settings, words):
    with pytest.raises(UserError, match=words):
        ConvNet(in_shape, out_shape, **settings)


def test_a_config_names_its_settings():
    spec = {
        "class_path": "lightning_gen.networks.ConvNet",
        "init_args": {"widths": [6], "activation": "torch.nn.GELU"},
    }
    network = partial(build_spec, spec, ConvNet)(in_shape=(2, 7, 6), out_shape=(3, 7, 6), cond_dim=None)
    assert isinstance(network.activation, nn.GELU) and network(X).shape == (2, 3, 7, 6)
