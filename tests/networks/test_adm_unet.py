import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.networks import ADMUNet
from lightning_gen.networks.layers import SelfAttention


def count(*args, **kwargs) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in ADMUNet(*args, **kwargs).parameters())


def test_on_cifar10_it_has_the_number_of_parameters_it_says():
    assert count((3, 32, 32), 3) == 60_841_219


def test_imagenet64_is_the_papers_network():
    with torch.device("meta"):
        network = ADMUNet(
            (3, 64, 64), 6, channels=192, multipliers=(1, 2, 3, 4), blocks=3, attention=(32, 16, 8), dropout=0.1
        )
    own = sum(p.numel() for p in network.parameters())
    assert own == 295_100_742
    # Theirs has a vector of 768 features for each class, and a gain and a bias for each channel of a modulated norm,
    # where ours has the scale and the shift of the modulation only: as many.
    assert own + 1000 * 768 + sum(network.modulated) == 295_904_454
    heads = [module.heads for module in network.modules() if isinstance(module, SelfAttention)]
    assert len(heads) == 3 * 3 + 1 + 3 * 4  # three heights: each block down, the middle, each block up
    assert set(heads) == {6, 9, 12}  # 384, 576 and 768 channels, 64 a head


def test_rescaling_halves_the_variance_of_every_sum():
    """Blocks and attention start as the identity, so a new network shows the gains alone: the tensor that reaches the
    middle has come through three blocks (one a level and the reduction) and one attention."""
    kwargs = dict(channels=8, multipliers=(1, 1), blocks=1, attention=(8,), head_channels=8)
    plain, rescaled = (ADMUNet((1, 8, 8), 1, **kwargs, rescale=rescale).eval() for rescale in (False, True))
    rescaled.load_state_dict(plain.state_dict())
    seen = []
    for network in (plain, rescaled):
        network.middle[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        network(torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(1))
    assert torch.allclose(seen[1], seen[0] * 0.5**2, rtol=1e-5)


@pytest.mark.parametrize(
    ("head_channels", "message"), [(6, "8 channels are no whole number .* head_channels"), (0, "head_channels")]
)
def test_heads_must_divide(head_channels, message):
    with pytest.raises(UserError, match=message):
        ADMUNet((1, 8, 8), 1, channels=8, multipliers=(1,), attention=(8,), head_channels=head_channels)
