"""Bounds against what is known exactly: quadrature over one latent, enumeration of pixels, probabilistic PCA."""

import itertools
import math

import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.networks import PlainMLP
from lightning_gen.random_source import GeneratorSource, IndexedSource
from lightning_gen.vae import (
    Bernoulli,
    Diagonal,
    ElboEstimator,
    FullCovariance,
    GaussianMixture,
    ImportanceWeightedBound,
    Refined,
    SingleLayer,
    StandardNormal,
)

PIXELS = 4


def model_of_bits(prior=None, seed=0) -> SingleLayer:
    """A one-dimensional latent and four pixels, neither trained nor trivial; float64."""
    torch.manual_seed(seed)
    observation, prior = Bernoulli(), prior or StandardNormal()
    observation.bind((PIXELS,), 2)
    prior.bind(1, (PIXELS,))
    encoder, decoder = PlainMLP((PIXELS,), (2,), widths=[8]), PlainMLP((1,), (PIXELS,), widths=[8])
    with torch.no_grad():
        for p in decoder.parameters():
            p.mul_(4)
    return SingleLayer(encoder.double(), decoder.double(), Diagonal(), prior.double(), observation, 1)


@torch.no_grad()
def exact(model: SingleLayer, x: torch.Tensor, ends: float = 12.0) -> torch.Tensor:
    """log p(x) by the trapezoidal rule, which for an analytic integrand that vanishes at both ends is exact to rounding."""
    z = torch.linspace(-ends, ends, 4001, dtype=torch.float64)
    prior = model.prior.at(None).log_prob(z[:, None, None])[:, 0]
    each = [model.observation.log_prob(model.decode(z[:, None], None), row.expand(len(z), -1)) for row in x]
    return torch.stack([torch.logsumexp(prior + p, 0) for p in each]) + math.log(2 * ends / 4000)


ALL = torch.tensor(list(itertools.product((0, 1), repeat=PIXELS)), dtype=torch.uint8)
MIXTURE = pytest.param(lambda: GaussianMixture(3), id="mixture")
PRIORS = pytest.mark.parametrize("prior", [pytest.param(StandardNormal, id="normal"), MIXTURE])


