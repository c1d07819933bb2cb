"""Laws of the closed forms: Tweedie, brute force, whatever the chunks; least squares, and PCA as the noise vanishes."""

import pytest
import torch
from torch.distributions import MixtureSameFamily, MultivariateNormal

from lightning_gen import closed_forms
from lightning_gen.closed_forms import GaussianPosterior, TrainingSetPosterior


def draws(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def brute_force(examples, x, alpha, sigma):
    """(E[x0 | x], mean variance) by Bayes' rule, every density written out."""
    log_p = torch.stack([torch.distributions.Normal(alpha * e, sigma).log_prob(x).sum(1) for e in examples], 1)
    p = (log_p - log_p.max(1, keepdim=True).values).exp()
    p = p / p.sum(1, keepdim=True)
    mean = p @ examples
    return mean, ((p[..., None] * (examples[None] - mean[:, None]) ** 2).sum(1)).mean(1)


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.3), (0.6, 0.8), (1.0, 20.0)])
def test_the_posterior_of_a_training_set_is_bayes_rule(alpha, sigma):
    examples, x = draws(40, 5), draws(11, 5, seed=1)
    found = TrainingSetPosterior(examples)(x, alpha, sigma)
    mean, variance = brute_force(examples, x, alpha, sigma)
    torch.testing.assert_close(found.x0, mean)
    torch.testing.assert_close(found.variance, variance)
    torch.testing.assert_close(alpha * found.x0 + sigma * found.eps, x)


def test_it_is_x_plus_sigma_squared_times_the_score():
    """D(x) = x + sigma^2 grad log p exactly, p the mixture of a Gaussian about each example."""
    examples, sigma = draws(30, 4), 0.4
    around = MultivariateNormal(examples, sigma**2 * torch.eye(4, dtype=torch.float64))
    p = MixtureSameFamily(torch.distributions.Categorical(torch.ones(30, dtype=torch.float64)), around)
    x = draws(50, 4, seed=2).requires_grad_()
    (score,) = torch.autograd.grad(p.log_prob(x).sum(), x)
    torch.testing.assert_close(TrainingSetPosterior(examples)(x.detach(), 1.0, sigma).x0, x.detach() + sigma**2 * score)


