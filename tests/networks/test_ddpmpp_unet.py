import pytest
import torch

from lightning_gen.networks import DDPMPPUNet
from lightning_gen.networks.blocks import AddNorm, ResidualBlock


def test_on_cifar10_it_has_edms_number_of_parameters():
    with torch.device("meta"):
        network = DDPMPPUNet((3, 32, 32), 3)
    augmentation = 9 * 128  # the linear map by which theirs takes in how an image was augmented
    assert sum(p.numel() for p in network.parameters()) == 55_733_891 - augmentation


def test_the_embedding_is_added_and_every_sum_rescaled():
    network = DDPMPPUNet((1, 8, 8), 1, channels=8, multipliers=(1, 2), blocks=1, attention=(4,))
    blocks = [m for m in network.modules() if isinstance(m, ResidualBlock)]
    assert blocks
    assert {type(block.modulated_norm) for block in blocks} == {AddNorm}
    assert [block.gain for block in blocks] == pytest.approx([0.5**0.5] * len(blocks))
