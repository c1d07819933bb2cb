"""What every solver keeps to: pure steps, true counts, samples that do not depend on their batch, and the right law."""

import copy
import math

import pytest
import torch

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.grids import UniformLogSNR
from lightning_gen.diffusion.paths import VariancePreserving
from lightning_gen.diffusion.samplers import DiffusionSampler
from lightning_gen.diffusion.schedules import Cosine
from lightning_gen.diffusion.solvers import DDIM
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource

PATH = VariancePreserving()


def test_evaluations_are_counted_truly(solver, gaussian):
    calls = []

    class Counting(Conditioned):
        def __call__(self, *args):
            calls.append(1)
            return super().__call__(*args)

    sampler = DiffusionSampler(solver, 7)
    sampler.sample(Counting(gaussian.denoiser(PATH), None), Cosine(), (3, 2), None, GeneratorSource(0))
    assert len(calls) == sampler.nfe == solver.total_evaluations(7)


def test_sample_of_an_index_does_not_depend_on_its_batch(solver, tools):
    sampler = DiffusionSampler(solver, 8)

    def draw(indices):
        return sampler.sample(tools.Mixture(PATH), Cosine(), (len(indices), 2), None, IndexedSource(0, indices))

    alone = torch.cat([draw([i]) for i in (0, 5, 63, 64)])
    torch.testing.assert_close(alone, draw(range(70))[[0, 5, 63, 64]])
    torch.testing.assert_close(draw(range(64)), draw(range(70))[:64])


def test_steps_are_pure(solver, tools):
    """Two trajectories interleaved, on grids of their own, are what each is alone, to the bit; x is left as it was."""
    denoiser, settings = Conditioned(tools.Mixture(PATH), None), copy.deepcopy(vars(solver))
    grids = [tools.levels(Cosine(), PATH, 6, grid) for grid in (None, UniformLogSNR())]
    starts = [torch.randn(4, 2, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    alone = [
        tools.integrate(solver, denoiser, grid, x.clone(), GeneratorSource(s))
        for s, (grid, x) in enumerate(zip(grids, starts))
    ]
    walks = [(x, None, GeneratorSource(s)) for s, x in enumerate(starts)]
    kept = [x.clone() for x in starts]
    for i in range(6):
        walks = [
            (*solver.step(denoiser, x, grid[i], grid[i + 1], state, rng), rng)
            for grid, (x, state, rng) in zip(grids, walks)
        ]
    for before, after, kept_start, (x, _, _) in zip(starts, alone, kept, walks):
        assert torch.equal(x, after)
        assert torch.equal(before, kept_start)
    assert vars(solver).keys() == settings.keys()
    assert all(type(v) is type(settings[k]) for k, v in vars(solver).items())


def test_float32_states_are_finite_from_end_to_end(solver, axes, tools):
    make, path = axes
    levels = tools.levels(make(), path, 12)
    x, state, rng = tools.Mixture(path).draw(levels[0], 8, 0), None, GeneratorSource(0)
    x = x.float()
    for at, to in zip(levels, levels[1:]):
        x, state = solver.step(Conditioned(tools.Mixture(path), None), x, at, to, state, rng)
        assert x.dtype == torch.float32
        assert x.isfinite().all()


def test_mixture_is_recovered(solver, tools):
    """Eight Gaussians in 60 steps: each mode's mass within binomial error, its centre, its spread, and few points elsewhere."""
    levels, mixture = tools.levels(Cosine(), PATH, 60, UniformLogSNR()), tools.Mixture(PATH)
    end = tools.integrate(solver, mixture, levels, mixture.draw(levels[0], 1600, 0).float(), GeneratorSource(1))
    distance, mode = torch.cdist(end, mixture.means).min(1)
    near = distance < 0.45  # 4.5 deviations
    assert (mode.bincount(minlength=8) - 200).abs().max() < 5 * 13.2
    assert near.float().mean() > 0.98
    for k, mean in enumerate(mixture.means):
        torch.testing.assert_close(end[near & (mode == k)].mean(0), mean, rtol=0, atol=0.04)
    rayleigh = mixture.std * math.sqrt(2 * math.log(2))
    assert distance.median().item() == pytest.approx(rayleigh, rel=0.12)


def test_sampling_leaves_the_global_state_alone(solver, gaussian):
    before = torch.get_rng_state()
    DiffusionSampler(solver, 4).sample(gaussian.denoiser(PATH), Cosine(), (3, 2), None, GeneratorSource(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_sampler_needs_a_step():
    with pytest.raises(UserError):
        DiffusionSampler(DDIM(), steps=0)
