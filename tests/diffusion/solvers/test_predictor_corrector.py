"""Predictor-corrector sampling."""

import math

import pytest
import torch

from lightning_gen.diffusion.denoisers import Conditioned, Denoiser, GaussianDenoiser
from lightning_gen.diffusion.grids import UniformLogSNR
from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.diffusion.paths import VarianceExploding, VariancePreserving
from lightning_gen.diffusion.reverse_variances import FixedLarge, LearnedRange
from lightning_gen.diffusion.schedules import LinearLogSNR
from lightning_gen.diffusion.solvers import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    Solver,
    UniPC,
)
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource

DOUBLE = torch.float64


class Stay(Solver):
    """A predictor that predicts nothing."""

    def step(self, denoiser, x, at, to, state, rng):
        return x, state


def pair(path, first=0.6, second=0.5):
    return [path.at(LinearLogSNR(), torch.tensor(t, dtype=DOUBLE)) for t in (first, second)]


def test_reverse_diffusion_is_the_ancestral_step_with_the_large_variance(gaussian):
    """x + (s_i^2 - s_{i-1}^2) score + sqrt(s_i^2 - s_{i-1}^2) z on a VE path (Song et al. 2021, algorithm 2)."""
    at, to = pair(VarianceExploding(1.0))
    denoiser, x = Conditioned(gaussian.denoiser(at.process[0]), None), gaussian.draw(at, 5)
    fall, z = at.sigma**2 - to.sigma**2, GeneratorSource(4).normal(x.shape, DOUBLE)
    expected = x - fall * denoiser.at(x, at).eps / at.sigma + fall.sqrt() * z
    step = Ancestral(FixedLarge()).step(denoiser, x, at, to, None, GeneratorSource(4))[0]
    torch.testing.assert_close(step, expected)


def test_a_corrector_step_has_the_signal_to_noise_ratio_asked_for(gaussian):
    """|eta score| / |sqrt(2 eta) z| = snr for each example, at a level reached by a step of no length."""
    at, _ = pair(VarianceExploding(1.0))
    denoiser, x = Conditioned(gaussian.denoiser(at.process[0]), None), gaussian.draw(at, 6)
    z = GeneratorSource(4).normal(x.shape, DOUBLE)
    moved = PredictorCorrector(Stay(), snr=0.16).step(denoiser, x, at, at, None, GeneratorSource(4))[0] - x
    slope = -denoiser.at(x, at).eps / at.sigma
    # the two parts of the move: its coordinates in the plane's basis (score, z)
    parts = torch.linalg.solve(torch.stack([slope, z], -1), moved)
    torch.testing.assert_close(parts[:, 1], (2 * parts[:, 0]).sqrt())
    ratio = (parts[:, 0] * slope.norm(dim=1)) / (parts[:, 1] * z.norm(dim=1))
    torch.testing.assert_close(ratio, torch.full((6,), 0.16, dtype=DOUBLE))


def test_a_corrector_step_shrinks_with_alpha(gaussian):
    """By a = (alpha_at / alpha_to)^2 on a VP path: 1 - beta of the step."""
    at, to = pair(VariancePreserving())
    denoiser, x = Conditioned(gaussian.denoiser(at.process[0]), None), gaussian.draw(to, 6)
    solver = PredictorCorrector(Stay(), snr=0.16)
    slope, z = -denoiser.at(x, to).eps / to.sigma, GeneratorSource(4).normal(x.shape, DOUBLE)
    sizes = []
    for start in (at, to):
        moved = solver.step(denoiser, x, start, to, None, GeneratorSource(4))[0] - x
        sizes.append(torch.linalg.solve(torch.stack([slope, z], -1), moved)[:, 0])
    torch.testing.assert_close(sizes[0] / sizes[1], ((at.alpha / to.alpha) ** 2).expand(6))


