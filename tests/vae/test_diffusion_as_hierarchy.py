"""A diffusion is a hierarchical VAE whose latents have the size of the data and whose inference is not learned.

Layer 1 is the data under the noise of t = 0, layer i + 1 under that of t = i / T. Going up is noising, which nobody has to
train; going down, all layers share one denoiser. The bound of that hierarchy is the T-step bound of `GaussianDiffusion`.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from lightning_gen.diffusion import (
    Cosine,
    DataPrediction,
    FixedLarge,
    FixedSmall,
    FlowMatching,
    GaussianDenoiser,
    Geometric,
    Linear,
    NetworkDenoiser,
    TrainingSetDenoiser,
    VarianceExploding,
    VariancePreserving,
    VariationalBound,
)
from lightning_gen.diffusion.decoders import LevelDecoder, VectorDecoder
from lightning_gen.diffusion.parameterizations import posterior_mean
from lightning_gen.diffusion.reverse_variances import largest, smallest
from lightning_gen.random_source import GeneratorSource, RandomSource
from lightning_gen.vae import (
    BottomUp,
    DiagonalGaussian,
    ElboEstimator,
    Generator,
    Hierarchy,
    Inference,
    Observation,
    TopDown,
)

# ---- a diffusion, written as a hierarchy ------------------------------------------------------------------------------


class Denoising(Generator):
    """p(z_s | z_t) = q(z_s | z_t, x0) at the denoiser's estimate of x0, and the prior p(z_1) at t = 1."""

    def __init__(self, denoiser, levels, variance, shape):
        super().__init__()
        self.denoiser, self.levels, self.variance = denoiser, levels, variance
        self.shapes = [shape] * len(levels)

    def top(self, like: Tensor) -> DiagonalGaussian:
        return normal(torch.zeros_like(like).double(), self.denoiser.path.prior_std(self.levels[-1]).square())

    def conditional(self, layer: int, above: Tensor, cond: Tensor | None) -> DiagonalGaussian:
        pair = self.levels[layer], self.levels[layer - 1]
        estimate = self.denoiser(above, pair[0].logsnr)
        return normal(mean_between(above, estimate.x0, *pair), self.variance(estimate, *pair))

    def observe(self, z: Tensor, cond: Tensor | None) -> Tensor:
        return z


class Noising(BottomUp):
    """q(z_0 | x), then q(z_t | z_s): a little more noise at every layer."""

    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def posterior(self, layer: int, below: Tensor, cond: Tensor | None) -> DiagonalGaussian:
        at = self.levels[layer - 1]
        if layer == 1:
            return normal(at.alpha * below, at.sigma.square())
        to = self.levels[layer - 2]
        return normal(at.alpha / to.alpha * below, largest(at, to))


class Posterior(TopDown):
    """The same distribution, drawn from its other end: q(z_1 | x) at t = 1, then q(z_s | z_t, x)."""

    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def begin(self, x: Tensor, cond: Tensor | None) -> list[Tensor]:
        return [x] * len(self.levels)

    def posterior(
        self, layer: int, features: Tensor, above: Tensor | None, p: DiagonalGaussian, cond: Tensor | None
    ) -> DiagonalGaussian:
        to = self.levels[layer - 1]
        if above is None:
            return normal(to.alpha * features, to.sigma.square())
        at = self.levels[layer]
        return normal(mean_between(above, features, at, to), smallest(at, to))


class Decoded(Observation):
    """p(x | z_0), a diffusion's own, which asks no network."""

    def __init__(self, decoder, level):
        super().__init__()
        self.decoder, self.level, self.integers = decoder, level, decoder.integers

    def check(self, levels: int | None) -> None:
        pass

    def encode(self, x: Tensor) -> Tensor:
        return self.decoder.encode(x).double()

    def terms(self, out: Tensor, x: Tensor) -> Tensor:
        repeated = x.repeat(len(out), *[1] * (x.ndim - 1))
        return self.decoder.log_prob(repeated, out.flatten(0, 1), self.level).view(len(out), len(x), 1)

    def sample(self, out, rng):
        raise NotImplementedError

    mode = mean = initial = sample


def normal(mean: Tensor, variance: Tensor) -> DiagonalGaussian:
    return DiagonalGaussian(mean, 0.5 * variance.log().expand_as(mean))


