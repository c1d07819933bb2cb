"""The solvers against diffusers' schedulers, where those are right: one denoiser, one list of levels, one noise.

Not compared: its third-order DPM-Solver++, which halves a term and has order 2, and what steps to sigma = 0.
"""

import pytest
import torch

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.paths import Linear, VarianceExploding, VariancePreserving
from lightning_gen.diffusion.reverse_variances import FixedLarge, FixedSmall
from lightning_gen.diffusion.schedules import Cosine, FlowMatching
from lightning_gen.diffusion.solvers import DDIM, Ancestral, DPMSolverPP, Euler, KarrasHeun, UniPC
from lightning_gen.random_source import GeneratorSource

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DOUBLE = torch.float64
CLOSE = {"rtol": 5e-6, "atol": 5e-6}
TABLE = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}


def levels_of(logsnr, path):
    """The levels with these log-SNRs; solvers off the time grid need no slopes."""
    times = torch.linspace(1, 0, len(logsnr), dtype=DOUBLE)
    return [
        path.level(Cosine(), t, value, torch.tensor(-1.0, dtype=DOUBLE)) for t, value in zip(times, logsnr.double())
    ]


def compare(solver, scheduler, levels, mixture, calls=1, **kwargs):
    """Both from the same x: ours by levels, theirs by timesteps, `calls` of their steps to one of ours.

    `kwargs` are functions of what their step takes besides.
    """
    ours = theirs = mixture.draw(levels[0].to(torch.float32), 64, 0).double()
    denoiser, state = Conditioned(mixture, None), None
    rng, times = GeneratorSource(0), iter(scheduler.timesteps)
    for at, to in zip(levels, levels[1:]):
        ours, state = solver.step(denoiser, ours, at, to, state, rng)
        for level in (at, to)[:calls]:
            shared = {key: value() for key, value in kwargs.items()}
            eps = denoiser.at(theirs, level).eps
            theirs = scheduler.step(eps, next(times), theirs, **shared).prev_sample
    assert (ours - mixture.draw(levels[-1].to(torch.float32), 64, 0)).abs().max() > 1e-2  # it went somewhere
    torch.testing.assert_close(ours, theirs, **CLOSE)


def same_noise():
    """The draws that ours gets, one a call."""
    source = GeneratorSource(0)
    return lambda: source.normal((64, 2), DOUBLE)


def by_table(scheduler, steps):
    """log-SNR along DDPM's table, at a scheduler's own timesteps and one stride below the last."""
    scheduler.set_timesteps(steps)
    products = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    return (products / (1 - products)).log()


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(tools, eta):
    scheduler = diffusers.DDIMScheduler(**TABLE, clip_sample=False, set_alpha_to_one=False)
    logsnr, path = by_table(scheduler, 20), VariancePreserving()
    extra = {"eta": lambda: eta} | ({"variance_noise": same_noise()} if eta else {})
    compare(DDIM(eta), scheduler, levels_of(logsnr, path), tools.Mixture(path), **extra)


@pytest.mark.parametrize(("kind", "variance"), [("fixed_small", FixedSmall()), ("fixed_large", FixedLarge())])
def test_ddpm(tools, kind, variance):
    """Its noise comes from a torch generator, so theirs is ours replayed. The levels stop one short of x0."""
    scheduler = diffusers.DDPMScheduler(**TABLE, variance_type=kind, clip_sample=False)
    logsnr, path = by_table(scheduler, 50), VariancePreserving()
    levels = levels_of(torch.cat([logsnr, logsnr[-1:] + 1]), path)[:-1]  # so that none of them is the last
    generator = torch.Generator().manual_seed(3)

    class Replayed(GeneratorSource):
        def normal(self, shape, dtype):
            return torch.randn(shape, generator=self.replay, dtype=dtype)

    rng = Replayed(0)
    rng.replay = torch.Generator().manual_seed(3)
    mixture = tools.Mixture(path)
    ours = theirs = mixture.draw(levels[0].to(torch.float32), 64, 0).double()
    denoiser = Conditioned(mixture, None)
    for at, to, t in zip(levels, levels[1:], scheduler.timesteps):
        ours, _ = Ancestral(variance).step(denoiser, ours, at, to, None, rng)
        theirs = scheduler.step(denoiser.at(theirs, at).eps, t, theirs, generator=generator).prev_sample
    torch.testing.assert_close(ours, theirs, **CLOSE)


def by_sigmas(scheduler, steps):
    """log-SNR at a scheduler's sigmas (noise over signal), all positive."""
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas[scheduler.sigmas > 0].double()
    return -2 * sigmas.log()


@pytest.mark.parametrize("steps", [10, 25])
@pytest.mark.parametrize("final", [False, True])
def test_dpm_solver_2m(tools, steps, final):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **TABLE, solver_order=2, final_sigmas_type="sigma_min", lower_order_final=final
    )
    levels = levels_of(by_sigmas(scheduler, steps), VariancePreserving())
    solver = DPMSolverPP(2, lower_order_final=final and steps < 15)
    compare(solver, scheduler, levels, tools.Mixture(VariancePreserving()))


@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver_sde(tools, order):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **TABLE,
        solver_order=order,
        algorithm_type="sde-dpmsolver++",
        final_sigmas_type="sigma_min",
        lower_order_final=False,
    )
    levels = levels_of(by_sigmas(scheduler, 25), VariancePreserving())
    mixture = tools.Mixture(VariancePreserving())
    compare(DPMSolverPP(order, eta=1.0), scheduler, levels, mixture, variance_noise=same_noise())


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(tools, order, variant):
    scheduler = diffusers.UniPCMultistepScheduler(
        **TABLE, solver_order=order, solver_type=variant, final_sigmas_type="sigma_min", lower_order_final=False
    )
    levels = levels_of(by_sigmas(scheduler, 20), VariancePreserving())
    compare(UniPC(order, variant), scheduler, levels, tools.Mixture(VariancePreserving()))


def test_euler_in_sigma_is_ddim(tools):
    scheduler = diffusers.EulerDiscreteScheduler(**TABLE, use_karras_sigmas=True)
    levels = levels_of(by_sigmas(scheduler, 20), VarianceExploding(1.0))
    scheduler.is_scale_input_called = True
    compare(DDIM(), scheduler, levels, tools.Mixture(VarianceExploding(1.0)))


def test_heun_in_sigma(tools):
    scheduler = diffusers.HeunDiscreteScheduler(**TABLE, use_karras_sigmas=True)
    logsnr = by_sigmas(scheduler, 20).unique()  # theirs are each there twice
    compare(
        KarrasHeun(),
        scheduler,
        levels_of(logsnr, VarianceExploding(1.0)),
        tools.Mixture(VarianceExploding(1.0)),
        calls=2,
    )


def test_flow_matching_euler(tools):
    scheduler, path = diffusers.FlowMatchEulerDiscreteScheduler(), Linear()
    levels = tools.levels(FlowMatching(), path, 20)
    scheduler.set_timesteps(sigmas=[level.sigma.item() for level in levels])
    mixture = tools.Mixture(path)
    ours = theirs = mixture.draw(levels[0].to(torch.float32), 64, 0).double()
    denoiser = Conditioned(mixture, None)
    for at, to, t in zip(levels, levels[1:], scheduler.timesteps):
        ours, _ = Euler().step(denoiser, ours, at, to, None, GeneratorSource(0))
        prediction = denoiser.at(theirs, at)
        theirs = scheduler.step(prediction.eps - prediction.x0, t, theirs).prev_sample.double()
    torch.testing.assert_close(ours, theirs, **CLOSE)