@torch.no_grad()
def mean_of(estimator, model: SingleLayer, x: torch.Tensor, draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of so many independent estimates for each example, and its standard error."""
    found = estimator(model, x.repeat(draws, 1), None, 1, GeneratorSource(0)).log_prob.view(draws, len(x))
    return found.mean(0), found.std(0) / draws**0.5


@PRIORS
def test_quadrature_bounds_the_bounds(prior):
    """ELBO <= IWAE-5 <= IWAE-50 <= log p, in expectation; the probabilities of all 16 images sum to 1."""
    model = model_of_bits(prior())
    truth = exact(model, ALL)
    assert abs(float(truth.exp().sum()) - 1) < 1e-9
    elbo, few, many = (
        mean_of(estimator, model, ALL, draws)
        for estimator, draws in (
            (ElboEstimator(), 20_000), (ImportanceWeightedBound(5), 4000), (ImportanceWeightedBound(50, 50), 400)
        )
    )  # fmt: skip
    for lower, upper in ((elbo, few), (few, many), (many, (truth, 0.0))):
        assert (lower[0] < upper[0] + 5 * (lower[1] ** 2 + upper[1] ** 2) ** 0.5).all()
    gaps = [float((truth - mean).mean()) for mean, _ in (elbo, few, many)]
    assert gaps[0] > 1.3 * gaps[1] > 2 * gaps[2] > 0


def test_five_thousand_samples_are_the_truth():
    model = model_of_bits()
    found, error = mean_of(ImportanceWeightedBound(5000, at_once=500), model, ALL, 4)
    assert float(error.max()) < 0.05
    torch.testing.assert_close(found, exact(model, ALL), atol=0.1, rtol=0)
    assert abs(float(found.exp().sum()) - 1) < 0.02


@PRIORS
def test_the_sampled_rate_has_the_mean_of_the_closed_form(prior):
    model = model_of_bits(prior())
    (closed, error), (sampled, other) = (mean_of(ElboEstimator(s), model, ALL[:6], 20_000) for s in (False, True))
    assert ((closed - sampled).abs() < 5 * (error**2 + other**2) ** 0.5).all()
    assert other.mean() > 1.5 * error.mean() or isinstance(model.prior, GaussianMixture)


@torch.no_grad()
def test_terms_and_draws():
    """Terms are those of the bound; draw k is the same whatever the number of draws and the batch."""
    model, rng = model_of_bits(), IndexedSource(2, range(len(ALL)))
    two = ElboEstimator()(model, ALL, None, 2, rng)
    assert list(two.terms) == ["reconstruction", "kl"] and two.num_dims == PIXELS
    part = ElboEstimator()(model, ALL[10:], None, 2, IndexedSource(2, range(10, len(ALL))))
    torch.testing.assert_close(part.log_prob, two.log_prob[10:])
    one = ElboEstimator()(model, ALL, None, 1, rng)
    assert not torch.equal(one.log_prob, two.log_prob)
    weighted = [ImportanceWeightedBound(6, at_once=n)(model, ALL, None, 1, rng).log_prob for n in (1, 4, 6)]
    torch.testing.assert_close(weighted[0], weighted[1])
    torch.testing.assert_close(weighted[0], weighted[2])


@torch.no_grad()
def test_with_the_exact_posterior_every_sample_weighs_the_evidence(probabilistic_pca):
    """log p(x, z) - log q(z | x) = log p(x), whatever z: nothing is left to chance."""
    model, evidence = probabilistic_pca(FullCovariance())
    x = evidence.sample((20,))
    sampled = ElboEstimator(sampled=True)(model, x, None, 1, GeneratorSource(0))
    torch.testing.assert_close(sampled.log_prob, evidence.log_prob(x), atol=1e-6, rtol=0)
    assert sampled.kind == "density-elbo"
    iwae = ImportanceWeightedBound(3)(model, x, None, 1, GeneratorSource(0))
    torch.testing.assert_close(iwae.log_prob, evidence.log_prob(x), atol=1e-6, rtol=0)
    assert iwae.kind == "density-iwae-3"


def test_refinement_closes_the_amortization_gap(probabilistic_pca):
    """From an encoder that knows little to the best posterior of its form: the diagonal one's gap is known too."""
    model, evidence = probabilistic_pca(Diagonal())
    x = evidence.sample((16,))
    best, _ = mean_of(ElboEstimator(), model, x, 20_000)
    exact_encoder = model.encoder

    class Poor(nn.Module):
        def forward(self, x, cond=None):
            return exact_encoder(x) + torch.tensor([0.7, -0.5, 0.4, 0.8]).double()

    model.encoder = Poor()
    how, rng = Refined(steps=200, samples=4), IndexedSource(3, range(16))
    amortized = model.infer(x, None)
    refined = how.refine(model, x, amortized, None, rng)
    half = how.refine(model, x[8:], model.infer(x[8:], None), None, IndexedSource(3, range(8, 16)))
    for alone, together in zip(half.parameters(), refined.parameters()):
        torch.testing.assert_close(alone, together[8:], atol=1e-9, rtol=0)
    poor, _ = mean_of(ElboEstimator(), model, x, 5000)
    assert (best - poor > 0.3).all()
    model.infer = lambda x, cond: refined.with_parameters(*(p.repeat(len(x) // 16, 1) for p in refined.parameters()))
    found, error = mean_of(ElboEstimator(), model, x, 5000)
    assert ((best - found) < 0.05 + 5 * error).all()
    assert (found < evidence.log_prob(x) + 5 * error).all()


def test_estimators_refuse_what_means_nothing():
    model = model_of_bits()
    for wrong in (lambda: Refined(steps=0), lambda: ImportanceWeightedBound(0), lambda: Refined(learning_rate=0.0)):
        with pytest.raises(UserError):
            wrong()
    with pytest.raises(UserError, match="at least one draw"):
        ElboEstimator()(model, ALL, None, 0, GeneratorSource(0))
    with pytest.raises(UserError, match="one layer"):
        Refined().check(2)


@pytest.mark.parametrize("form", [Diagonal(), FullCovariance()], ids=["diagonal", "full"])
@pytest.mark.parametrize("scope", [torch.no_grad, torch.inference_mode])
def test_a_refined_posterior_bounds_the_evidence(probabilistic_pca, form, scope):
    """Whatever its form and wherever it is asked for; and of its own form a full one comes to the evidence itself."""
    model, evidence = probabilistic_pca(form)
    x = evidence.sample((8,))
    exact_encoder = model.encoder
    shift = torch.linspace(-0.4, 0.4, form.features(2)).double()
    model.encoder = lambda x, cond=None: exact_encoder(x) + shift
    model.encoder.parameters = exact_encoder.parameters
    with scope():
        amortized = model.infer(x, None)
        refined = Refined(steps=200, learning_rate=0.03, samples=4).refine(
            model, x, amortized, None, GeneratorSource(0)
        )
        model.infer = lambda x, cond: refined.with_parameters(*(p.repeat(len(x) // 8, 1) for p in refined.parameters()))
        found, error = mean_of(ElboEstimator(), model, x, 4000)
    gap = evidence.log_prob(x) - found
    assert (gap > -5 * error).all() and float(gap.mean()) < 0.1


def test_a_refined_bound_is_of_the_kind_of_its_estimator(probabilistic_pca):
    model, evidence = probabilistic_pca(Diagonal())
    x, rng = evidence.sample((4,)), IndexedSource(0, range(4))
    with torch.no_grad():  # as a module asks for it
        found = Refined(ImportanceWeightedBound(3), steps=2)(model, x, None, 2, rng)
    assert found.kind == "density-iwae-3" and not found.log_prob.requires_grad
