"""The laws of the U-Nets whose way up takes every tensor of the way down, whatever their parts."""

from functools import partial

import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.networks import ADMUNet, DDPMPPUNet, DDPMUNet, skip_unet
from lightning_gen.networks.blocks import ResidualBlock
from lightning_gen.networks.layers import SelfAttention

NETWORKS = {
    "ddpm": partial(DDPMUNet, channels=8),
    "ddpmpp": partial(DDPMPPUNet, channels=8),
    "adm": partial(ADMUNet, channels=8, head_channels=4),
    "adm-rescaled": partial(ADMUNet, channels=8, head_channels=4, rescale=True),
}


@pytest.fixture(params=NETWORKS)
def build(request):
    return NETWORKS[request.param]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 19), (1, 7, 5), (1, 1, 1)])
def test_any_size_comes_back(build, shape, awaken):
    network = awaken(build(shape, 2 * shape[0], multipliers=(1, 2, 2, 2), blocks=1, attention=()))
    out = network(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)), torch.zeros(2))
    assert out.shape == (2, 2 * shape[0], *shape[1:])
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_every_pixel_of_a_corner_reaches_the_whole_image(build, awaken):
    """At odd sizes no row or column may fall out between the levels."""
    network = awaken(build((1, 7, 5), 1, multipliers=(1, 2), blocks=1, attention=(4,)))
    x = torch.randn(1, 1, 7, 5, requires_grad=True)
    network(x, torch.zeros(1))[0, 0, 0, 0].backward()
    assert (x.grad != 0).all()


def test_on_a_torus_a_shift_by_the_coarsest_pixel_shifts_the_output(build, awaken):
    network = awaken(build((1, 16, 16), 1, multipliers=(1, 2, 2), blocks=1, attention=(8, 4)))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
    x, logsnr = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(1)

    def error(dx, dy):
        return (network(x.roll((dx, dy), (2, 3)), logsnr) - network(x, logsnr).roll((dx, dy), (2, 3))).abs().max()

    scale = network(x, logsnr).abs().max()
    assert error(4, 8) < 1e-5 * scale
    assert error(2, 0) > 1e-4 * scale


@pytest.mark.parametrize("size", [(8, 6), (17, 19)])
def test_no_memory_format_changes_the_output_or_the_gradient(build, size, awaken, monkeypatch):
    network = awaken(build((2, *size), 2, 3, multipliers=(1, 2), blocks=1, attention=(-(-size[0] // 2),)))
    x, logsnr, cond = torch.randn(3, 2, *size), torch.randn(3), torch.randn(3, 3)

    def run(x):
        network.zero_grad()
        out = network(x, logsnr, cond)
        out.square().mean().backward()
        return out.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])

    with monkeypatch.context() as plain:
        plain.setattr(skip_unet, "fast_layout", lambda h: h)
        expected = run(x)
    own = run(x)
    network.to(memory_format=torch.channels_last)
    for result in (own, run(x.to(memory_format=torch.channels_last))):
        for value, reference in zip(result, expected):
            assert (value - reference).norm() < 1e-5 * reference.norm()


@pytest.mark.parametrize(("size", "bfloat16", "channels_last"), [(32, False, True), (32, True, False)])
@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last])
def test_on_a_cpu_every_block_sees_the_fast_layout_whatever_is_given(build, size, bfloat16, channels_last, given):
    network = build((3, size, size), 3, multipliers=(1, 2), blocks=1, attention=(size // 2,))
    formats = []
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.register_forward_pre_hook(
                lambda module, args: formats.append(args[0].is_contiguous(memory_format=torch.channels_last))
            )
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        network(torch.randn(2, 3, size, size).contiguous(memory_format=given), torch.zeros(2))
    assert set(formats) == {channels_last}


@pytest.mark.parametrize(
    ("name", "down", "up"),
    [("ddpm", [14, 14], [14, 14, 14]), ("adm", [14, 14], [14, 14, 14]), ("ddpmpp", [14, 14], [14])],
)
def test_attention_follows_the_blocks_of_the_heights_named_and_stands_in_the_middle(name, down, up):
    network = NETWORKS[name]((1, 28, 28), 1, multipliers=(1, 1, 1), blocks=2, attention=(14,))
    heights = []
    for module in network.modules():
        if isinstance(module, SelfAttention):
            module.register_forward_pre_hook(lambda module, args: heights.append(args[0].shape[2]))
    network(torch.randn(1, 1, 28, 28), torch.zeros(1))
    assert heights == [*down, 7, *up]


def test_dropout_acts_in_training_only(build, awaken):
    network = awaken(build((1, 8, 8), 1, multipliers=(1,), blocks=1, attention=(), dropout=0.5))
    x, logsnr = torch.randn(2, 1, 8, 8), torch.zeros(2)
    assert torch.equal(network(x, logsnr), network(x, logsnr))
    network.train()
    assert not torch.equal(network(x, logsnr), network(x, logsnr))


@pytest.mark.parametrize(
    ("shape", "kwargs", "message"),
    [
        ((2,), {}, "takes images"),
        ((1, 28, 28), {}, r"height 16 for attention; its heights are \[28, 14, 7"),
        ((1, 8, 8), {"channels": 9, "attention": []}, "make channels even"),
        ((1, 8, 8), {"multipliers": [], "attention": []}, "one multiplier"),
        ((1, 8, 8), {"blocks": 0, "attention": []}, "positive"),
    ],
)
@pytest.mark.parametrize("network", [DDPMUNet, DDPMPPUNet, ADMUNet])
def test_errors_name_the_network(network, shape, kwargs, message):
    with pytest.raises(UserError, match=rf"{network.__name__} .*{message}"):
        network(shape, 1, **kwargs)