def test_queries_are_as_exact_as_they_are_given_whatever_the_examples_are():
    """Of float32 examples of many dimensions, whose squares differ by little: what is left of them is over sigma^2."""
    examples = (draws(5, 1000).float() * 0.01 + 1.0).contiguous()
    x, sigma = examples.double().mean(0) + 0.001 * draws(3, 1000, seed=1), 0.02
    found = TrainingSetPosterior(examples)(x, 1.0, sigma)
    mean, _ = brute_force(examples.double(), x, 1.0, sigma)
    torch.testing.assert_close(found.x0, mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("labelled", [False, True])
def test_chunks_of_examples_and_of_queries_change_nothing(monkeypatch, labelled):
    """Nor their gradients; each query has its own scales, and the classes come one after the other."""
    examples, x = draws(100, 3), draws(23, 3, seed=3)
    labels, y = (torch.arange(100) // 34, torch.arange(23) % 3) if labelled else (None, None)
    alpha, sigma = torch.linspace(0.5, 1, 23), torch.logspace(-2, 1, 23)

    def found(elements):
        at = x.clone().requires_grad_()
        answer = TrainingSetPosterior(examples, labels, elements=elements)(at, alpha, sigma, y)
        (gradient,) = torch.autograd.grad(answer.x0.sin().sum(), at)
        return *answer, gradient

    whole = found(1 << 20)
    monkeypatch.setattr(closed_forms, "QUERIES", 5)
    for elements in (1, 20, 130):
        for part, expected in zip(found(elements), whole):
            torch.testing.assert_close(part, expected)


def test_a_label_restricts_the_mean_to_its_class():
    examples, labels = draws(30, 3), torch.arange(30) % 3
    x, y = draws(8, 3, seed=4), torch.arange(8) % 3
    found = TrainingSetPosterior(examples, labels, elements=12)(x, 1.0, 0.5, y).x0
    for k in range(3):
        alone = TrainingSetPosterior(examples[labels == k])(x[y == k], 1.0, 0.5).x0
        torch.testing.assert_close(found[y == k], alone)
    assert TrainingSetPosterior(examples, labels)(x, 1.0, 0.5, torch.full_like(y, 7)).x0.isnan().all()


def test_examples_stay_bytes_until_they_are_met():
    bytes_ = torch.randint(256, (64, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    met = []

    def encode(part):
        met.append(len(part))
        return part.float() / 127.5 - 1

    x = draws(6, 16, seed=5).float()
    expected = TrainingSetPosterior(bytes_.float() / 127.5 - 1)(x, 1.0, 0.7).x0
    posterior = TrainingSetPosterior(bytes_, encode=encode, elements=10 * 16)
    torch.testing.assert_close(posterior(x, 1.0, 0.7).x0, expected)
    assert max(met) == 10 and sum(met) == 2 * 64


def test_small_noise_gives_the_nearest_example_and_large_noise_the_mean():
    examples = draws(50, 6)
    x = examples + 1e-3 * draws(50, 6, seed=6)
    posterior = TrainingSetPosterior(examples.float())
    torch.testing.assert_close(posterior(x.float(), 1.0, 1e-2).x0, examples.float())
    torch.testing.assert_close(posterior(x.float(), 1.0, 1e3).x0[0], examples.float().mean(0), atol=1e-4, rtol=0)


def test_the_linear_form_is_the_least_squares_solution():
    """Of regressing clean on noisy data, all noise integrated out: the normal equations hold."""
    x0, sigma = draws(200, 5) @ draws(5, 5, seed=1) + 3.0, 0.7
    posterior = GaussianPosterior.fit(x0)
    centred = x0 - x0.mean(0)
    # noise integrated out is sigma sqrt(N) times an identity below the data, whose targets are 0
    noisy = torch.cat([centred, sigma * len(x0) ** 0.5 * torch.eye(5, dtype=torch.float64)])
    weights = torch.linalg.lstsq(noisy, torch.cat([centred, torch.zeros(5, 5, dtype=torch.float64)])).solution
    x = draws(9, 5, seed=2)
    torch.testing.assert_close(posterior(x, 1.0, sigma).x0, x0.mean(0) + (x - x0.mean(0)) @ weights)


def test_a_cut_is_the_best_of_its_rank():
    """Reduced-rank regression, solved another way: the SVD of the fit in the metric of the noisy data."""
    x0, sigma, rank = draws(200, 5) @ draws(5, 5, seed=1), 0.7, 2
    cov = torch.cov(x0.T, correction=0)
    noisy = cov + sigma**2 * torch.eye(5, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(noisy)
    root = vectors @ values.sqrt().diag() @ vectors.T
    u, s, vh = torch.linalg.svd(cov @ torch.linalg.inv(noisy) @ root)
    best = u[:, :rank] @ s[:rank].diag() @ vh[:rank] @ torch.linalg.inv(root)
    x = draws(9, 5, seed=2)
    found = GaussianPosterior.fit(x0).truncated(rank)(x, 1.0, sigma).x0
    torch.testing.assert_close(found, x0.mean(0) + (x - x0.mean(0)) @ best.T)


def test_without_noise_a_cut_is_the_projector_of_pca():
    x0 = draws(60, 6) @ draws(6, 6, seed=1) + 2.0
    _, _, vh = torch.linalg.svd(x0 - x0.mean(0))
    x = draws(9, 6, seed=2)
    found = GaussianPosterior.fit(x0).truncated(2)(x, 1.0, 1e-7).x0
    torch.testing.assert_close(found, x0.mean(0) + (x - x0.mean(0)) @ vh[:2].T @ vh[:2])


def test_moments_are_summed_over_chunks(monkeypatch):
    x0 = draws(101, 2, 3)
    whole = GaussianPosterior.fit(x0)
    monkeypatch.setattr(closed_forms, "ELEMENTS", 60)
    cut = GaussianPosterior.fit(x0)
    torch.testing.assert_close(cut.mean, x0.flatten(1).mean(0))
    for posterior in (whole, cut):
        cov = posterior.vectors @ posterior.values.diag() @ posterior.vectors.T
        torch.testing.assert_close(cov, torch.cov(x0.flatten(1).T, correction=0))
