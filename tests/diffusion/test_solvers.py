"""Laws of the solvers: order of convergence on a flow that is known exactly, marginals, and the identities between them."""

import math

import pytest
import torch

from lightning_gen.diffusion import (
    DDIM,
    Ancestral,
    Conditioned,
    Cosine,
    DiffusionSampler,
    Euler,
    FlowMatching,
    GaussianDenoiser,
    Heun,
    Linear,
    LinearBeta,
    TrainingSetDenoiser,
    UniformLogSNR,
    VariancePreserving,
)
from lightning_gen.diffusion.solvers import posterior
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource

MEAN, STD = 0.7, 0.5
AXES = [(Cosine, VariancePreserving()), (LinearBeta, VariancePreserving()), (FlowMatching, Linear())]


def denoiser(path):
    return GaussianDenoiser(
        torch.full((2,), MEAN, dtype=torch.float64), STD**2 * torch.eye(2, dtype=torch.float64), path
    )


class Double(GeneratorSource):
    """Draws in float64, so that a solver's own error shows below float32's rounding."""

    def normal(self, shape, dtype=torch.float32):
        return super().normal(shape, torch.float64)


def exact_flow(x, schedule, path):
    """The probability flow of Gaussian data: m_s + (x - m_t) std_s / std_t, from t = 1 to t = 0."""
    ends = path.at(schedule, torch.tensor([1.0, 0.0], dtype=torch.float64))
    std = (ends.alpha**2 * STD**2 + ends.sigma**2).sqrt()
    return ends.alpha[1] * MEAN + (x - ends.alpha[0] * MEAN) * std[1] / std[0]


def run(solver, steps, schedule, path, grid=None, num=32):
    sampler = DiffusionSampler(solver, steps, grid)
    states = list(sampler.trajectory(denoiser(path), schedule, (num, 2), None, Double(0)))
    return states[0], states[-1]


@pytest.mark.parametrize(("make", "path"), AXES)
@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Heun(), 2), (DDIM(), 1)])
def test_order_of_convergence(make, path, solver, order):
    schedule = make(logsnr_min=-6.0, logsnr_max=6.0)
    errors = []
    for steps in (80, 160, 320):
        start, end = run(solver, steps, schedule, path)
        errors.append((end - exact_flow(start, schedule, path)).abs().max().item())
    rates = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert rates[-1] == pytest.approx(order, abs=0.2), (errors, rates)


@pytest.mark.parametrize("solver", [Ancestral("small"), Ancestral("large"), DDIM(1.0), DDIM(0.5)])
def test_stochastic_solvers_reach_the_data(solver):
    """With the perfect denoiser and many steps the samples have the data's mean and variance."""
    _, end = run(solver, 400, Cosine(), VariancePreserving(), UniformLogSNR(), num=4000)
    assert end.mean().item() == pytest.approx(MEAN, abs=5 * STD / math.sqrt(8000) + 5e-3)
    assert end.std().item() == pytest.approx(STD, rel=0.04)


def test_large_and_small_variance_bracket_the_truth():
    """In few steps the small variance gives too little spread and the large one too much (Ho et al. 2020, sec. 3.2)."""
    spread = {
        v: run(Ancestral(v), 20, Cosine(), VariancePreserving(), num=8000)[1].std().item() for v in ("small", "large")
    }
    assert spread["small"] < STD < spread["large"]


def test_ddim_with_eta_one_is_ancestral():
    """The same update, written differently: equal noise gives equal states, but for the last step's noise."""
    path, schedule = VariancePreserving(), Cosine()
    levels = [path.at(schedule, t) for t in torch.tensor([0.6, 0.5], dtype=torch.float64)]
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    steps = [
        s.step(Conditioned(denoiser(path), None), x, *levels, None, Double(2))[0] for s in (Ancestral(), DDIM(1.0))
    ]
    torch.testing.assert_close(steps[0], steps[1])


@pytest.mark.parametrize("path", [VariancePreserving(), Linear()])
def test_posterior_is_bayes_rule(path):
    """q(x_s | x_t, x0) of scalars, against the product of q(x_s | x0) and q(x_t | x_s) normalised."""
    schedule = Cosine()
    at, to = (path.at(schedule, torch.tensor(t, dtype=torch.float64)) for t in (0.55, 0.5))
    x, x0 = torch.tensor([0.3], dtype=torch.float64), torch.tensor([-0.8], dtype=torch.float64)
    ratio = at.alpha / to.alpha
    step_variance = at.sigma**2 - ratio**2 * to.sigma**2
    precision = 1 / to.sigma**2 + ratio**2 / step_variance
    expected = (to.alpha * x0 / to.sigma**2 + ratio * x / step_variance) / precision
    mean, variance = posterior(x, x0, at, to)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(variance, 1 / precision)


def test_tiny_steps_do_not_cancel_in_float32():
    """exp(x) - 1 in float32 returns 0 for the variance of a step of 1e-9; expm1 keeps it."""
    path, schedule = VariancePreserving(), Cosine()
    t = torch.tensor([0.5 + 1e-6, 0.5], dtype=torch.float64)
    single = [path.at(schedule, v.float()) for v in t]
    double = [path.at(schedule, v) for v in t]
    _, variance = posterior(torch.zeros(1), torch.zeros(1), *single)
    _, exact = posterior(torch.zeros(1), torch.zeros(1), *double)
    assert variance.item() == pytest.approx(exact.item(), rel=0.1)
    assert variance > 0


@pytest.mark.parametrize("solver", [Ancestral(), DDIM(), Heun(), DDIM(0.7)])
def test_sample_of_an_index_does_not_depend_on_its_batch(solver):
    path, schedule = VariancePreserving(), Cosine()
    sampler = DiffusionSampler(solver, 8)

    def draw(indices):
        return sampler.sample(denoiser(path), schedule, (len(indices), 2), None, IndexedSource(0, indices))

    whole = draw(range(70))
    torch.testing.assert_close(torch.cat([draw(range(0, 1)), draw(range(1, 65)), draw(range(65, 70))]), whole)


@pytest.mark.parametrize(("solver", "evaluations"), [(Ancestral(), 1), (DDIM(), 1), (Euler(), 1), (Heun(), 2)])
def test_evaluations_are_counted_truly(solver, evaluations):
    calls = []

    class Counting(GaussianDenoiser):
        def __call__(self, *args):
            calls.append(1)
            return super().__call__(*args)

    path = VariancePreserving()
    counted = Counting(torch.zeros(2), torch.eye(2), path)
    sampler = DiffusionSampler(solver, 7)
    sampler.sample(counted, Cosine(), (3, 2), None, GeneratorSource(0))
    assert len(calls) == sampler.nfe == 7 * evaluations


def test_memorising_denoiser_returns_training_examples():
    examples = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) * 3
    memory = TrainingSetDenoiser(examples, VariancePreserving())
    x = DiffusionSampler(Ancestral(), 100).sample(memory, Cosine(), (50, 4), None, GeneratorSource(1))
    nearest = torch.cdist(x, examples).min(1).values
    assert nearest.max() < 0.1


def test_sampling_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    run(Ancestral(), 5, Cosine(), VariancePreserving())
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_settings_are_refused():
    for bad in (lambda: DDIM(eta=1.5), lambda: Ancestral("medium"), lambda: DiffusionSampler(steps=0)):
        with pytest.raises(UserError):
            bad()
