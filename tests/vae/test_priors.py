"""Priors, against torch.distributions; a mixture has no divergence in closed form."""

import pytest
import torch
from torch import distributions as D

from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource
from lightning_gen.vae.gaussians import Diagonal, DiagonalGaussian
from lightning_gen.vae.priors import GaussianMixture, StandardNormal, VampPrior

SHAPE, DIM = (1, 2, 3), 2
ENCODER = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2 * DIM))


def encode(x):
    return Diagonal()(ENCODER(x))


def bound(prior):
    prior.bind(DIM, SHAPE)
    return prior


def reference(prior) -> D.Distribution:
    """The mixture as torch has it."""
    if isinstance(prior, VampPrior):
        q = encode(prior.inputs)
        weights = torch.ones(prior.components)
    else:
        q = DiagonalGaussian(prior.mean, prior.log_std)
        weights = prior.logits.softmax(0)
    return D.MixtureSameFamily(D.Categorical(weights), D.Independent(D.Normal(q.mean, q.log_std.exp()), 1))


@pytest.mark.parametrize("kind", [GaussianMixture, VampPrior])
@torch.no_grad()
def test_a_mixture_has_the_density_that_torch_gives_it(kind):
    prior = bound(kind(7))
    if kind is GaussianMixture:
        prior.logits.normal_()
    z = GeneratorSource(1).normal((3, 500, DIM))
    torch.testing.assert_close(prior.at(encode).log_prob(z), reference(prior).log_prob(z), atol=1e-4, rtol=1e-4)
    assert prior.at(encode).kl(DiagonalGaussian(z[0], z[0])) is None


@pytest.mark.parametrize("kind", [GaussianMixture, VampPrior])
@torch.no_grad()
def test_samples_follow_the_density(kind):
    """E log p under the samples is minus the entropy, which torch's own samples give too; and no index changes another's."""
    prior = bound(kind(5))
    if kind is GaussianMixture:
        prior.mean.mul_(4)
        prior.logits.copy_(torch.tensor([2.0, 0, 0, -1, 1]))
    z = prior.at(encode).sample(20_000, GeneratorSource(2), 1.0)
    other = reference(prior).sample((20_000,))
    for statistic in (lambda v: v, torch.square, lambda v: reference(prior).log_prob(v)[:, None]):
        a, b = statistic(z), statistic(other)
        error = ((a.var(0) + b.var(0)) / len(z)).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() < 5 * error).all()
    whole = prior.at(encode).sample(100, IndexedSource(0, range(100)), 1.0)
    torch.testing.assert_close(prior.at(encode).sample(30, IndexedSource(0, range(70, 100)), 1.0), whole[70:])


def test_temperature_scales_the_deviations_around_each_component():
    prior = bound(GaussianMixture(2))
    with torch.no_grad():
        prior.mean.copy_(torch.tensor([[-5.0, 0.0], [5.0, 0.0]]))
    cold = prior.at(encode).sample(1000, GeneratorSource(0), 0.0)
    assert set(cold[:, 0].tolist()) == {-5.0, 5.0}
    z = bound(StandardNormal()).sample(1000, GeneratorSource(0), 0.5)
    assert 0.45 < float(z.std()) < 0.55


def test_pseudo_inputs_start_among_the_data():
    prior = bound(VampPrior(30))
    x = torch.randn(20, *SHAPE)
    prior.initialize(x)
    near = torch.cdist(prior.inputs.detach().flatten(1), x.flatten(1)).argmin(1)
    assert near.tolist() == [i % 20 for i in range(30)]
    assert not torch.equal(prior.inputs[0], prior.inputs[20])


def test_gradients_reach_the_encoder_through_pseudo_inputs():
    prior = bound(VampPrior(3))
    prior.at(encode).log_prob(torch.zeros(1, 4, DIM)).sum().backward()
    assert prior.inputs.grad.abs().sum() > 0 and ENCODER[1].weight.grad.abs().sum() > 0
    ENCODER.zero_grad()


def test_a_mixture_of_nothing_is_refused():
    for kind in (GaussianMixture, VampPrior):
        with pytest.raises(UserError, match="at least one component"):
            kind(0)


@torch.no_grad()
@pytest.mark.parametrize("kind", [GaussianMixture, VampPrior])
def test_densities_are_precise_whatever_the_weights_are(kind):
    """In bfloat16 the constants of a density in 50 dimensions are off by tenths of nats."""
    torch.manual_seed(0)
    prior = kind(20)
    prior.bind(50, (4,))
    prior.to(torch.bfloat16)
    exact = kind(20)
    exact.bind(50, (4,))
    exact.load_state_dict(prior.state_dict())
    exact.double()

    def encode(x):
        features = torch.linspace(-1, 1, 400).view(100, 4).to(x.dtype)
        return Diagonal()(
            (x.double() @ features.double().T).to(torch.float32 if x.dtype == torch.bfloat16 else x.dtype)
        )

    z = GeneratorSource(1).normal((2, 30, 50))
    found, true = prior.at(encode).log_prob(z), exact.at(encode).log_prob(z.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), true, atol=2e-2 if kind is VampPrior else 2e-3, rtol=0)
