"""Every combination that configs can name samples and trains right, within a stated error, or is refused with the reason.

Right is measured with perfect denoisers of Gaussian data: a sampler is then an affine map of the noises that it draws, so
that mean and variance of its samples are found without chance. Classes are found by introspection; one whose constructor
needs arguments, or of which more than the default counts, has examples below.
"""

import inspect
import itertools
import math
import statistics

import numpy
import pytest
import torch

from lightning_gen.diffusion import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    Churn,
    ClassifierFree,
    Cosine,
    DiffusionSampler,
    DiscreteCosine,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    GaussianPath,
    Grid,
    Guidance,
    Heun,
    Imputer,
    KarrasHeun,
    KarrasRho,
    Laplace,
    LearnedMonotone,
    LogitNormal,
    LogNormal,
    LossSecondMoment,
    NoiseSchedule,
    Parameterization,
    Prediction,
    PredictorCorrector,
    Shifted,
    Simple,
    SNRPlusOne,
    Solver,
    TimeSampler,
    Truncated,
    UniformLogSNR,
    UniformTime,
    UniPC,
    VarianceExploding,
    VariancePreserving,
    Weighting,
    ZeroTerminal,
)
from lightning_gen.diffusion.axes import TRIAL_STEPS, check_axes, check_guidance, check_sampler
from lightning_gen.diffusion.denoisers import Denoiser
from lightning_gen.diffusion.reverse_variances import ReverseVariance
from lightning_gen.diffusion.second_models import AutoGuidance, ClassifierGuidance
from lightning_gen.errors import IncompatibleAxes, UserError
from lightning_gen.random_source import GeneratorSource

DOUBLE = torch.float64


def classes(base):
    """Concrete subclasses that configs can name."""
    ours = base.__module__.startswith("lightning_gen.diffusion") and not base.__name__.startswith("_")
    found = [base] if ours and not inspect.isabstract(base) else []
    return list(dict.fromkeys([*found, *(cls for child in base.__subclasses__() for cls in classes(child))]))


EXAMPLES = {
    DiscreteCosine: [DiscreteCosine(logsnr_min=-15.0)],
    LearnedMonotone: [LearnedMonotone(hidden=16)],
    Shifted: [Shifted(Cosine(), 2.0)],
    Truncated: [Truncated(Cosine(), -6.0, 8.0)],
    ZeroTerminal: [ZeroTerminal(Cosine())],
    DDIM: [DDIM(), DDIM(1.0)],
    Ancestral: [Ancestral(variance()) for variance in classes(ReverseVariance)],
    KarrasHeun: [KarrasHeun(), KarrasHeun(Churn(0.2))],
    DPMSolverPP: [DPMSolverPP(2), DPMSolverPP(3), DPMSolverPP(2, eta=1.0)],
    UniPC: [UniPC(2), UniPC(3)],
    PredictorCorrector: [PredictorCorrector(adaptive=False), PredictorCorrector(EulerMaruyama(), adaptive=False)],
    AnnealedLangevin: [AnnealedLangevin(steps=5, epsilon=2e-5)],
    Simple: [Simple(), Simple("output"), Simple("output", under=LogitNormal()), Simple("output", under=LogNormal())],
}


def examples(base):
    return [example for cls in classes(base) for example in (EXAMPLES[cls] if cls in EXAMPLES else [cls()])]


class Perfect(Denoiser):
    """E[x0 | x_t] where x0 ~ N(mean(y), std^2)."""

    def __init__(self, path, mean=lambda y: -0.3, std=0.6):
        self.path, self.mean, self.std = path, mean, std

    def __call__(self, x_t, logsnr, y=None):
        alpha, sigma, *_ = self.path.scales(torch.as_tensor(logsnr).double())
        if alpha.dim():
            alpha, sigma = alpha[:, None], sigma[:, None]
        total, mean = (alpha * self.std) ** 2 + sigma**2, self.mean(y)
        rest = (x_t - alpha * mean) / total
        variance = ((self.std * sigma) ** 2 / total).expand(len(x_t), 1)[:, 0]
        return Prediction(mean + alpha * self.std**2 * rest, sigma * rest, variance, torch.zeros_like(x_t))


class OneByOne:
    """Draw k is 1 for the sample k + 1 and 0 for all others: what each noise adds, beside sample 0 without noise."""

    device = torch.device("cpu")

    def __init__(self):
        self.draws = 0

    def normal(self, shape, dtype=None):
        z = torch.zeros(shape, dtype=DOUBLE)
        z[self.draws + 1] = 1.0
        self.draws += 1
        return z


