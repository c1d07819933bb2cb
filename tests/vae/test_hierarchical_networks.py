"""The networks of a hierarchy: what each sees, and how the two ways of a ladder meet."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from lightning_gen.errors import UserError
from lightning_gen.networks import ConvBlock, MLPBlock, PlainMLP
from lightning_gen.random_source import GeneratorSource
from lightning_gen.vae import (
    Bernoulli,
    BottomUpInference,
    DiagonalGaussian,
    Hierarchy,
    NetworkGenerator,
    PrecisionWeighted,
    Residual,
    TopDownInference,
)

SHAPE, COND = (1, 6, 5), 3
MLP = partial(MLPBlock, depth=1)
CONV = partial(ConvBlock, depth=1)
STACKS = {
    "mlp": (MLP, [(4,), (3,), (2,)]),
    "conv": (CONV, [(2, 6, 5), (3, 3, 3), (2, 2, 2)]),
    "conv to a vector": (CONV, [(2, 3, 3), (2, 2, 2), (5,)]),
}
INFERENCES = {
    "bottom-up": BottomUpInference,
    "residual": lambda: TopDownInference(Residual()),
    "precision-weighted": lambda: TopDownInference(PrecisionWeighted(), reader=partial(MLPBlock, depth=0)),
}
WIDTHS = [8, 6, 4]


def made(stack: str, inference: str, cond_dim: int | None = None) -> Hierarchy:
    """In float64, with weights that leave nothing at 0."""
    block, shapes = STACKS[stack]
    observation, inferred = Bernoulli(), INFERENCES[inference]()
    observation.bind(SHAPE, 2)
    inferred.bind(SHAPE, shapes, WIDTHS, block, cond_dim)
    generator = NetworkGenerator(shapes, WIDTHS, observation.out_shape, block, cond_dim)
    weights = torch.Generator().manual_seed(0)
    for part in (generator, inferred):
        part.double().eval()
        with torch.no_grad():
            for p in part.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=weights, dtype=p.dtype))
    return Hierarchy(generator, inferred, observation)


BOTH = [pytest.mark.parametrize("stack", STACKS), pytest.mark.parametrize("inference", INFERENCES)]
X = (torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)


def every_stack(test):
    for mark in BOTH:
        test = mark(test)
    return test


@every_stack
@torch.no_grad()
def test_every_layer_has_its_shape_and_samples_weigh_the_same_one_by_one(stack, inference):
    """Conditions and all."""
    model, cond = made(stack, inference, COND), torch.randn(3, COND, generator=torch.Generator().manual_seed(1))
    passed = model.weigh(X, model.infer(X, cond), cond, 2, GeneratorSource(0), sampled=True)
    assert [tuple(z.shape) for z in passed.z] == [(2, 3, *shape) for shape in STACKS[stack][1]]
    assert model.latents == sum(z[0, 0].numel() for z in passed.z)
    assert passed.log_weight().shape == (2, 3) and passed.log_weight().isfinite().all()
    latents = model.encode(X, cond, GeneratorSource(1))
    alone = [model.decode(latents[i : i + 1], cond[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(model.decode(latents, cond), torch.cat(alone))
    assert model.generate(4, cond[:1].expand(4, -1), GeneratorSource(0), 1.0).shape == (4, *SHAPE)


@every_stack
def test_gradient_reaches_every_matrix_of_every_block(stack, inference):
    model = made(stack, inference, COND)
    passed = model.weigh(
        X, model.infer(X, torch.ones(3, COND)), torch.ones(3, COND), 1, GeneratorSource(0), sampled=True
    )
    passed.log_weight().sum().backward()
    for part in (model.generator, model.inference):
        assert not [name for name, p in part.named_parameters() if p.grad is None or not p.grad.any()]


@every_stack
def test_networks_are_all_that_has_weights_and_each_has_a_forward(stack, inference):
    model = made(stack, inference)
    for part in (model.generator, model.inference):
        networks = list(part.networks())
        assert {id(p) for network in networks for p in network.parameters()} == {id(p) for p in part.parameters()}
        assert all(type(network).forward is not nn.Module.forward for network in networks)


@pytest.mark.parametrize("stack", STACKS)
@torch.no_grad()
def test_top_down_every_layers_features_see_the_data(stack):
    inference = made(stack, "residual").inference
    begun = inference.begin(X.double(), None)
    assert [tuple(each.shape[2:]) for each in begun] == [shape[1:] for shape in STACKS[stack][1]]
    for features, changed in zip(begun, inference.begin(1.0 - X.double(), None)):
        assert (features - changed).abs().flatten(1).amax(1).min() > 1e-4


def random_gaussian(seed: int) -> DiagonalGaussian:
    generator = torch.Generator().manual_seed(seed)
    return DiagonalGaussian(*torch.randn(2, 5, 4, generator=generator, dtype=torch.float64))


def test_precisions_add_up_to_the_product_of_two_gaussians():
    """log q(z) - log said(z) - log p(z) is the same at every z."""
    said, p = random_gaussian(0), random_gaussian(1)
    q = PrecisionWeighted()(said, p)
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None, None]
    apart = sum(
        sign * Normal(each.mean, each.log_std.exp()).log_prob(z) for sign, each in ((1, q), (-1, said), (-1, p))
    )
    assert (apart - apart[:1]).abs().max() < 1e-10
    assert (q.log_std < torch.minimum(said.log_std, p.log_std)).all()


def test_where_the_features_say_nothing_q_is_p():
    p, zeros = random_gaussian(1), torch.zeros(5, 4, dtype=torch.float64)
    q = Residual()(DiagonalGaussian(zeros, zeros), p)
    assert q.kl_to(p).abs().max() < 1e-12
    vague = PrecisionWeighted()(DiagonalGaussian(zeros, zeros + 7.0), p)  # the widest that a network can say
    assert vague.kl_to(p).max() < 1e-3


def test_a_residual_posterior_is_told_in_units_of_p():
    p, said = random_gaussian(1), random_gaussian(2)
    q = Residual()(said, p)
    torch.testing.assert_close(q.mean - p.mean, said.mean)
    torch.testing.assert_close(q.log_std.exp() / p.log_std.exp(), said.log_std.exp())


@pytest.mark.parametrize("inference", ["residual", "precision-weighted"])
@torch.no_grad()
def test_at_the_top_the_features_have_all_the_say(inference):
    model = made("mlp", inference)
    features = model.inference.begin(model.observation.encode(X).double(), None)
    ps = [model.generator.top(features[-1]), random_gaussian(3)]
    one, other = (model.inference.posterior(3, features[-1], None, p, None) for p in ps)
    torch.testing.assert_close(one.mean, other.mean)


def test_a_block_is_a_plain_mlp_of_one_width():
    torch.manual_seed(0)
    block = MLPBlock((3,), (2, 2), 4, 7, depth=3, activation=nn.ReLU, norm=True)
    plain = PlainMLP((3,), (2, 2), 4, widths=[7, 7, 7], activation=nn.ReLU, norm=True)
    plain.load_state_dict(block.state_dict())
    x, cond = torch.randn(5, 3), torch.randn(5, 4)
    assert torch.equal(block(x, cond), plain(x, cond))
    for wrong in ({"width": 0}, {"depth": -1}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} of MLPBlock"):
            MLPBlock((3,), (2,), **wrong)
