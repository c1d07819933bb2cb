"""The flow as a GenerativeModule: its contract, its powers, and that what it reports does not depend on how it is trained."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from lightning_gen.errors import NonFiniteSamples, UserError
from lightning_gen.flow import (
    Chain,
    ChangeOfVariables,
    Glow,
    ImportanceWeightedBound,
    LatentSampler,
    RationalQuadraticSpline,
    StandardLogistic,
    Steps,
    VariationalDequantization,
)
from lightning_gen.networks import ClassEmbedding, PlainMLP
from lightning_gen.networks.plain_conv import ConvNet
from lightning_gen.random_source import GeneratorSource, IndexedSource, LossDraws

SHAPE, LEVELS, CLASSES = (1, 8, 8), 17, 3
NAMES = ["Glow", "RealNVP", "NICE"]
CONV = partial(ConvNet, widths=(8,), activation=nn.Tanh)
MLP = partial(PlainMLP, widths=[16])
X = torch.randint(LEVELS, (12, *SHAPE), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
POINTS = torch.randn(12, 2, generator=torch.Generator().manual_seed(6))


@pytest.fixture
def of_points(made):
    return partial(made, flow=partial(Steps, network=MLP, steps=3), shape=(2,), levels=None, num_classes=None)


def rows(num=12, start=0, seed=0):
    return IndexedSource(seed, range(start, start + num))


# ---- likelihoods ------------------------------------------------------------------------------------------------------


def test_kinds_and_terms(made, of_points):
    plain = made().log_likelihood(X)
    assert (plain.kind, list(plain.terms), plain.num_dims) == ("dequantized", ["dequantization", "log_det", "base"], 64)
    variational = made(logit=0.05, dequantization=VariationalDequantization(CONV)).log_likelihood(X)
    assert (variational.kind, list(variational.terms)) == ("elbo", ["dequantization", "logit", "log_det", "base"])
    weighted = made().log_likelihood(X, estimator=ImportanceWeightedBound(5))
    assert weighted.kind == "iwae-5"
    density = of_points().log_likelihood(POINTS)
    assert (density.kind, list(density.terms), density.num_dims) == ("density", ["log_det", "base"], 2)
    for likelihood in (plain, variational, density):
        torch.testing.assert_close(sum(likelihood.terms.values()), likelihood.log_prob)
        assert likelihood.log_prob.dtype == torch.float64 and not likelihood.log_prob.requires_grad


def test_the_bound_is_the_modules_unless_another_is_given(made):
    module = made(bound=ImportanceWeightedBound(3))
    assert module.log_likelihood(X).kind == "iwae-3"
    assert module.log_likelihood(X, estimator=ChangeOfVariables()).kind == "dequantized"


def test_reports_do_not_depend_on_the_batch(made):
    module = made(dequantization=VariationalDequantization(CONV))
    for estimator in (None, ImportanceWeightedBound(3)):
        whole = module.log_likelihood(X, draws=2, estimator=estimator, rng=rows()).log_prob
        part = module.log_likelihood(X[5:], draws=2, estimator=estimator, rng=rows(7, 5)).log_prob
        torch.testing.assert_close(whole[5:], part, rtol=1e-5, atol=0)
    drawn, part = module.sample(20, rng=rows(20)), module.sample(5, rng=rows(5, 15))
    assert torch.equal(drawn[15:], part)
    torch.testing.assert_close(module.encode(X, rng=rows())[5:], module.encode(X[5:], rng=rows(7, 5)))


def test_nothing_but_training_draws_from_the_global_state(made):
    module = made(conditioner=lambda n: ClassEmbedding(n, 4))
    y = torch.arange(len(X)) % CLASSES
    state = torch.get_rng_state()
    x = module.sample(9)
    first = module.log_likelihood(X, y).log_prob
    module.encode(X, y, rng=rows())
    module.decode(module.encode(X, y), y)
    module.interpolate(X[:2], X[2:4], 3, y[:2])
    module.initialize(X, y)
    assert torch.equal(state, torch.get_rng_state())
    assert x.dtype == torch.uint8 and x.shape == (9, *SHAPE) and x.max() < LEVELS
    again = made(conditioner=lambda n: ClassEmbedding(n, 4))
    assert torch.equal(again.sample(9), x) and torch.equal(again.log_likelihood(X, y).log_prob, first)
    assert not torch.equal(again.sample(9, rng=rows(9, seed=1)), x)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_no_report(made, name):
    """Trained in bfloat16, reported in float32: bit for bit what is reported outside of it."""
    module = made(name, logit=0.05)
    z, likelihood, x = module.encode(X), module.log_likelihood(X), module.sample(9)
    loss = module.training_loss(X)["loss"].mean()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.log_likelihood(X).log_prob, likelihood.log_prob)
        assert torch.equal(module.encode(X), z) and torch.equal(module.sample(9), x)
        assert torch.equal(module.decode(z), X)
        trained = module.training_loss(X)["loss"].mean()
    assert trained.dtype == torch.float32 and trained.item() != loss.item()  # there autocast has its way
    assert float(trained.detach()) == pytest.approx(float(loss.detach()), rel=0.05)


def test_training_descends_on_what_is_reported(made):
    """The loss is minus the log-likelihood of its draws, its parts are minus the terms, its gradient theirs."""
    module = made(logit=0.05, dequantization=VariationalDequantization(CONV))
    with module.drawing(LossDraws(torch.arange(len(X)), len(X), GeneratorSource(0), rows().fork("draw", 0))):
        parts = module.training_loss(X)
    likelihood = module.log_likelihood(X, rng=rows())
    torch.testing.assert_close(parts["loss"].double(), -likelihood.log_prob, rtol=1e-5, atol=0)
    assert list(parts)[1:] == list(likelihood.terms)
    for name, term in likelihood.terms.items():
        torch.testing.assert_close(parts[name].double(), -term, rtol=1e-4, atol=1e-4)
    parts["loss"].mean().backward()
    assert all(p.grad is not None for p in module.parameters())
    log_prob = sum(term.double() for term in module.model.terms(X, None, rows().fork("draw", 0)).values())
    expected = torch.autograd.grad(-log_prob.mean(), list(module.parameters()))
    for parameter, gradient in zip(module.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_checkpointed_gradients_are_the_gradients(made, name):
    plain, saving = made(name), made(name, checkpoint_gradients=True)
    assert any(chain.checkpointed for chain in saving.modules() if isinstance(chain, Chain))
    for module in (plain, saving):
        torch.manual_seed(1)
        module.training_loss(X)["loss"].mean().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_a_compiled_flow_is_the_flow(made):
    """By the backend that traces and does not generate code: the layers are watched all the same."""
    module = made(partial(Glow, network=CONV, levels=2, steps=1))

    def loss():
        own = IndexedSource(0, range(len(X)))
        with module.drawing(LossDraws(torch.arange(len(X)), len(X), own, own)):
            return module.training_loss(X)["loss"].mean().detach()

    expected = loss()
    for network in module.networks():
        network.compile(backend="eager")
    torch.testing.assert_close(loss(), expected, rtol=1e-5, atol=1e-5)
    nn.init.constant_(module.flow.layers[2].network.output.bias, math.nan)
    with pytest.raises(UserError, match=r"flow.layers.2 \(Split\)"):
        module.log_likelihood(X)


def test_weights_in_bfloat16_are_computed_with_in_float32(made):
    """The map stays the inverse of its inverse: a given half that is a rounding off is no other number."""
    module = made(logit=0.05, scale=0.2).bfloat16()
    assert torch.equal(module.decode(module.encode(X)), X)
    exact = copy.deepcopy(module).float()
    torch.testing.assert_close(module.log_likelihood(X).log_prob, exact.log_likelihood(X).log_prob)


def test_a_flow_that_has_diverged_gives_no_black_pictures(made):
    module = made()
    nn.init.constant_(module.flow.layers[2].network.output.bias, math.nan)
    with pytest.raises(NonFiniteSamples):
        module.sample(2)


# ---- latents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_decode_undoes_encode(made, name, autocast):
    module = made(name, logit=0.05)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        z = module.encode(X)
        assert z.shape == (12, 64) == (12, module.latents) and z.dtype == torch.float32
        assert torch.equal(module.decode(z), X) and torch.equal(module.reconstruct(X), X)
        drawn = [module.encode(X, rng=rows(seed=s)) for s in (0, 0, 1)]
        assert torch.equal(module.decode(drawn[0]), X)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], z)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("transform", [None, RationalQuadraticSpline()], ids=["affine", "spline"])
def test_real_vectors_come_back(of_points, transform, autocast):
    module = of_points(flow=partial(Steps, network=MLP, steps=4, transform=transform))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        torch.testing.assert_close(module.reconstruct(POINTS), POINTS, atol=1e-4, rtol=0)


def test_an_interpolation_begins_and_ends_at_the_images(made):
    module = made(logit=0.05)
    between = module.interpolate(X[:4], X[4:8], 5)
    assert between.shape == (4, 5, *SHAPE) and between.is_floating_point()
    torch.testing.assert_close(between[:, 0], X[:4].float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(between[:, -1], X[4:8].float(), atol=1e-3, rtol=0)
    z = module.encode(X[:8])
    assert not torch.isclose(between[:, 2], (between[:, 0] + between[:, -1]) / 2, atol=1e-3).all()
    assert module.expected(z).min() >= 0 and module.expected(50 * z).max() <= LEVELS - 1


def test_temperature(of_points, made):
    """0 gives the flow's centre for all; of Glow each level's latents shrink alike."""
    module = made(logit=0.05)
    centre = module.sample(5, sampler=LatentSampler(0.0))
    assert torch.equal(centre, module.decode(torch.zeros(5, 64))) and (centre == centre[0]).all()
    points = of_points(base=StandardLogistic())
    cold, warm = (points.encode(points.sample(50, sampler=LatentSampler(t), rng=rows(50))) for t in (0.5, 1.0))
    torch.testing.assert_close(cold, 0.5 * warm, atol=1e-4, rtol=0)
    assert torch.equal(points.sample(50, rng=rows(50)), points.sample(50, sampler=LatentSampler(1.0), rng=rows(50)))
    torch.testing.assert_close(
        of_points(sampler=LatentSampler(0.0)).sample(3), points.sample(3, sampler=LatentSampler(0.0))
    )


# ---- refusals ---------------------------------------------------------------------------------------------------------


def test_what_has_no_meaning_is_refused(made, of_points):
    with pytest.raises(UserError, match="leave out dequantization and logit"):
        of_points(logit=0.05)
    with pytest.raises(UserError, match="leave out dequantization and logit"):
        of_points(dequantization=VariationalDequantization(MLP))
    with pytest.raises(UserError, match="choose ChangeOfVariables"):
        of_points(bound=ImportanceWeightedBound(5))
    with pytest.raises(UserError, match="choose ChangeOfVariables"):
        of_points().log_likelihood(POINTS, estimator=ImportanceWeightedBound(5))
    with pytest.raises(UserError, match=r"alpha of Logit lies in \[0, 0.5\), not at 0.5"):
        made(logit=0.5)
    for unfit in (made().log_likelihood, made().encode):
        with pytest.raises(UserError, match="shape"):
            unfit(X[:, :, :2])
        with pytest.raises(UserError, match="from 0 to 16"):
            unfit(X + 1)
    with pytest.raises(UserError, match="leave out compile or checkpoint_gradients"):
        made(compile=True, checkpoint_gradients=True)
    with pytest.raises(UserError, match="choose fewer levels"):
        made(partial(Glow, network=CONV, levels=5))