def distance(sampler, schedule, denoiser, mean, std, y=None, draws=8):
    """Wasserstein distance of the samples from N(mean, std^2) as it stands at t = 0, over its standard deviation."""
    x = sampler.sample(denoiser, schedule, (2 + draws * sampler.steps, 1), y, OneByOne())[:, 0]
    last = denoiser.path.at(schedule, torch.zeros((), dtype=DOUBLE))
    std = math.hypot(std, math.exp(-0.5 * last.logsnr))
    found_mean, found_std = x[0] / last.alpha, (x[1:] - x[0]).norm() / last.alpha
    return math.hypot(found_mean - mean, found_std - std) / std


def refused(check, *given):
    """Whether it raises, in one line."""
    try:
        check(*given)
    except UserError as refusal:
        assert "\n" not in str(refusal) and len(str(refusal)) > 60
        return True
    return False


def sampled(schedule, path, grid, solver):
    """The error of a combination, or None where it is refused."""
    sampler = DiffusionSampler(solver, TRIAL_STEPS, grid)
    if refused(sampler.check, schedule, ("variance", "share")) or refused(check_sampler, sampler, schedule, path, None):
        return None
    with torch.no_grad():
        return distance(sampler, schedule, Perfect(path), -0.3, 0.6)


def combinations(every):
    """Schedules x paths x grids x solvers; unless `every`, each schedule with every other solver, paths and grids in turn."""
    turns = list(itertools.product(examples(Grid), examples(GaussianPath)))
    for i, schedule in enumerate(examples(NoiseSchedule)):
        for j, solver in enumerate(examples(Solver)):
            if not every and (i + j) % 2:
                continue
            for grid, path in turns if every else [turns[(5 * i + j // 2) % len(turns)]]:
                yield schedule, path, grid, solver


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_perfect_denoiser_is_sampled_right_or_refused(every):
    """In 64 steps every combination ends within 0.9 of a standard deviation, half of them within 0.05."""
    found = [(sampled(*axes), [type(axis).__name__ for axis in axes]) for axes in combinations(every)]
    errors = [(error, axes) for error, axes in found if error is not None]
    worst, where = max(errors)
    print(f"{len(found)} combinations, {len(found) - len(errors)} refused, worst error {worst:.2f}: {where}")
    assert worst < 0.9, where
    assert statistics.median(error for error, _ in errors) < 0.05
    assert 0.8 * len(found) < len(errors)


@pytest.mark.parametrize(
    "schedule, path, grid, solver",
    [
        (Laplace(), VariancePreserving(), UniformTime(), Euler()),
        (Laplace(), VariancePreserving(), UniformTime(), EulerMaruyama()),
        (Laplace(), VariancePreserving(), UniformTime(), Heun()),
        (Laplace(), VarianceExploding(), UniformTime(), PredictorCorrector()),
        (ZeroTerminal(Cosine()), VariancePreserving(), UniformTime(), EulerMaruyama()),
        (ZeroTerminal(Cosine()), VariancePreserving(), UniformTime(), KarrasHeun()),
        (Cosine(), VarianceExploding(), UniformTime(), Euler()),
    ],
)
def test_what_blows_up_is_refused(schedule, path, grid, solver):
    """1e4 to 1e12 times the variance, without a word, before."""
    with pytest.raises(IncompatibleAxes, match=f"{type(solver).__name__} on the grid UniformTime"):
        check_sampler(DiffusionSampler(solver, 50, grid), schedule, path, None)


def test_a_zero_terminal_schedule_loses_no_steps_below_all_signal():
    """On Karras's grid most steps were once spent below log-SNR -20, and 0.007 of the variance was left in 20."""
    schedule, path = ZeroTerminal(Cosine()), VariancePreserving()
    for grid in (UniformLogSNR(), KarrasRho()):
        assert distance(DiffusionSampler(DDIM(), 32, grid), schedule, Perfect(path), -0.3, 0.6) < 0.2


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_the_loss_is_estimated_right_or_refused(every):
    """From 8192 times, for all schedules, weightings and time samplers; paths and parameterizations in turn."""
    paths, targets = itertools.cycle(examples(GaussianPath)), itertools.cycle(examples(Parameterization))
    errors, axes_of = [], (NoiseSchedule, Weighting, TimeSampler)
    combinations = list(itertools.product(*map(examples, axes_of)))[::every]
    for schedule, weighting, times in combinations:
        axes = schedule, next(paths), next(targets), weighting, times
        if refused(check_axes, *axes, None, 256):
            continue
        with torch.no_grad():
            t = times.sample(8192, GeneratorSource(0), schedule).double()
            errors.append(
                (abs(mean_loss(*axes, t) / integrated_loss(*axes) - 1), [type(axis).__name__ for axis in axes])
            )
    worst, where = max(errors)
    print(
        f"{len(combinations)} combinations, {len(combinations) - len(errors)} refused, worst error {worst:.3f}: {where}"
    )
    assert worst < 0.25, where
    assert len(errors) > 0.4 * len(combinations)


def loss_at(level, parameterization, weighting):
    """1/2 w |eps - eps_hat|^2, times -dlogsnr/dt, of the perfect denoiser of N(0, 0.6^2)."""
    snr = 0.36 * torch.exp(level.logsnr)
    return 0.5 * weighting(level, parameterization) * -level.dlogsnr_dt * snr / (1 + snr)


def mean_loss(schedule, path, parameterization, weighting, times, t):
    level = path.at(schedule, t)
    return float((loss_at(level, parameterization, weighting) / times.density(level)).mean())


def integrated_loss(schedule, path, parameterization, weighting, times):
    """By Gauss-Legendre quadrature over log-SNR."""
    nodes, weights = (torch.as_tensor(v) for v in numpy.polynomial.legendre.leggauss(400))
    low, high = float(schedule.logsnr_min), float(schedule.logsnr_max)
    level = path.at(schedule, schedule.time(low + (high - low) * 0.5 * (nodes + 1)))
    return float((weights * loss_at(level, parameterization, weighting) / -level.dlogsnr_dt).sum() * 0.5 * (high - low))


def test_outputs_are_turned_into_x0_and_noise_or_refused():
    """In float32, of unit x0 and eps, at every level of every schedule and path."""
    errors, every = [], 0
    x0, eps = torch.tensor([[0.7]]), torch.tensor([[-0.9]])
    for schedule, path, target in itertools.product(*map(examples, (NoiseSchedule, GaussianPath, Parameterization))):
        every += 1
        if refused(check_axes, schedule, path, target, SNRPlusOne(), LossSecondMoment(), None, None):
            continue
        with torch.no_grad():
            level = path.at(schedule, torch.linspace(0, 1, 33, dtype=DOUBLE)).to(torch.float32)
            x_t, out = level.diffuse(x0.expand(33, 1), eps.expand(33, 1)), target.target(x0.expand(33, 1), eps, level)
            found = target.to_prediction(out, x_t, level)
        error = max((found.x0 - x0).abs().max().item(), (found.eps - eps).abs().max().item())
        errors.append((error, [type(axis).__name__ for axis in (schedule, path, target)]))
    worst, where = max(errors)
    print(f"{every} combinations, {every - len(errors)} refused, worst error {worst:.2g}: {where}")
    assert worst < 0.01, where


class Second:
    """A second model that is known: a worse denoiser, and the classifier of y = x0 + N(0, 0.5^2) at y = 0.5."""

    def __init__(self, path):
        self.path, self.denoiser = path, Perfect(path, mean=lambda y: -0.8)

    def to(self, device):
        return self

    def log_prob(self, x, logsnr, y):
        prediction = Perfect(self.path)(x, logsnr)
        return -0.5 * (0.5 - prediction.x0[:, 0]).square() / (0.25 + prediction.variance)


GUIDED = {
    ClassifierFree: (ClassifierFree(1.5), -0.3 + 1.5 * 0.7, 0.6),
    AutoGuidance: (AutoGuidance("-", 2.0), 2 * 0.4 + 0.8, 0.6),
    ClassifierGuidance: (
        ClassifierGuidance("-", 1.0),
        (-0.3 / 0.36 + 0.5 / 0.25) / (1 / 0.36 + 4),
        (1 / 0.36 + 4) ** -0.5,
    ),
}
"""Each with the mean and the standard deviation of what it leads to, which are Gaussians again."""


def test_guidance_leads_where_it_should_or_is_refused():
    assert set(classes(Guidance)) == set(GUIDED)
    errors, every, paths = [], 0, itertools.cycle(examples(GaussianPath))
    for schedule, (guidance, mean, std) in itertools.product(examples(NoiseSchedule), GUIDED.values()):
        every, path = every + 1, next(paths)
        if refused(check_guidance, guidance, schedule, path):
            assert isinstance(schedule, ZeroTerminal)
            continue
        guidance._opened = Second(VariancePreserving())
        of_class = -0.3 if isinstance(guidance, ClassifierGuidance) else 0.4
        denoiser = Perfect(path, mean=lambda y, of_class=of_class: -0.3 if y is None else of_class)
        sampler = DiffusionSampler(DDIM(), 64, UniformLogSNR(), guidance)
        with torch.no_grad():
            error = distance(sampler, schedule, denoiser, mean, std, torch.zeros(2, dtype=torch.int64), draws=0)
        errors.append((error, [type(axis).__name__ for axis in (schedule, path, guidance)]))
    worst, where = max(errors)
    print(f"{every} combinations, {every - len(errors)} refused, worst error {worst:.2f}: {where}")
    assert worst < 0.2, where
    for imputer in classes(Imputer):
        assert refused(check_guidance, imputer(), ZeroTerminal(Cosine()), VariancePreserving()) == imputer.by_gradient
        assert not refused(check_guidance, imputer(), Cosine(), VariancePreserving())
