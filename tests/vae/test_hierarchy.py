"""Laws of hierarchies, on a chain of Gaussians in which everything is known: log p(x), and both factorings of the posterior.

z_3 -> z_2 -> z_1 -> x, each linear in what is above it. Layers have two dimensions that never meet, so that all posteriors
are diagonal.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn.functional import pad

from lightning_gen.random_source import GeneratorSource, IndexedSource
from lightning_gen.vae import (
    ELBO,
    BottomUp,
    DiagonalGaussian,
    ElboEstimator,
    FixedGaussian,
    Generator,
    Hierarchy,
    ImportanceWeightedBound,
    TopDown,
)

GAINS = torch.tensor([[0.9, -1.3], [1.4, 0.6]], dtype=torch.float64)  # of z_1 given z_2, of z_2 given z_3
STDS = torch.tensor([[0.5, 0.8], [0.7, 0.4]], dtype=torch.float64)
SHIFTS = torch.tensor([[0.3, -0.2], [-0.5, 0.1]], dtype=torch.float64)
LOADINGS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.5, 0.0]], dtype=torch.float64)  # of x on z_1; orthogonal columns
NOISE, LAYERS, DIM = 0.6, 3, 2


def joint() -> tuple[Tensor, Tensor]:
    """Mean and covariance of (x, z_1, z_2, z_3)."""
    means, maps = [torch.zeros(DIM, dtype=torch.float64)], [torch.eye(DIM, dtype=torch.float64)]  # from the noise
    for gain, std, shift in zip(GAINS.flip(0), STDS.flip(0), SHIFTS.flip(0)):
        means.insert(0, gain * means[0] + shift)
        maps.insert(0, torch.cat([gain[:, None] * maps[0], std.diag()], 1))
    means.insert(0, LOADINGS @ means[0])
    maps.insert(0, torch.cat([LOADINGS @ maps[0], NOISE * torch.eye(3, dtype=torch.float64)], 1))
    width = maps[0].shape[1]
    whole = torch.cat([pad(m, (0, width - m.shape[1])) for m in maps])
    return torch.cat(means), whole @ whole.T


MEAN, COVARIANCE = joint()
PLACES = [slice(0, 3), slice(3, 5), slice(5, 7), slice(7, 9)]  # of x, z_1, z_2, z_3


def conditional(of: int, *given: int) -> tuple[Tensor, Tensor, Tensor]:
    """(matrix, offset, std) of p(of | given), which is N(matrix @ given + offset, diag(std^2))."""
    rows = torch.arange(len(MEAN))
    a, b = rows[PLACES[of]], torch.cat([rows[PLACES[i]] for i in given])
    matrix = COVARIANCE[a][:, b] @ COVARIANCE[b][:, b].inverse()
    covariance = COVARIANCE[a][:, a] - matrix @ COVARIANCE[b][:, a]
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-12
    return matrix, MEAN[a] - matrix @ MEAN[b], covariance.diag().sqrt()


def gaussian(given: Tensor, matrix: Tensor, offset: Tensor, std: Tensor) -> DiagonalGaussian:
    mean = given.double() @ matrix.T + offset
    return DiagonalGaussian(mean, std.log().expand_as(mean))


class Chain(Generator):
    """The way down. A condition shifts z_1."""

    shapes = [(DIM,)] * LAYERS

    def conditional(self, layer: int, above: Tensor, cond: Tensor | None) -> DiagonalGaussian:
        mean = GAINS[layer - 1] * above + SHIFTS[layer - 1]
        if layer == 1 and cond is not None:
            mean = mean + cond
        return DiagonalGaussian(mean, STDS[layer - 1].log().expand_as(mean))

    def observe(self, z: Tensor, cond: Tensor | None) -> Tensor:
        return z.double() @ LOADINGS.T


class Up(BottomUp):
    """q(z_1 | x) q(z_2 | z_1) q(z_3 | z_2): the posterior itself, or one whose means and deviations are scaled."""

    def __init__(self, means: float = 1.0, stds: float = 1.0) -> None:
        super().__init__()
        self.parts = [conditional(layer, layer - 1) for layer in range(1, LAYERS + 1)]
        self.parts = [(means * matrix, offset, stds * std) for matrix, offset, std in self.parts]

    def posterior(self, layer: int, below: Tensor, cond: Tensor | None) -> DiagonalGaussian:
        return gaussian(below, *self.parts[layer - 1])


class Down(TopDown):
    """q(z_3 | x) q(z_2 | z_3, x) q(z_1 | z_2, x): likewise."""

    def __init__(self, means: float = 1.0, stds: float = 1.0) -> None:
        super().__init__()
        self.parts = [conditional(1, 0, 2), conditional(2, 0, 3), conditional(3, 0)]
        self.parts = [(means * matrix, offset, stds * std) for matrix, offset, std in self.parts]

    def begin(self, x: Tensor, cond: Tensor | None) -> list[Tensor]:
        return [x] * LAYERS

    def posterior(
        self, layer: int, features: Tensor, above: Tensor | None, p: DiagonalGaussian, cond: Tensor | None
    ) -> DiagonalGaussian:
        given = features.double() if above is None else torch.cat([features.double(), above], 1)
        return gaussian(given, *self.parts[layer - 1])


def hierarchy(inference) -> Hierarchy:
    observation = FixedGaussian(NOISE)
    observation.bind((3,), None)
    return Hierarchy(Chain(), inference, observation)


def data(num: int, seed: int = 0) -> Tensor:
    """Samples of p(x)."""
    x = MEAN[:3] + torch.randn(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ (
        torch.linalg.cholesky(COVARIANCE[:3, :3]).T
    )
    return x.float()


def log_p(x: Tensor) -> Tensor:
    return MultivariateNormal(MEAN[:3], COVARIANCE[:3, :3]).log_prob(x.double())


@torch.no_grad()
def mean_of(estimator, model: Hierarchy, x: Tensor, draws: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mean over independent estimates for each example, and its standard error."""
    found = estimator(model, x.repeat(draws, 1), None, 1, GeneratorSource(seed)).log_prob.view(draws, len(x))
    return found.mean(0), found.std(0) / draws**0.5


