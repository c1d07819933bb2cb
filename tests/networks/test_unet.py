import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.networks import UNet, unet
from lightning_gen.networks.layers import SelfAttention


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 7, 5), (1, 1, 1)])
def test_any_size_comes_back(shape, awaken):
    network = awaken(UNet(shape, 2 * shape[0], channels=8, multipliers=(1, 2, 2, 2), blocks=1))
    out = network(torch.randn(2, *shape), torch.zeros(2))
    assert out.shape == (2, 2 * shape[0], *shape[1:])
    assert (out[0] - out[1]).abs().max() > 1e-3  # the norms leave something of x, down to a single pixel


def test_on_a_torus_a_shift_by_the_coarsest_pixel_shifts_the_output(awaken):
    network = awaken(UNet((1, 16, 16), 1, channels=8, multipliers=(1, 2, 2), blocks=1, attention=(8, 4)))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.padding_mode = "circular"
    x, logsnr = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(1)

    def error(dx, dy):
        return (network(x.roll((dx, dy), (2, 3)), logsnr) - network(x, logsnr).roll((dx, dy), (2, 3))).abs().max()

    assert error(4, 8) < 1e-4
    assert error(2, 0) > 1e-2


def test_every_pixel_of_a_corner_reaches_the_whole_image(awaken):
    """At odd sizes no row or column may fall out between the levels."""
    network = awaken(UNet((1, 7, 5), 1, channels=8, multipliers=(1, 2), blocks=1, attention=(4,)))
    x = torch.randn(1, 1, 7, 5, requires_grad=True)
    network(x, torch.zeros(1))[0, 0, 0, 0].backward()
    assert (x.grad != 0).all()


@pytest.mark.parametrize("size", [(8, 6), (17, 19)])
def test_no_memory_format_changes_the_output_or_the_gradient(size, awaken, monkeypatch):
    network = awaken(UNet((2, *size), 2, 3, channels=8, multipliers=(1, 2), blocks=1, attention=(-(-size[0] // 2),)))
    x, logsnr, cond = torch.randn(3, 2, *size), torch.randn(3), torch.randn(3, 3)

    def run(x):
        network.zero_grad()
        out = network(x, logsnr, cond)
        out.square().mean().backward()
        return out.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])

    with monkeypatch.context() as plain:
        plain.setattr(unet, "fast_layout", lambda h: h)
        expected = run(x)
    own = run(x)
    network.to(memory_format=torch.channels_last)
    for result in (own, run(x.to(memory_format=torch.channels_last))):
        for value, reference in zip(result, expected):
            assert (value - reference).norm() < 1e-5 * reference.norm()


@pytest.mark.parametrize(
    ("size", "bfloat16", "channels_last"), [(32, False, True), (32, True, False), (8, False, False)]
)
@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last])
def test_on_a_cpu_every_block_sees_the_fast_layout_whatever_is_given(size, bfloat16, channels_last, given):
    network = UNet((3, size, size), 3, channels=8, multipliers=(1, 2), blocks=1, attention=(size // 2,))
    formats = []
    for module in network.modules():
        if isinstance(module, unet.ResidualBlock):
            module.register_forward_pre_hook(
                lambda module, args: formats.append(args[0].is_contiguous(memory_format=torch.channels_last))
            )
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        network(torch.randn(2, 3, size, size).contiguous(memory_format=given), torch.zeros(2))
    assert formats == [channels_last] * 4


def test_attention_acts_at_the_heights_named_and_no_others():
    network = UNet((1, 28, 28), 1, channels=8, multipliers=(1, 1, 1), blocks=1, attention=(28, 7))
    heights = []
    for module in network.modules():
        if isinstance(module, SelfAttention):
            module.register_forward_pre_hook(lambda module, args: heights.append(args[0].shape[2]))
    network(torch.randn(1, 1, 28, 28), torch.zeros(1))
    assert heights == [28, 7, 7, 28]


@pytest.mark.parametrize(("channels", "expected"), [(40, 5), (32, 4), (8, 2), (3, 1)])
def test_groups_divide_and_hold_four_channels(channels, expected):
    network = UNet((1, 8, 8), 1, channels=channels, multipliers=(1,), blocks=1, groups=6)
    assert {m.num_groups for m in network.modules() if isinstance(m, torch.nn.GroupNorm)} == {expected}


def test_dropout_acts_in_training_only(awaken):
    network = awaken(UNet((1, 8, 8), 1, channels=8, multipliers=(1,), blocks=1, dropout=0.5))
    x, logsnr = torch.randn(2, 1, 8, 8), torch.zeros(2)
    assert torch.equal(network(x, logsnr), network(x, logsnr))
    network.train()
    assert not torch.equal(network(x, logsnr), network(x, logsnr))


@pytest.mark.parametrize(
    ("shape", "kwargs", "message"),
    [
        ((2,), {}, "images"),
        ((1, 28, 28), {"attention": [16]}, r"\[28, 14, 7\]"),
        ((1, 8, 8), {"channels": 6, "attention": [8]}, "4 attention heads do not divide 6"),
        ((1, 8, 8), {"multipliers": []}, "one multiplier"),
        ((1, 8, 8), {"blocks": 0}, "positive"),
    ],
)
def test_errors(shape, kwargs, message):
    with pytest.raises(UserError, match=message):
        UNet(shape, 1, **kwargs)
