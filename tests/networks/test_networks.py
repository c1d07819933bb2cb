"""The laws that every network keeps, whatever it is made of."""

import pickle
import subprocess
import sys
from collections.abc import Callable

import jsonargparse
import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.networks import MLP, UNet

NETWORKS = {
    "unet": lambda cond_dim=None: UNet((2, 7, 6), 3, cond_dim, channels=8, multipliers=(1, 2), blocks=1, attention=[4]),
    "mlp": lambda cond_dim=None: MLP((5,), 3, cond_dim, width=16, depth=2),
}
SHAPES = {"unet": (2, 7, 6), "mlp": (5,)}
BATCH = 4


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


@pytest.fixture
def inputs(name):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, *SHAPES[name], generator=generator)
    return [x, torch.tensor([-12.0, -1.0, 3.0, 12.0]), torch.randn(BATCH, 6, generator=generator)]


def test_starts_at_exactly_zero(name, inputs):
    out = NETWORKS[name](6)(*inputs)
    assert out.shape == (BATCH, 3, *SHAPES[name][1:])
    assert not out.any()


@pytest.mark.parametrize("which", [0, 1, 2], ids=["x", "logsnr", "cond"])
def test_an_example_changes_its_own_output_only(name, inputs, awaken, which):
    network = awaken(NETWORKS[name](6))
    before = network(*inputs)
    inputs[which] = inputs[which].clone()
    inputs[which][1] += 0.5
    change = (network(*inputs) - before).flatten(1).abs().amax(dim=1)
    assert change[1] > 1e-2
    assert change[[0, 2, 3]].max() < 1e-5


def test_gradient_reaches_every_row_of_every_matrix_and_every_vector(name, inputs, awaken):
    network = awaken(NETWORKS[name](6)).train()
    network(*inputs).square().sum().backward()
    parameters = dict(network.named_parameters())
    assert all(p.grad is not None for p in parameters.values())
    reached = {key: p.grad.flatten(1).any(dim=1).all() if p.ndim > 1 else p.grad.any() for key, p in parameters.items()}
    assert not [key for key, value in reached.items() if not value]


def test_a_new_network_learns(name, inputs):
    network = NETWORKS[name]()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    target = torch.randn(BATCH, 3, *SHAPES[name][1:], generator=torch.Generator().manual_seed(2))
    for _ in range(40):
        loss = (network(*inputs[:2]) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * target.square().mean()


def test_bfloat16_autocast_is_close_and_keeps_the_input_dtype(name, inputs, awaken):
    network = awaken(NETWORKS[name](6))
    expected = network(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*inputs)
    assert out.dtype == torch.float32
    assert (out - expected).norm() < 0.05 * expected.norm()


def test_evaluation_is_deterministic_and_keeps_no_batch_statistics(name, inputs, awaken):
    network = awaken(NETWORKS[name](6))
    first = network(*inputs)
    assert torch.equal(first, network(*inputs))
    assert not list(network.buffers())
    assert torch.equal(first, pickle.loads(pickle.dumps(network))(*inputs))


def test_condition_must_be_there_when_built_for_it_and_only_then(name, inputs):
    with pytest.raises(UserError, match="got none"):
        NETWORKS[name](6)(*inputs[:2])
    with pytest.raises(UserError, match="cond_dim"):
        NETWORKS[name]()(*inputs)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"class_path": "lightning_gen.networks.UNet", "init_args": {"channels": 8, "attention": [4]}}, (1, 8, 8)),
        ({"class_path": "lightning_gen.networks.MLP", "init_args": {"width": 16}}, (2,)),
    ],
)
def test_a_config_names_all_but_the_first_three_parameters(config, shape):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=Callable[[tuple, int, int | None], nn.Module])
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in jsonargparse 4.49
    factory = instantiate(parser.parse_object({"network": config})).network
    assert factory(shape, 3, None)(torch.zeros(2, *shape), torch.zeros(2)).shape == (2, 3, *shape[1:])


def test_importing_networks_imports_no_lightning():
    code = "import sys, lightning_gen.networks; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