def agree(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], sigmas: float = 5.0) -> bool:
    return bool(((a[0] - b[0]).abs() < sigmas * (a[1] ** 2 + b[1] ** 2) ** 0.5).all())


WAYS = pytest.mark.parametrize("way", [Up, Down])
X = data(4)


@WAYS
@torch.no_grad()
def test_with_the_exact_posterior_every_sample_weighs_log_p(way):
    model = hierarchy(way())
    passed = model.weigh(X, model.infer(X, None), None, 50, GeneratorSource(1), sampled=True)
    torch.testing.assert_close(passed.log_weight(), log_p(X).expand(50, -1), atol=1e-6, rtol=0)


@WAYS
def test_elbo_iwae_and_log_p_are_in_order(way):
    """And so far apart on average that the order is no accident."""
    model, truth = hierarchy(way(means=0.8, stds=1.3)), log_p(X)
    bounds = [
        mean_of(estimator, model, X, draws)
        for estimator, draws in (
            (ElboEstimator(), 5000),
            (ImportanceWeightedBound(5), 2000),
            (ImportanceWeightedBound(100, 100), 200),
        )
    ]
    for lower, upper in zip(bounds, [*bounds[1:], (truth, torch.zeros(()))]):
        assert (lower[0] < upper[0] + 5 * (lower[1] ** 2 + upper[1] ** 2) ** 0.5).all()
    gaps = [float((truth - mean).mean()) for mean, _ in bounds]
    assert gaps[0] > 0.3 and gaps[0] > 2 * gaps[1] > 4 * gaps[2]


@WAYS
@torch.no_grad()
def test_terms_sum_and_say_which_layer(way):
    found = ElboEstimator()(hierarchy(way(0.8, 1.3)), X, None, 3, GeneratorSource(0))
    assert list(found.terms) == ["reconstruction", "kl_1", "kl_2", "kl_3"]
    torch.testing.assert_close(sum(found.terms.values()), found.log_prob)
    assert found.kind == "density-elbo"


class Trusting(Up):
    """What a bottom-up posterior must not do."""

    def closed_form(self, layer: int, num_layers: int) -> bool:
        return True


def test_bottom_up_only_the_top_has_a_closed_form():
    """z_t is drawn before the z_{t+1} that p(z_t | z_{t+1}) is conditioned on, and the two depend on each other."""
    assert [Up().closed_form(layer, LAYERS) for layer in (1, 2, 3)] == [False, False, True]
    for scales in ((1.0, 1.0), (0.8, 1.3)):
        some = mean_of(ElboEstimator(), hierarchy(Up(*scales)), X, 5000)
        none = mean_of(ElboEstimator(sampled=True), hierarchy(Up(*scales)), X, 5000, seed=1)
        assert agree(some, none)
    wrong = mean_of(ElboEstimator(), hierarchy(Trusting()), X, 5000)
    assert (log_p(X) - wrong[0] > 0.5).all()  # where the sampled bound is log p itself


def test_top_down_every_layer_has_and_it_lowers_the_variance():
    assert all(Down().closed_form(layer, LAYERS) for layer in (1, 2, 3))
    model = hierarchy(Down(0.8, 1.3))
    closed = mean_of(ElboEstimator(), model, X, 5000)
    sampled = mean_of(ElboEstimator(sampled=True), model, X, 5000, seed=1)
    assert agree(closed, sampled)
    many = X.repeat(4000, 1), None, 1, GeneratorSource(2)
    closed, sampled = (ElboEstimator(sampled=each)(model, *many).terms for each in (False, True))
    for layer in ("kl_1", "kl_2", "kl_3"):
        assert closed[layer].view(-1, 4).var(0).mean() < 0.5 * sampled[layer].view(-1, 4).var(0).mean()


