"""Data whose reverse process is known exactly, and trajectories on them without a sampler around."""

import math
from types import SimpleNamespace

import pytest
import torch

from lightning_gen.diffusion.denoisers import Conditioned, Denoiser, GaussianDenoiser
from lightning_gen.diffusion.grids import UniformLogSNR, UniformTime
from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.diffusion.paths import (
    Linear,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    broadcast,
)
from lightning_gen.diffusion.reverse_variances import Analytic, FixedLarge
from lightning_gen.diffusion.schedules import Cosine, FlowMatching, LinearBeta, LinearLogSNR
from lightning_gen.diffusion.solvers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    Churn,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    Heun,
    KarrasHeun,
    PredictorCorrector,
    UniPC,
)
from lightning_gen.random_source import GeneratorSource

DOUBLE = torch.float64


class Gaussian:
    """N(mean, covariance) in the plane, its axes turned by 0.6 rad; its two principal deviations differ by a factor 4."""

    mean = torch.tensor([0.7, -0.4], dtype=DOUBLE)
    stds = torch.tensor([1.2, 0.3], dtype=DOUBLE)
    axes = torch.tensor([[math.cos(0.6), -math.sin(0.6)], [math.sin(0.6), math.cos(0.6)]], dtype=DOUBLE)

    def denoiser(self, path):
        return GaussianDenoiser(self.mean, self.axes * self.stds**2 @ self.axes.T, path)

    def marginal(self, level):
        """(mean, standard deviations along the axes) of q(x_t)."""
        return level.alpha * self.mean, (level.alpha**2 * self.stds**2 + level.sigma**2).sqrt()

    def draw(self, level, num, seed=0):
        z = torch.randn(num, 2, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
        mean, stds = self.marginal(level)
        return mean + (z * stds) @ self.axes.T

    def flow(self, x, at, to):
        """The exact probability flow: m_s + (x - m_t) std_s / std_t along each axis."""
        (mean, stds), (mean_to, stds_to) = self.marginal(at), self.marginal(to)
        return mean_to + ((x - mean) @ self.axes * stds_to / stds) @ self.axes.T

    def error(self, solver, levels, num=16):
        """Largest distance of a deterministic solver from the exact flow."""
        start = self.draw(levels[0], num)
        end = integrate(solver, self.denoiser(levels[0].process[0]), levels, start)
        return (end - self.flow(start, levels[0], levels[-1])).abs().max().item()

    def order(self, solver, axes, steps=(80, 160), grid=None):
        """By what power of the step its error falls."""
        make, path = axes
        schedule = make(logsnr_min=-6.0, logsnr_max=6.0)
        few, many = (self.error(solver, levels(schedule, path, n, grid or UniformLogSNR())) for n in steps)
        return math.log(few / many) / math.log(steps[1] / steps[0])

    def weak_error(self, solver, levels):
        """Largest errors of the mean and of the covariance."""
        (mean, covariance), (exact, stds) = self.reached(solver, levels), self.marginal(levels[-1])
        target = self.axes * stds**2 @ self.axes.T
        return (mean - exact).abs().max().item(), (covariance - target).abs().max().item()

    def weak_order(self, solver, axes, steps=(40, 80)):
        """By what power of the step the covariance's error falls, on a grid even in t."""
        make, path = axes
        schedule = make(logsnr_min=-6.0, logsnr_max=6.0)
        few, many = (self.weak_error(solver, levels(schedule, path, n))[1] for n in steps)
        return math.log(few / many) / math.log(steps[1] / steps[0])

    def reached(self, solver, levels):
        """(mean, covariance) that a solver which is affine in x and in its noise ends with, exactly.

        One row a noise draw: row k starts at the mean and gets a unit impulse at the k-th, row 0 none. What a row differs
        by from row 0 is the response to that draw. The spread at the start counts as two draws more.
        """
        rows = 2 + solver.total_evaluations(len(levels) - 1)  # no solver draws more often than it evaluates
        mean, stds = self.marginal(levels[0])
        out = []
        for axis in range(2):
            source = Impulses(self.axes[:, axis])
            x = mean.repeat(rows, 1)
            x[1] += stds[axis] * self.axes[:, axis]
            out.append(integrate(solver, self.denoiser(levels[0].process[0]), levels, x, source))
        responses = torch.cat([o[1:] - o[0] for o in out])
        return out[0][0], responses.T @ responses


class Impulses:
    """A noise source whose k-th draw is `direction` in row k + 2 and zero elsewhere."""

    def __init__(self, direction):
        self.direction, self.draws = direction, 0

    def normal(self, shape, dtype):
        z = torch.zeros(shape, dtype=dtype)
        z[self.draws + 2] = self.direction
        self.draws += 1
        return z


class Mixture(Denoiser):
    """Eight Gaussians of deviation 0.1 on a circle of radius 1, and what a perfect network would say of them."""

    std = 0.1

    def __init__(self, path):
        angle = torch.arange(8) * (math.pi / 4)
        self.path, self.means = path, torch.stack([angle.cos(), angle.sin()], 1)

    def __call__(self, x_t, logsnr, y=None):
        alpha, sigma = (broadcast(s, x_t) for s in self.path.scales(logsnr.to(x_t.dtype))[:2])
        means, total = self.means.to(x_t.dtype), alpha**2 * self.std**2 + sigma**2
        near = (alpha * (x_t @ means.T) - 0.5 * alpha**2) / total  # all means have length 1
        weights = near.softmax(1)
        centre, rest = weights @ means, sigma**2 / total
        x0 = rest * centre + alpha * self.std**2 / total * x_t
        spread = 0.5 * (1 - centre.square().sum(1))  # of the means, per dimension
        return Prediction(x0, (x_t - alpha * x0) / sigma, self.std**2 * rest + rest**2 * spread)

    def draw(self, level, num, seed):
        generator = torch.Generator().manual_seed(seed)
        x0 = self.means[torch.randint(8, (num,), generator=generator)]
        x0 = x0 + self.std * torch.randn(num, 2, generator=generator)
        return level.diffuse(x0, torch.randn(num, 2, generator=generator))


def levels(schedule, path, steps, grid=None):
    return [path.at(schedule, t) for t in (grid or UniformTime()).times(steps, schedule)]


def integrate(solver, denoiser, levels, x, rng=None, y=None):
    """x at the last level."""
    bound, state = Conditioned(denoiser, y), None
    rng = rng or GeneratorSource(0)
    for at, to in zip(levels, levels[1:]):
        x, state = solver.step(bound, x, at, to, state, rng)
    return x


@pytest.fixture
def gaussian():
    return Gaussian()


@pytest.fixture
def tools():
    """What the laws are stated with: levels(schedule, path, steps, grid), integrate(solver, ...), Mixture(path)."""
    return SimpleNamespace(levels=levels, integrate=integrate, Mixture=Mixture)


AXES = {
    "cosine-vp": (Cosine, VariancePreserving()),
    "linear_beta-vp": (LinearBeta, VariancePreserving()),
    "log-linear-ve": (LinearLogSNR, VarianceExploding(1.0)),
    "cosine-subvp": (Cosine, SubVariancePreserving()),
    "flow-linear": (FlowMatching, Linear()),
}


@pytest.fixture(params=AXES.values(), ids=AXES.keys())
def axes(request):
    """(class of schedule, path): every path, with a schedule of its own."""
    return request.param


DETERMINISTIC = {
    "ddim": DDIM(),
    "euler": Euler(),
    "heun": Heun(),
    "karras-heun": KarrasHeun(),
    "2m": DPMSolverPP(2),
    "3m": DPMSolverPP(3, lower_order_final=True),
    "unipc-2": UniPC(2),
    "unipc-3": UniPC(3, "bh1"),
}
STOCHASTIC = {
    "ancestral": Ancestral(),
    "ancestral-large": Ancestral(FixedLarge()),
    "analytic": Ancestral(Analytic()),
    "ddim-eta": DDIM(0.7),
    "euler-maruyama": EulerMaruyama(),
    "churned": KarrasHeun(Churn(0.2)),
    "churned-t": Heun(Churn(0.2)),
    "2m-sde": DPMSolverPP(2, eta=1.0),
    "predictor-corrector": PredictorCorrector(adaptive=False),
    "annealed": AnnealedLangevin(10, epsilon=3e-5),
}
EVERY = DETERMINISTIC | STOCHASTIC


@pytest.fixture(params=EVERY.values(), ids=EVERY.keys())
def solver(request):
    """Every solver."""
    return request.param
