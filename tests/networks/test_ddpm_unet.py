from itertools import chain

import pytest
import torch
from torch import nn

from lightning_gen.networks import DDPMUNet


def test_on_cifar10_it_has_the_papers_number_of_parameters():
    with torch.device("meta"):
        network = DDPMUNet((3, 32, 32), 3)
    assert sum(p.numel() for p in network.parameters()) == 35_746_307  # 35.7 M in Ho et al. (2020), appendix B


def twin(network: DDPMUNet, shape: tuple[int, ...], **kwargs) -> nn.Module:
    """diffusers' network of the same architecture, given this one's weights and its sines of log-SNR."""
    diffusers = pytest.importorskip("diffusers")
    kwargs |= dict(sample_size=shape[1:], in_channels=shape[0], out_channels=shape[0])
    other = diffusers.UNet2DModel(**kwargs, attention_head_dim=None).eval()

    def copy(to: nn.Module, *tensors: torch.Tensor) -> None:
        to.load_state_dict(dict(zip(("weight", "bias"), tensors)))

    def pair(to: nn.Module, module: nn.Module) -> None:
        copy(to, module.weight, module.bias)

    pair(other.conv_in, network.input)
    pair(other.conv_norm_out, network.norm)
    pair(other.conv_out, network.output)
    pair(other.time_embedding.linear_1, network.embedding.logsnr.mlp[0])
    pair(other.time_embedding.linear_2, network.embedding.logsnr.mlp[2])

    levels = [*other.down_blocks, other.mid_block, *other.up_blocks]
    stages = [s for s in chain(network.down, network.middle, *network.up) if hasattr(s, "block")]
    rows = [n for n in network.modulated if n]
    modulations = zip(network.modulation.weight.split(rows), network.modulation.bias.split(rows))
    for to, stage, modulation in zip(chain(*(level.resnets for level in levels)), stages, modulations, strict=True):
        for name, own in dict(norm1="norm", conv1="conv_in", norm2="modulated_norm", conv2="conv_out").items():
            pair(getattr(to, name), getattr(stage.block, own))
        copy(to.time_emb_proj, *modulation)
        if to.conv_shortcut is not None:
            pair(to.conv_shortcut, stage.block.skip)

    theirs = [a for level in levels for a in getattr(level, "attentions", None) or []]
    for to, own in zip(theirs, [s.attention for s in stages if s.attention is not None], strict=True):
        pair(to.group_norm, own.norm)
        for linear, weight, bias in zip((to.to_q, to.to_k, to.to_v), own.qkv.weight.chunk(3), own.qkv.bias.chunk(3)):
            copy(linear, weight, bias)
        pair(to.to_out[0], own.out)

    shrinks = [s for s in network.down if not hasattr(s, "block")]
    for to, own in zip([level.downsamplers[0].conv for level in other.down_blocks[:-1]], shrinks, strict=True):
        pair(to, own)
    for to, own in zip([level.upsamplers[0].conv for level in other.up_blocks[:-1]], network.grow, strict=True):
        pair(to, own)

    sines = []
    network.embedding.logsnr.mlp.register_forward_pre_hook(lambda module, args: sines.append(args[0]))
    other.time_proj.forward = lambda timesteps: sines[-1]
    return other


def test_it_is_the_same_function_as_diffusers_network_of_the_same_weights(awaken):
    shape = (3, 16, 16)
    network = awaken(DDPMUNet(shape, 3, channels=16, multipliers=(1, 2, 3), attention=(8,), groups=4))
    other = twin(
        network,
        shape,
        block_out_channels=(16, 32, 48),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    x, logsnr = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)), torch.tensor([-3.0, 5.0])
    expected = network(x, logsnr)
    assert (other(x, logsnr).sample - expected).norm() < 1e-5 * expected.norm()