@WAYS
@torch.no_grad()
def test_a_loss_is_made_of_the_layers_of_its_bound(way):
    model = hierarchy(way(0.8, 1.3))
    parts, _ = ELBO()(model, X, None, GeneratorSource(3), None)
    assert set(parts) == {"loss", "distortion", "rate_1", "rate_2", "rate_3"}
    torch.testing.assert_close(parts["loss"], sum(v for k, v in parts.items() if k != "loss"))
    terms = ElboEstimator()(model, X.repeat(5000, 1), None, 1, GeneratorSource(4)).terms
    many, _ = ELBO(samples=5000)(model, X, None, GeneratorSource(5), None)
    for layer in (1, 2, 3):
        assert abs(float(many[f"rate_{layer}"].mean() + terms[f"kl_{layer}"].mean())) < 0.06


@WAYS
@torch.no_grad()
def test_latents_are_the_noise_that_the_way_down_makes_the_same_of(way):
    """decode(encode(x)) is what is observed of the z_1 that was inferred, here of its own samples and of its means."""
    model = hierarchy(way(0.8, 1.3))
    latents = model.encode(X, None, GeneratorSource(6))
    passed = model.weigh(X, model.infer(X, None), None, 1, GeneratorSource(6), sampled=True)
    assert latents.shape == (4, model.latents) == (4, LAYERS * DIM)
    torch.testing.assert_close(model.decode(latents, None), passed.out)
    assert not torch.allclose(model.encode(X, None, None), latents, atol=0.1)


@WAYS
@torch.no_grad()
def test_latents_of_samples_are_standard_normal(way):
    """Of data from the model, by the exact posterior, in all layers."""
    latents = hierarchy(way()).encode(data(40_000, seed=7), None, GeneratorSource(8))
    error = 5 / math.sqrt(len(latents))
    assert latents.mean(0).abs().max() < error
    assert (latents.T @ latents / len(latents) - torch.eye(6, dtype=torch.float64)).abs().max() < 2**0.5 * error


@torch.no_grad()
def test_generation_follows_the_chain_and_its_temperature():
    model = hierarchy(Up())
    x = model.observation.sample(model.generate(40_000, None, GeneratorSource(0), 1.0), GeneratorSource(1)).double()
    spread = COVARIANCE[:3, :3]
    assert ((x.mean(0) - MEAN[:3]).abs() < 5 * (spread.diag() / len(x)).sqrt()).all()
    assert (x.T.cov() - spread).abs().max() < 5 * 2**0.5 * spread.max() / len(x) ** 0.5
    torch.testing.assert_close(model.generate(3, None, GeneratorSource(0), 0.0), MEAN[:3].expand(3, -1))


class Rows(GeneratorSource):
    """Gives out rows of given noise, of one sample or of several after each other."""

    def __init__(self, noise: list[Tensor]) -> None:
        self.left = list(noise)

    def normal(self, shape, dtype=torch.float32) -> Tensor:
        noise = self.left.pop(0)
        assert noise.shape == tuple(shape)
        return noise


@WAYS
@torch.no_grad()
def test_samples_at_once_are_as_samples_one_by_one(way):
    """All examples of the first sample first, conditions too."""
    model, cond = hierarchy(way(0.8, 1.3)), torch.randn(4, 1, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(LAYERS, 5, 4, DIM, generator=torch.Generator().manual_seed(1))
    inferred = model.infer(X, cond)
    whole = model.weigh(X, inferred, cond, 5, Rows([part.flatten(0, 1) for part in noise]), sampled=False)
    for k in range(5):
        one = model.weigh(X, inferred, cond, 1, Rows([part[k] for part in noise]), sampled=False)
        torch.testing.assert_close(whole.reconstruction[k], one.reconstruction[0])
        torch.testing.assert_close(whole.out.view(5, 4, 3)[k], one.out)
        for of_all, of_one in zip((*whole.kl, *whole.z), (*one.kl, *one.z)):
            torch.testing.assert_close(of_all[k], of_one[0])


@torch.no_grad()
def test_what_is_drawn_for_an_index_does_not_depend_on_the_batch():
    model = hierarchy(Down())
    whole = model.generate(100, None, IndexedSource(0, range(100)), 1.0)
    part = model.generate(30, None, IndexedSource(0, range(70, 100)), 1.0)
    torch.testing.assert_close(part, whole[70:])
    x = data(100, seed=2)
    bounds = [
        ImportanceWeightedBound(6, at_once)(model, x[rows], None, 1, IndexedSource(0, rows)).log_prob
        for rows, at_once in ((range(100), 6), (range(70, 100), 4))
    ]
    torch.testing.assert_close(bounds[0][70:], bounds[1])


def test_a_path_of_its_own_is_refused():
    model = hierarchy(Up())
    with pytest.raises(ValueError, match="path"):
        model.weigh(X, model.infer(X, None), None, 2, GeneratorSource(0), sampled=True, path_only=True)
