"""Gaussians of latents, against torch.distributions and against samples."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource
from lightning_gen.vae.gaussians import LOG_STD, Diagonal, DiagonalGaussian, FullCovariance, standard_log_prob

RNG = GeneratorSource(3)
B, D, K = 5, 3, 4


def diagonal(*latent: int) -> DiagonalGaussian:
    return DiagonalGaussian(RNG.normal((B, *latent), torch.float64), 0.3 * RNG.normal((B, *latent), torch.float64))


def made(form, dim: int = D):
    return form(RNG.normal((B, form.features(dim)), torch.float64))


def reference(q) -> MultivariateNormal:
    if isinstance(q, DiagonalGaussian):
        return MultivariateNormal(q.mean.flatten(1), scale_tril=torch.diag_embed(q.log_std.exp().flatten(1)))
    return MultivariateNormal(q.mean, scale_tril=q.scale_tril)


FORMS = pytest.mark.parametrize("form", [Diagonal(), FullCovariance()], ids=["diagonal", "full"])


@FORMS
def test_densities_and_divergences_are_those_of_torch(form):
    q = made(form)
    z = RNG.normal((K, B, D), torch.float64)
    torch.testing.assert_close(q.log_prob(z), reference(q).log_prob(z))
    standard = MultivariateNormal(torch.zeros(D).double(), torch.eye(D).double())
    torch.testing.assert_close(q.kl_to_standard().sum(1), kl_divergence(reference(q), standard))
    torch.testing.assert_close(standard_log_prob(z), standard.log_prob(z))


@FORMS
def test_samples_have_the_mean_and_the_covariance(form):
    q = made(form)
    z = q.sample(RNG.normal((40_000, B, D), torch.float64))
    centred = z - reference(q).mean
    covariance = torch.einsum("kbi,kbj->bij", centred, centred) / len(z)
    assert centred.mean(0).abs().max() < 5 * reference(q).variance.max().sqrt() / 200
    torch.testing.assert_close(covariance, reference(q).covariance_matrix, atol=0.05 * float(covariance.max()), rtol=0)


@FORMS
def test_a_divergence_is_the_mean_of_log_ratios(form):
    q = made(form)
    z = q.sample(RNG.normal((50_000, B, D), torch.float64))
    ratio = q.log_prob(z) - standard_log_prob(z)
    error = ratio.std(0) / len(z) ** 0.5
    assert ((ratio.mean(0) - q.kl_to_standard().sum(1)).abs() < 5 * error).all()


def test_a_divergence_of_maps_splits_into_their_elements():
    q, p = diagonal(2, 4, 4), diagonal(2, 4, 4)
    assert q.kl_to(p).shape == (B, 32) and (q.kl_to(p) >= 0).all()
    torch.testing.assert_close(q.kl_to(p).sum(1), kl_divergence(reference(q), reference(p)))
    zero = DiagonalGaussian(torch.zeros_like(p.mean), torch.zeros_like(p.mean))
    torch.testing.assert_close(q.kl_to(zero), q.kl_to_standard())


@FORMS
def test_gradients_go_through_samples_and_not_through_what_is_detached(form):
    out = RNG.normal((B, form.features(D)), torch.float64).requires_grad_()
    q = form(out)
    (gradient,) = torch.autograd.grad(q.sample(RNG.normal((K, B, D), torch.float64)).square().sum(), out)
    assert (gradient != 0).all()
    assert not q.detach().log_prob(torch.zeros(1, B, D).double()).requires_grad


@FORMS
def test_no_output_of_an_encoder_overflows(form):
    q = form(torch.full((1, form.features(D)), 1e4))
    assert torch.isfinite(q.kl_to_standard()).all() and torch.isfinite(q.log_prob(q.mean[None])).all()


def test_log_deviations_are_bounded_softly():
    q = Diagonal()(torch.tensor([[0.0, 0.1], [0.0, 1e6]]))
    assert abs(float(q.log_std[0]) - 0.1) < 1e-5 and float(q.log_std[1]) == LOG_STD


def test_a_large_covariance_is_refused():
    assert FullCovariance().features(64) == 64 * 67 // 2
    with pytest.raises(UserError, match="max_dim of at least 65"):
        FullCovariance().features(65)


def test_a_full_covariance_is_drawn_from_as_it_is_weighed_under_autocast():
    q = made(FullCovariance(), 16)
    q = q.with_parameters(*(p.float() for p in q.parameters()))
    eps = RNG.normal((1, B, 16))
    with torch.autocast("cpu", torch.bfloat16):
        z = q.sample(eps)
    torch.testing.assert_close(z, q.sample(eps))