def test_the_corrector_takes_off_the_predictors_error(tools):
    """In many dimensions, where the norms are steady: a few coarse steps of Euler-Maruyama alone leave far too much noise."""
    path, deviation = VarianceExploding(1.0), 1.0
    denoiser = GaussianDenoiser(torch.zeros(256, dtype=DOUBLE), deviation**2 * torch.eye(256, dtype=DOUBLE), path)
    levels = tools.levels(LinearLogSNR(-6.0, 6.0), path, 12, UniformLogSNR())
    x = (deviation**2 + levels[0].sigma ** 2).sqrt() * torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    spread = math.sqrt(deviation**2 + levels[-1].sigma.item() ** 2)
    errors = [
        abs(tools.integrate(solver, denoiser, levels, x.double()).std().item() - spread)
        for solver in (Ancestral(FixedLarge()), PredictorCorrector(corrector_steps=4, snr=0.3))
    ]
    assert errors[1] < 0.5 * errors[0]


def test_measured_norms_are_each_examples_own(tools):
    """An example's sample does not depend on who else is in the batch."""
    path = VarianceExploding(1.0)
    levels, mixture = tools.levels(LinearLogSNR(), path, 8), tools.Mixture(path)
    x = mixture.draw(levels[0], 70, 0).float()

    def draw(rows):
        return tools.integrate(PredictorCorrector(), mixture, levels, x[rows], IndexedSource(0, rows))

    torch.testing.assert_close(torch.cat([draw([0]), draw([66])]), draw(range(70))[[0, 66]])


def test_without_measuring_the_level_decides(gaussian):
    """The step a noise of norm |z| would get: 2 (snr sigma)^2."""
    at, _ = pair(VarianceExploding(1.0))
    denoiser, x = Conditioned(gaussian.denoiser(at.process[0]), None), gaussian.draw(at, 6)
    z, eta = GeneratorSource(4).normal(x.shape, DOUBLE), 2 * (0.16 * at.sigma) ** 2
    moved = PredictorCorrector(Stay(), adaptive=False).step(denoiser, x, at, at, None, GeneratorSource(4))[0]
    torch.testing.assert_close(moved, x - eta * denoiser.at(x, at).eps / at.sigma + (2 * eta).sqrt() * z)


def test_evaluations_are_the_predictors_and_the_correctors():
    assert PredictorCorrector(Heun(), corrector_steps=3).total_evaluations(10) == 50
    assert PredictorCorrector().evaluations == 2
    assert PredictorCorrector(EulerMaruyama()).evaluations == PredictorCorrector(DDIM()).evaluations


@pytest.mark.parametrize("bad", [{"corrector_steps": 0}, {"snr": 0.0}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(UserError, match="PredictorCorrector"):
        PredictorCorrector(**bad)


def test_a_predictor_that_would_undo_the_corrector_is_refused():
    for order in (1, 2, 3):
        with pytest.raises(UserError, match="UniPC.*another predictor"):
            PredictorCorrector(UniPC(order))


def test_what_the_predictor_needs_of_the_model_is_asked_for():
    solver = PredictorCorrector(Ancestral(LearnedRange()))
    solver.check(LinearLogSNR(), ("share",))
    with pytest.raises(UserError, match="LearnedRange"):
        solver.check(LinearLogSNR(), ())


class OnePoint(Denoiser):
    """Data that are all 0: x0_hat is the same wherever x is."""

    def __init__(self, path):
        self.path = path

    def __call__(self, x_t, logsnr, y=None):
        sigma = self._scales(x_t, logsnr)[1]
        return Prediction(torch.zeros_like(x_t), x_t / sigma, variance=torch.zeros(len(x_t)))


def test_a_solver_that_does_not_go_on_from_x_says_so(tools, solver):
    """What is done to x between two of its steps is either there after the second or lost."""
    path = VariancePreserving()
    levels, denoiser = tools.levels(LinearLogSNR(-6.0, 6.0), path, 3), Conditioned(OnePoint(path), None)

    def end(shift):
        x, state, rng = torch.ones(1, 2, dtype=DOUBLE), None, GeneratorSource(0)
        for at, to in zip(levels[:2], levels[1:]):
            x, state = solver.step(denoiser, x, at, to, state, rng)
            x = x + shift
            shift = 0.0
        return x

    lost = torch.equal(end(0.0), end(0.5))
    assert lost == getattr(solver, "continues_from_state", False)
