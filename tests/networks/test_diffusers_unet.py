import sys

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.networks import DiffusersUNet
from lightning_gen.networks.layers import zero

TINY = dict(
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
)


def test_without_diffusers_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'lightning_gen\[diffusers\]'"):
        DiffusersUNet((1, 8, 8), 1, **TINY)


@pytest.fixture(autouse=True)
def diffusers(request):
    if "monkeypatch" not in request.fixturenames:
        pytest.importorskip("diffusers")


def test_the_defaults_are_ddpms_network():
    with torch.device("meta"):
        network = DiffusersUNet((3, 32, 32), 3)
    assert sum(p.numel() for p in network.parameters()) == 35_746_307


def test_a_thousand_noise_levels_stay_a_thousand_in_float32_under_autocast_and_with_bfloat16_weights():
    network = DiffusersUNet((1, 8, 8), 1, **TINY)
    timesteps, sines = [], []
    network.unet.time_proj.register_forward_pre_hook(lambda module, args: timesteps.append(args[0]))
    network.unet.time_proj.register_forward_hook(lambda module, args, out: sines.append(out))
    logsnr = torch.linspace(-20.0, 20.0, 1000)
    x = torch.zeros(1000, 1, 2, 2)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            network(x, logsnr)
        network.bfloat16()(x.bfloat16(), logsnr)
    for given, made in zip(timesteps, sines):
        assert given.dtype == made.dtype == torch.float32
        assert given[[0, -1]].tolist() == [1000.0, 0.0]  # the range on which such networks are trained, noise first
        assert len(torch.unique(made, dim=0)) == 1000


def test_the_condition_is_the_class_embedding_and_zero_at_zero_weights(awaken):
    network = awaken(DiffusersUNet((1, 8, 8), 1, 5, **TINY))
    x, logsnr, cond = torch.randn(2, 1, 8, 8), torch.tensor([0.0, 3.0]), torch.randn(2, 5)
    heard = network(x, logsnr, cond)
    zero(network.cond)
    assert not torch.allclose(heard, network(x, logsnr, cond))
    plain = DiffusersUNet((1, 8, 8), 1, **TINY).eval()
    plain.unet.load_state_dict(network.unet.state_dict())
    assert torch.allclose(plain(x, logsnr), network(x, logsnr, cond))


def test_options_reach_the_model():
    network = DiffusersUNet((1, 8, 8), 1, **TINY, options={"time_embedding_dim": 24, "act_fn": "gelu"}, cond_dim=3)
    assert network.unet.config.act_fn == "gelu"
    assert network.cond.out_features == 24
    assert network(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, 3)).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("shape", "kwargs", "message"),
    [
        ((2,), {}, "takes images"),
        ((1, 8, 7), {}, "multiples of 2 pixels, these have 8x7: give fewer block_out_channels"),
        ((1, 8, 8), {"options": {"class_embed_type": "timestep"}}, "sets class_embed_type itself"),
        ((1, 8, 8), {"options": {"colour": "red"}}, "does not take these arguments: .*colour"),
        ((1, 8, 8), {"norm_num_groups": 5}, "does not take these arguments"),
        ((1, 8, 8), {"down_block_types": ("DownBlock2D",)}, "does not take these arguments"),
    ],
)
def test_errors(shape, kwargs, message):
    with pytest.raises(UserError, match=message):
        DiffusersUNet(shape, 1, **(TINY | kwargs))