def mean_between(z: Tensor, x0: Tensor, at, to) -> Tensor:
    """The mean of q(z_to | z_at, x0)."""
    of_z, of_x0 = posterior_mean(at, to)
    return of_z * z + of_x0 * x0


# ---- diffusions -------------------------------------------------------------------------------------------------------

SHAPE, STEPS, LEVELS = (2, 3), 5, 7
PROCESSES = {
    "VP": (VariancePreserving(), Cosine(logsnr_min=-5.0, logsnr_max=4.0)),
    "VE": (VarianceExploding(), Geometric(0.15, 4.0)),
    "linear": (Linear(), FlowMatching(logsnr_min=-4.0, logsnr_max=4.0)),
}
TRAINING = torch.randint(LEVELS, (12, *SHAPE), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
EXAMPLES = LevelDecoder(LEVELS).encode(TRAINING)


def of_a_gaussian(path, schedule):
    return GaussianDenoiser.fit(EXAMPLES, path)


def of_a_training_set(path, schedule):
    return TrainingSetDenoiser(EXAMPLES, path)


class Network(torch.nn.Module):
    """A random function of z_t and log-SNR."""

    def __init__(self):
        super().__init__()
        generator, size = torch.Generator().manual_seed(2), math.prod(SHAPE)
        self.inward = torch.nn.Parameter(torch.randn(size + 1, 16, generator=generator, dtype=torch.float64))
        self.outward = torch.nn.Parameter(torch.randn(16, size, generator=generator, dtype=torch.float64) / 4)

    def forward(self, x, logsnr, cond):
        features = torch.cat([x.flatten(1), logsnr[:, None].to(x.dtype) / 4], 1)
        return ((features @ self.inward).tanh() @ self.outward).view_as(x)


def of_a_network(path, schedule):
    return NetworkDenoiser(Network(), DataPrediction(), schedule, path)


class Case:
    """A diffusion, its T-step bound, and its hierarchies."""

    def __init__(self, process="VP", denoiser=of_a_network, decoder=None, variance=None):
        path, self.schedule = PROCESSES[process]
        self.decoder, self.variance = decoder or LevelDecoder(LEVELS), variance or FixedSmall()
        self.denoiser = denoiser(path, self.schedule)
        times = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
        self.levels = [path.at(self.schedule, t) for t in times]
        self.x = TRAINING[:4] if self.decoder.integers else EXAMPLES[:4] + 0.1
        self.x0 = self.decoder.encode(self.x).double()

    def hierarchy(self, inference: type[Inference]) -> Hierarchy:
        generator = Denoising(self.denoiser, self.levels, self.variance, SHAPE)
        return Hierarchy(generator, inference(self.levels), Decoded(self.decoder, self.levels[0]))

    @torch.no_grad()
    def passed(self, inference: type[Inference], num: int, *, sampled: bool = False, seed: int = 0):
        model = self.hierarchy(inference)
        return model.weigh(self.x, model.infer(self.x, None), None, num, GeneratorSource(seed), sampled=sampled)

    @torch.no_grad()
    def bound(self, x: Tensor, rng: RandomSource):
        """With as many draws as steps, each step is met once."""
        estimator = VariationalBound(steps=STEPS, variance=self.variance)
        return estimator(self.denoiser, self.schedule, self.decoder, x, None, STEPS, rng)


class Replay(RandomSource):
    """The noise by which x0 became the z of every layer, as the bound asks for it: z_0's, then a fork for each step."""

    def __init__(self, x0: Tensor, z: list[Tensor], levels) -> None:
        self.noise = [(each - level.alpha * x0) / level.sigma for each, level in zip(z, levels)]

    def normal(self, shape, dtype=torch.float32) -> Tensor:
        return self.noise[0]

    def uniform(self, shape, dtype=torch.float32) -> Tensor:
        return torch.full(shape, 0.5, dtype=dtype)

    def integers(self, high, shape):
        raise NotImplementedError

    def fork(self, *keys) -> RandomSource:
        fork = object.__new__(Replay)
        fork.noise = [self.noise[keys[1] + 1]]
        return fork


CASES = [
    pytest.param(Case(process, denoiser), id=f"{process}-{denoiser.__name__}")
    for process, denoiser in itertools.product(PROCESSES, (of_a_gaussian, of_a_training_set, of_a_network))
] + [
    pytest.param(Case(decoder=VectorDecoder()), id="vectors"),
    pytest.param(Case(variance=FixedLarge()), id="large variance"),
]


# ---- the law ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_top_down_the_bound_is_the_diffusions_term_by_term(case):
    """At the very noise that inference drew; the diffusion asks its denoiser in float32."""
    passed = case.passed(Posterior, 1)
    z = [each[0] for each in passed.z]
    bound = case.bound(case.x, Replay(case.x0, z, case.levels))
    *steps, prior = (layer[0] for layer in passed.layers())
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(-prior, bound.terms["prior"])
    torch.testing.assert_close(passed.reconstruction[0], bound.terms["reconstruction"], **close)
    of_steps = bound.profile.density.double() * bound.profile.weight.double() / STEPS
    torch.testing.assert_close(torch.stack(steps, 1), of_steps, **close)
    torch.testing.assert_close(passed.reconstruction[0] - sum(steps) - prior, bound.log_prob, **close)


@pytest.mark.parametrize("case", [case for case in CASES if case.id != "large variance"])
@torch.no_grad()
def test_each_term_is_the_error_of_the_noise_in_float64(case):
    """1/2 (exp(logsnr_s - logsnr_t) - 1) |eps - eps_hat|^2 (Kingma et al. 2021, eq. 13)."""
    passed = case.passed(Posterior, 1)
    noise = Replay(case.x0, [each[0] for each in passed.z], case.levels).noise
    for layer in range(STEPS):
        to, at = case.levels[layer], case.levels[layer + 1]
        error = noise[layer + 1] - case.denoiser(passed.z[layer + 1][0], at.logsnr).eps
        expected = 0.5 * torch.expm1(to.logsnr - at.logsnr) * error.square().flatten(1).sum(1)
        torch.testing.assert_close(passed.layers()[layer][0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES)
@torch.no_grad()
def test_both_ways_of_inference_are_one_distribution(process):
    """log q(z_0..z_1 | x) is the same number both ways, and so is each sample's weight."""
    case = Case(process)
    model, num, passed = case.hierarchy(Posterior), 3, case.passed(Noising, 3, sampled=True)
    z, x0 = [each.flatten(0, 1) for each in passed.z], case.x0.repeat(num, 1, 1)
    total = 0.0
    for layer in range(1, STEPS + 2):
        above = z[layer] if layer <= STEPS else None
        p = model.generator.conditional(layer, above, None) if above is not None else model.generator.top(x0)
        q = model.inference.posterior(layer, x0, above, p, None)
        total = total + (q.log_prob(z[layer - 1][None]) - p.log_prob(z[layer - 1][None]))[0]
    torch.testing.assert_close(sum(passed.layers()).flatten(), total, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES)
def test_bottom_up_the_bound_is_the_diffusions_in_expectation(process):
    """All but the topmost term are sampled."""
    case, num = Case(process, of_a_training_set), 5000
    bounds = {}
    for name, inference in (("up", Noising), ("down", Posterior)):
        passed = case.passed(inference, num, seed=1)
        bounds[name] = passed.reconstruction - sum(passed.layers())
    bounds["diffusion"] = case.bound(case.x.repeat(num, 1, 1), GeneratorSource(2)).log_prob.view(num, -1)
    mean = {name: each.mean(0) for name, each in bounds.items()}
    error = {name: each.std(0) / num**0.5 for name, each in bounds.items()}
    for way in ("up", "down"):
        apart = 5 * torch.hypot(error[way], error["diffusion"])
        assert ((mean[way] - mean["diffusion"]).abs() < apart).all()
        assert (apart < 0.15 * mean["diffusion"].abs()).all()


def test_its_likelihood_has_the_diffusions_kind_and_total():
    case = Case()
    found = ElboEstimator()(case.hierarchy(Posterior), case.x, None, 1, GeneratorSource(0))
    bound = case.bound(case.x, GeneratorSource(0))
    assert (found.kind, found.num_dims) == (bound.kind, bound.num_dims) == ("elbo", 6)
    assert len(found.terms) == STEPS + 2
