import pytest
import torch

from lightning_gen.networks.blocks import AddNorm, ResidualBlock, ScaleShiftNorm
from lightning_gen.networks.layers import downsample, upsample

X = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("resample", "size"), [(None, (5, 6)), (downsample, (3, 3)), (upsample, (9, 12))])
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_a_new_block_does_to_its_input_what_it_does_to_the_resolution(resample, size, gain):
    block = ResidualBlock(8, 8, 0.0, 4, resample=resample, gain=gain)
    out = block(X, torch.randn(2, block.modulated), torch.Size(size))
    assert out.shape[2:] == size
    assert torch.equal(out, gain * (X if resample is None else resample(X, torch.Size(size))))


@pytest.mark.parametrize(("resample", "size"), [(downsample, (3, 3)), (upsample, (10, 12))])
def test_the_residual_branch_changes_resolution_between_its_norm_and_its_first_convolution(resample, size):
    block = ResidualBlock(8, 8, 0.0, 4, resample=resample)
    seen = {}
    block.norm.register_forward_pre_hook(lambda module, args: seen.update(norm=args[0].shape[2:]))
    block.conv_in.register_forward_pre_hook(lambda module, args: seen.update(conv=args[0].shape[2:]))
    block(X, torch.randn(2, block.modulated), torch.Size(size))
    assert seen == {"norm": X.shape[2:], "conv": torch.Size(size)}


def test_the_gain_multiplies_both_branches(awaken):
    plain, scaled = (awaken(ResidualBlock(8, 12, 0.0, 4, gain=gain)) for gain in (1.0, 0.25))
    modulation = torch.randn(2, plain.modulated)
    assert torch.allclose(scaled(X, modulation), 0.25 * plain(X, modulation))


def test_a_projection_where_the_channels_change_or_where_it_is_asked_for():
    for args, projects in ([(8, 8), False], [(8, 12), True], [(8, 8, True), True]):
        block = ResidualBlock(*args[:2], 0.0, 4, project=len(args) > 2)
        assert bool(list(block.skip.parameters())) == projects


def test_what_is_added_to_a_whole_group_is_normalised_away_and_what_differs_within_is_not():
    norm = AddNorm(8, 2)
    assert norm.modulated == 8
    plain = norm(X, torch.zeros(2, 8))
    assert torch.allclose(norm(X, torch.tensor([3.0, -2.0]).repeat_interleave(4).expand(2, 8)), plain, atol=1e-4)
    assert not torch.allclose(norm(X, torch.arange(8.0).expand(2, 8)), plain, atol=1e-1)


def test_scale_and_shift_act_after_the_norm_and_leave_it_alone_at_zero():
    norm, modulation = ScaleShiftNorm(8, 2), torch.zeros(2, 16)
    assert norm.modulated == 16
    plain = norm(X, modulation)
    modulation[:, 3], modulation[:, 8 + 5] = 1.0, 4.0
    change = norm(X, modulation) - plain
    assert torch.allclose(change[:, 3], plain[:, 3], atol=1e-5)
    assert torch.allclose(change[:, 5], torch.full_like(change[:, 5], 4.0), atol=1e-5)
    assert change[:, [0, 1, 2, 4, 6, 7]].abs().max() < 1e-5
