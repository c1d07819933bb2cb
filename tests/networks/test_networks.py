"""The laws that every network keeps, whatever it is made of."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import jsonargparse
import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.networks import MLP, ADMUNet, DDPMPPUNet, DDPMUNet, DiffusersUNet, DiT, Transformer, UNet

TINY = dict(channels=8, multipliers=(1, 2), blocks=1, attention=[4])
TINY_DIFFUSERS = dict(
    block_out_channels=[16, 32],
    down_block_types=["DownBlock2D", "AttnDownBlock2D"],
    up_block_types=["AttnUpBlock2D", "UpBlock2D"],
    layers_per_block=1,
    norm_num_groups=4,
)
NETWORKS = {
    "unet": ((2, 7, 6), partial(UNet, **TINY)),
    "ddpm": ((2, 7, 6), partial(DDPMUNet, **TINY)),
    "ddpmpp": ((2, 7, 6), partial(DDPMPPUNet, **TINY)),
    "adm": ((2, 7, 6), partial(ADMUNet, **TINY, head_channels=8)),
    "dit": ((2, 6, 4), partial(DiT, width=16, depth=2, heads=2)),
    "diffusers": ((2, 6, 4), partial(DiffusersUNet, **TINY_DIFFUSERS)),
    "transformer": ((2, 7), partial(Transformer, width=16, depth=2, heads=2)),
    "mlp": ((5,), partial(MLP, width=16, depth=2)),
}
BATCH = 4


@pytest.fixture(params=NETWORKS)
def name(request):
    if request.param == "diffusers":
        pytest.importorskip("diffusers")
    return request.param


@pytest.fixture
def shape(name):
    return NETWORKS[name][0]


@pytest.fixture
def build(name, shape):
    """build(cond_dim=None): the network, of three channels."""
    return partial(NETWORKS[name][1], shape, 3)


@pytest.fixture
def inputs(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, *shape, generator=generator)
    return [x, torch.tensor([-12.0, -1.0, 3.0, 12.0]), torch.randn(BATCH, 6, generator=generator)]


def test_starts_at_exactly_zero(build, shape, inputs):
    out = build(6)(*inputs)
    assert out.shape == (BATCH, 3, *shape[1:])
    assert not out.any()


@pytest.mark.parametrize("which", [0, 1, 2], ids=["x", "logsnr", "cond"])
def test_an_example_changes_its_own_output_only(build, inputs, awaken, which):
    network = awaken(build(6))
    before = network(*inputs)
    inputs[which] = inputs[which].clone()
    inputs[which][1] += 0.5
    change = (network(*inputs) - before).flatten(1).abs().amax(dim=1)
    assert change[1] > 1e-2
    assert change[[0, 2, 3]].max() < 1e-5


def test_gradient_reaches_every_row_of_every_matrix_and_every_vector(build, inputs, awaken):
    network = awaken(build(6)).train()
    network(*inputs).square().sum().backward()
    parameters = dict(network.named_parameters())
    assert all(p.grad is not None for p in parameters.values())
    reached = {key: p.grad.flatten(1).any(dim=1).all() if p.ndim > 1 else p.grad.any() for key, p in parameters.items()}
    assert not [key for key, value in reached.items() if not value]


def test_a_new_network_learns(build, shape, inputs):
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    target = torch.randn(BATCH, 3, *shape[1:], generator=torch.Generator().manual_seed(2))
    for _ in range(40):
        loss = (network(*inputs[:2]) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * target.square().mean()


def test_bfloat16_autocast_is_close_and_keeps_the_input_dtype(build, inputs, awaken):
    network = awaken(build(6))
    expected = network(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*inputs)
    assert out.dtype == torch.float32
    assert (out - expected).norm() < 0.05 * expected.norm()


def test_evaluation_is_deterministic_and_keeps_no_batch_statistics(build, inputs, awaken, equal):
    network = awaken(build(6))
    first = network(*inputs)
    assert torch.equal(first, network(*inputs))
    assert network.state_dict().keys() == dict(network.named_parameters()).keys()
    before = {key: value.clone() for key, value in network.named_buffers()}
    network.train()(*inputs)
    assert equal(before, dict(network.eval().named_buffers()))
    assert torch.equal(first, pickle.loads(pickle.dumps(network))(*inputs))


def test_condition_must_be_there_when_built_for_it_and_only_then(build, inputs):
    with pytest.raises(UserError, match="got none"):
        build(6)(*inputs[:2])
    with pytest.raises(UserError, match="cond_dim"):
        build()(*inputs)


@pytest.mark.parametrize(
    ("network", "init_args", "shape"),
    [
        ("UNet", {"channels": 8, "attention": [4]}, (1, 8, 8)),
        ("DDPMUNet", {"channels": 8, "attention": [4]}, (1, 8, 8)),
        ("DDPMPPUNet", {"channels": 8, "attention": [4], "blocks": 1}, (1, 8, 8)),
        ("ADMUNet", {"channels": 8, "attention": [4], "head_channels": 8, "blocks": 1}, (1, 8, 8)),
        ("DiT", {"width": 16, "depth": 1, "heads": 2, "patch": 2}, (1, 8, 8)),
        ("DiTS", {"patch": 4}, (1, 8, 8)),
        ("DiffusersUNet", TINY_DIFFUSERS | {"options": {"downsample_padding": 1}}, (1, 8, 8)),
        ("Transformer", {"width": 16, "depth": 1, "heads": 2, "mlp_ratio": 2.0}, (5, 8)),
        ("MLP", {"width": 16}, (2,)),
    ],
)
def test_a_config_names_all_but_the_first_three_parameters(network, init_args, shape):
    if network == "DiffusersUNet":
        pytest.importorskip("diffusers")
    config = {"class_path": f"lightning_gen.networks.{network}", "init_args": init_args}
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=Callable[[tuple, int, int | None], nn.Module])
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in jsonargparse 4.49
    factory = instantiate(parser.parse_object({"network": config})).network
    assert factory(shape, 3, None)(torch.zeros(2, *shape), torch.zeros(2)).shape == (2, 3, *shape[1:])


def test_importing_networks_imports_nothing_heavy():
    code = "import sys, lightning_gen.networks; sys.exit(bool({'lightning', 'diffusers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
