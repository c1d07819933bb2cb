"""The laws that every map between shapes keeps, whatever it is made of; and those of the MLPs."""

import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.networks import (
    ConvBlock,
    ConvDecoder,
    ConvEncoder,
    ConvNet,
    Map,
    PlainMLP,
    ResidualDecoder,
    ResidualEncoder,
    ResidualMLP,
)
from lightning_gen.specs import build as build_spec

CONV = dict(widths=(8, 16))
BLOCK = dict(width=8, depth=1)
MAPS = {
    "plain": (PlainMLP, (2, 4, 3), (5,), dict(widths=[16, 8])),
    "normed": (PlainMLP, (6,), (2, 4, 3), dict(widths=[16], activation=nn.ReLU, norm=True)),
    "linear": (PlainMLP, (6,), (2, 4, 3), dict(widths=[])),
    "residual": (ResidualMLP, (6,), (2, 4, 3), dict(width=16, depth=2)),
    "conv-encoder": (ConvEncoder, (2, 7, 6), (5,), CONV),
    "conv-decoder": (ConvDecoder, (6,), (3, 7, 6), CONV),
    "residual-encoder": (ResidualEncoder, (2, 7, 6), (5,), CONV),
    "residual-decoder": (ResidualDecoder, (6,), (3, 7, 6), CONV),
    "block-same": (ConvBlock, (2, 5, 4), (3, 5, 4), BLOCK),
    "block-halved": (ConvBlock, (2, 7, 6), (3, 4, 3), BLOCK),
    "block-doubled": (ConvBlock, (2, 4, 3), (3, 7, 6), BLOCK),
    "block-to-pixel": (ConvBlock, (2, 5, 4), (3, 1, 1), BLOCK),
    "block-to-vector": (ConvBlock, (2, 5, 4), (3,), BLOCK),
    "block-from-vector": (ConvBlock, (6,), (3, 5, 4), BLOCK),
    "block-vectors": (ConvBlock, (6,), (5,), BLOCK),
    "convolutions": (ConvNet, (2, 5, 4), (3, 5, 4), dict(widths=(16, 8))),
}
LOCAL = ("block-same", "block-halved", "block-doubled", "convolutions")
BATCH, COND = 3, 4


@pytest.fixture(params=MAPS)
def name(request):
    return request.param


@pytest.fixture
def make(name):
    """make(cond_dim=None): the network, the same one each time."""
    kind, in_shape, out_shape, kwargs = MAPS[name]

    def function(cond_dim=None) -> Map:
        torch.manual_seed(0)
        return kind(in_shape, out_shape, cond_dim, **kwargs)

    return function


@pytest.fixture
def inputs(name):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, *MAPS[name][1], generator=generator)
    return [x, torch.randn(BATCH, COND, generator=generator)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_output_has_its_shape_and_the_dtype_of_the_input(make, name, inputs, dtype):
    for cond_dim in (None, COND):
        out = make(cond_dim).to(dtype)(*(value.to(dtype) for value in inputs[: 1 + (cond_dim is not None)]))
        assert out.shape == (BATCH, *MAPS[name][2]) and out.dtype == dtype
        assert out.isfinite().all()


def test_under_autocast_it_is_close_and_keeps_the_dtype_of_the_input(make, inputs, awaken):
    network = awaken(make(COND))
    expected = network(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*inputs)
    assert out.dtype == torch.float32
    assert (out - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("which", [0, 1], ids=["x", "cond"])
def test_an_example_changes_its_own_output_only(make, inputs, awaken, which):
    network = awaken(make(COND))
    before = network(*inputs)
    inputs[which] = inputs[which].clone()
    inputs[which][1] += torch.linspace(0.5, 1.5, inputs[which][1].numel()).view_as(inputs[which][1])
    change = (network(*inputs) - before).flatten(1).abs().amax(dim=1)
    assert change[1] > 1e-3
    assert change[[0, 2]].max() < 1e-5


def test_gradient_reaches_every_row_of_every_matrix_and_every_vector(make, inputs, awaken):
    network = awaken(make(COND)).train()
    network(*inputs).square().sum().backward()
    reached = {key: p.grad.flatten(1).any(dim=1).all() for key, p in network.named_parameters() if p.ndim > 1}
    reached |= {key: p.grad.any() for key, p in network.named_parameters() if p.ndim == 1}
    assert reached and not [key for key, value in reached.items() if not value]


def test_the_output_starts_around_a_given_value(make, name):
    """On average over inputs, within what the last layer's random weights add to its bias."""
    network, out_shape = make(), MAPS[name][2]
    value = torch.linspace(-3.0, 40.0, network(torch.zeros(1, *MAPS[name][1])).numel()).view(out_shape)
    network.start_at(value)
    x = torch.randn(64, *MAPS[name][1], generator=torch.Generator().manual_seed(1))
    mean = network(x).mean(0)
    if isinstance(network.output, nn.Conv2d):  # which cannot tell one pixel from another
        mean, value = mean.mean((1, 2)), value.mean((1, 2))
    assert (mean - value).abs().max() < 2.0
    with pytest.raises(ValueError, match="shape"):
        network.start_at(value[..., None])


@pytest.mark.parametrize("name", [name for name in MAPS if name not in LOCAL])
def test_each_end_depends_on_all_of_the_other(make, inputs):
    """Every pixel of a decoder on every latent, every feature of an encoder on every pixel; when new, already."""
    network = make().double().eval()
    jacobian = torch.func.jacrev(lambda x: network(x[None])[0].flatten())(inputs[0][0].double())
    assert (jacobian.flatten(1).abs() > 1e-9).all()


def test_a_new_network_learns(make, name, inputs):
    network = make()
    optimizer = torch.optim.Adam(network.parameters(), 2e-2)
    target = torch.randn(BATCH, *MAPS[name][2], generator=torch.Generator().manual_seed(2))
    for _ in range(40):
        loss = (network(inputs[0]) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * target.square().mean()


def test_it_is_deterministic_keeps_no_batch_statistics_and_survives_pickling(make, inputs):
    network = make(COND)
    first = network.eval()(*inputs)
    network.train()(*inputs)
    assert torch.equal(first, network.eval()(*inputs))
    assert network.state_dict().keys() == dict(network.named_parameters()).keys()
    assert torch.equal(first, pickle.loads(pickle.dumps(network))(*inputs))
    assert torch.equal(first, make(COND).eval()(*inputs))


def test_the_condition_must_be_there_when_built_for_it_and_only_then(make, inputs):
    with pytest.raises(UserError, match="got none"):
        make(COND)(inputs[0])
    with pytest.raises(UserError, match="cond_dim"):
        make()(*inputs)


@pytest.mark.parametrize(
    ("kind", "in_shape", "out_shape", "kwargs", "word"),
    [
        (PlainMLP, (3,), (3,), {"widths": [8, 0]}, "widths of PlainMLP"),
        (ResidualMLP, (3,), (3,), {"depth": 0}, "depth of ResidualMLP"),
        (ConvEncoder, (3, 8, 8), (3,), {"widths": []}, "widths of ConvEncoder"),
        (ConvEncoder, (3,), (3,), {}, "ConvEncoder is for images"),
        (ConvDecoder, (3,), (64,), {}, "ConvDecoder is for images"),
        (ConvDecoder, (3,), (1, 8, 8), {"groups": 0}, "groups of ConvDecoder"),
        (ResidualEncoder, (3,), (3,), {}, "ResidualEncoder is for images"),
        (ResidualDecoder, (3,), (1, 8, 8), {"depth": 0}, "depth of ResidualDecoder"),
        (ConvBlock, (3, 8, 8), (3, 5, 4), {}, "from 8x8 to 5x4: change the shape"),
        (ConvBlock, (3, 8), (3, 4), {}, "vectors"),
        (ConvNet, (3, 8, 8), (3, 4, 4), {}, "ConvNet maps an image"),
    ],
)
def test_what_cannot_be_built_is_refused(kind, in_shape, out_shape, kwargs, word):
    with pytest.raises(UserError, match=word):
        kind(in_shape, out_shape, **kwargs)


def test_a_map_in_the_place_of_a_network_that_is_told_the_noise_level_is_refused(name):
    """Such a network is made from (shape, out_channels, cond_dim)."""
    kind, shape, _, kwargs = MAPS[name]
    with pytest.raises(UserError, match=rf"{kind.__name__} .*lightning_gen\.networks\.NoiseBlind around it"):
        kind(shape, shape[0], None, **kwargs)


def test_without_hidden_layers_an_mlp_is_linear_in_input_and_condition():
    network = PlainMLP((3,), (2, 2), 2, widths=[]).double()
    assert sum(p.numel() for p in network.parameters()) == 4 * (3 + 2) + 4
    x, y = torch.randn(2, 5, 3, dtype=torch.float64)
    c, d = torch.randn(2, 5, 2, dtype=torch.float64)
    zero = network(torch.zeros_like(x), torch.zeros_like(c))
    torch.testing.assert_close(network(x + 2 * y, c + 2 * d) - zero, network(x, c) - zero + 2 * (network(y, d) - zero))


def test_an_mlp_starts_as_glorot_and_bengio_propose():
    network = PlainMLP((1, 28, 28), (100,))
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert [tuple(linear.weight.shape) for linear in linears] == [(200, 784), (200, 200), (100, 200)]
    for linear in linears:
        limit = (6.0 / sum(linear.weight.shape)) ** 0.5
        assert 0.98 * limit < linear.weight.abs().max() <= limit
        assert abs(linear.weight.std() / (limit / 3**0.5) - 1.0) < 0.02
        assert not linear.bias.any()


@pytest.mark.parametrize("name", [name for name in MAPS if name.startswith(("residual", "block"))])
def test_the_last_layer_sees_what_a_norm_and_silu_let_through(make, inputs):
    network, seen = make(), []
    network.output.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network(1e3 * inputs[0])
    assert -0.279 < seen[0].min() < 0.0 and 1.0 < seen[0].max() < 20.0


def test_residual_layers_are_there_but_do_nothing_at_first(awaken):
    network = ResidualMLP((6,), (4,), width=16, depth=2).eval()
    x = torch.randn(5, 6)
    assert torch.equal(network(x), network.output(network.head(network.stem(x))))
    awaken(network)
    assert not torch.allclose(network(x), network.output(network.head(network.stem(x))), atol=0.1)


@pytest.mark.parametrize("name", [name for name in MAPS if name.startswith(("residual", "block"))])
def test_dropout_is_in_the_blocks_and_at_work_in_training_only(name, inputs, awaken):
    kind, in_shape, out_shape, kwargs = MAPS[name]
    network, x = awaken(kind(in_shape, out_shape, dropout=0.5, **kwargs)), inputs[0]
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.allclose(network(x), network(x), atol=1e-2)


class Holder(nn.Module):
    """What a family does: takes a factory and calls it when the shapes are known."""

    def __init__(
        self, shape: tuple[int, ...], network: Callable[[tuple[int, ...], tuple[int, ...], int | None], nn.Module]
    ):
        super().__init__()
        self.network = network(shape, (7,), None)


@pytest.mark.parametrize(
    ("network", "init_args", "kinds"),
    [
        ("PlainMLP", {"widths": [20, 30], "activation": "torch.nn.Tanh"}, {nn.Tanh}),
        (
            "PlainMLP",
            {"activation": {"class_path": "torch.nn.LeakyReLU", "init_args": {"negative_slope": 0.2}}},
            {nn.LeakyReLU},
        ),
        ("PlainMLP", {"norm": True}, {nn.Tanh, nn.LayerNorm}),
        ("ResidualMLP", {"width": 16, "depth": 3}, {nn.LayerNorm}),
        ("ConvEncoder", {"widths": [8, 8], "activation": "torch.nn.ReLU"}, {nn.ReLU}),
        ("ResidualEncoder", {"widths": [8, 8], "depth": 2}, {nn.GroupNorm}),
        ("ConvBlock", {"width": 8}, {nn.GroupNorm}),
    ],
)
def test_a_config_names_all_but_the_first_three_parameters(network, init_args, kinds):
    spec = {"class_path": f"lightning_gen.networks.{network}", "init_args": init_args}
    holder = build_spec(
        {"class_path": f"{__name__}.Holder", "init_args": {"network": spec}}, nn.Module, shape=(1, 8, 8)
    )
    assert type(holder.network).__name__ == network
    assert kinds <= {type(module) for module in holder.network.modules()}
    assert holder.network(torch.zeros(2, 1, 8, 8)).shape == (2, 7)


@pytest.mark.parametrize("network", ["PlainMLP", "ResidualMLP", "ConvDecoder", "ResidualDecoder"])
def test_a_decoder_needs_no_settings_at_all(network):
    parameters = partial(build_spec, {"class_path": f"lightning_gen.networks.{network}"}, Map)
    assert parameters(in_shape=(5,), out_shape=(1, 28, 28))(torch.zeros(2, 5)).shape == (2, 1, 28, 28)
