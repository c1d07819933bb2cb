"""Which choices on the axes of a diffusion go together.

Names decide little here: a combination is tried on data whose answers are known, so that a new class is covered by itself.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections import deque

import torch
from torch import Tensor

from lightning_gen.broadcasting import broadcast
from lightning_gen.diffusion.denoisers import Denoiser
from lightning_gen.diffusion.guidance import Guidance
from lightning_gen.diffusion.imputation import Imputer
from lightning_gen.diffusion.parameterizations import NoisePrediction, Parameterization, Prediction
from lightning_gen.diffusion.paths import GaussianPath
from lightning_gen.diffusion.samplers import DiffusionSampler, Sampler
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.diffusion.time_samplers import TimeSampler
from lightning_gen.diffusion.variance_models import VarianceModel
from lightning_gen.diffusion.weightings import Elbo, LearnedUncertainty, Weighting
from lightning_gen.errors import IncompatibleAxes
from lightning_gen.random_source import GeneratorSource

TRIAL_STEPS = 64
"""Steps in which a sampler is tried. How few of them a user takes is no question of what goes together."""

LARGEST_ERROR = 0.75
"""`sampling_error` above which a sampler is refused: a variance below a sixteenth or above three times the right one."""

LARGEST_SPREAD = 100.0
"""`loss_spread` above which a loss is refused: a mean over so many examples would be as uncertain as it is large."""

LEAST_WEIGHT = 1e-12
"""Smallest accepted weight in the loss of the squared error of x0 at t = 1; a smaller one trains nothing there."""

_errors: dict[bytes, float] = {}


class _Gaussian(Denoiser):
    """The perfect denoiser of data whose values are independent draws of N(mean, std^2)."""

    mean, std = 0.25, 0.5

    def __init__(self, path: GaussianPath) -> None:
        self.path = path

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Prediction:
        alpha, sigma, _, _ = (broadcast(s, x_t) for s in self.path.scales(logsnr.double()))
        total = (alpha * self.std).square() + sigma.square()
        rest = (x_t - alpha * self.mean) / total
        x0, eps, variance = self.mean + alpha * self.std**2 * rest, sigma * rest, (self.std * sigma).square() / total
        return Prediction(x0.to(x_t.dtype), eps.to(x_t.dtype), variance.to(x_t.dtype), torch.zeros_like(x_t))


@torch.no_grad()
def check_axes(
    schedule: NoiseSchedule,
    path: GaussianPath,
    parameterization: Parameterization,
    weighting: Weighting,
    time_sampler: TimeSampler,
    variance: VarianceModel | None,
    levels: int | None,
) -> None:
    """Raises IncompatibleAxes where they have no meaning together, and says why."""
    names = {axis: type(axis).__name__ for axis in (schedule, parameterization, weighting, time_sampler, variance)}
    if parameterization.singular_at(path.at(schedule, torch.linspace(0, 1, 101, dtype=torch.float64))):
        raise IncompatibleAxes(
            f"{names[parameterization]} cannot be turned into x0 and noise everywhere on {names[schedule]} with log-SNR from "
            f"{schedule.logsnr_min:g} to {schedule.logsnr_max:g}: choose another parameterization or narrower ends"
        )
    if schedule.learned:
        if not (isinstance(weighting, Elbo) and time_sampler.uniform):
            raise IncompatibleAxes(
                f"{names[schedule]} is learned by the bound itself: its weighting must be Elbo and its times uniform "
                f"(LowDiscrepancy), not {names[weighting]} and {names[time_sampler]}"
            )
        if levels is None:
            raise IncompatibleAxes(
                f"{names[schedule]} needs data with levels: on real vectors its end would run off to no noise"
            )
        for part in (parameterization, variance):
            if part is not None and part.of_a_chain:
                raise IncompatibleAxes(
                    f"{names[part]} goes with the levels of a chain, which {names[schedule]} would move: fix the schedule"
                )
    last = path.at(schedule, torch.ones((), dtype=torch.float64))
    weight = float(weighting(last, parameterization) * -last.dlogsnr_dt * torch.exp(last.logsnr))
    if weight < LEAST_WEIGHT:
        raise IncompatibleAxes(
            f"{names[weighting]} gives the error of x0 at t = 1 of {names[schedule]}, log-SNR {schedule.logsnr_min:g}, the "
            f"weight {weight:.2g}, so where sampling starts nothing would be learned: choose Simple(space=output) or "
            "SNRPlusOne, or narrower ends"
        )
    spread = loss_spread(schedule, path, parameterization, weighting, time_sampler)
    if not spread <= LARGEST_SPREAD:
        under = f"LowDiscrepancy times, or let the loss be meant under these: Simple with under={names[time_sampler]}"
        raise IncompatibleAxes(
            f"the times of {names[time_sampler]} hardly meet what {names[weighting]} weighs on {names[schedule]}: the mean "
            f"square of the loss would be {spread:.2g} times its squared mean; choose "
            + ("another schedule or weighting" if time_sampler.uniform else under)
        )
    if time_sampler.follows_losses and isinstance(weighting, LearnedUncertainty):
        raise IncompatibleAxes(
            f"LearnedUncertainty and the times of {names[time_sampler]} would chase each other: choose other times"
        )


def loss_spread(
    schedule: NoiseSchedule,
    path: GaussianPath,
    parameterization: Parameterization,
    weighting: Weighting,
    time_sampler: TimeSampler,
    num: int = 1024,
) -> float:
    """Mean square over squared mean of the loss under the times, where the error is that of Gaussian data; at least 1.

    Both means are integrals over log-SNR, by the midpoint rule.
    """
    low, high = float(schedule.logsnr_min), float(schedule.logsnr_max)
    logsnr = low + (high - low) / num * (torch.arange(num, dtype=torch.float64, device=schedule_device(schedule)) + 0.5)
    level = path.at(schedule, schedule.time(logsnr))
    snr = _Gaussian.std**2 * torch.exp(level.logsnr)
    loss = weighting(level, parameterization) * snr / (1 + snr)  # times dlogsnr/dt, the density in t
    square = loss.square() * -level.dlogsnr_dt / time_sampler.density(level)
    return float(square.mean() / loss.mean().square() / (high - low))


@torch.no_grad()
def check_sampler(sampler: Sampler, schedule: NoiseSchedule, path: GaussianPath, levels: int | None) -> None:
    """Raises IncompatibleAxes where solver and grid do not sample even a Gaussian from its perfect denoiser."""
    if sampler.threshold is not None and levels is None:
        raise IncompatibleAxes("a sampler's threshold needs data with levels: real vectors have no range to keep x0 in")
    if not isinstance(sampler, DiffusionSampler):
        return
    error = sampling_error(sampler, schedule, path, TRIAL_STEPS)
    if error > LARGEST_ERROR and sampling_error(sampler, schedule, path, sampler.steps) > LARGEST_ERROR:
        solver, grid, where, on = (type(axis).__name__ for axis in (sampler.solver, sampler.grid, schedule, path))
        raise IncompatibleAxes(
            f"{solver} on the grid {grid} with the schedule {where} and the path {on} does not sample even a Gaussian from its "
            f"perfect denoiser: {error:.2g} of its standard deviation off in {TRIAL_STEPS} steps; choose another solver (DDIM) "
            "or grid (UniformLogSNR), or more steps"
        )


@torch.no_grad()
def check_guidance(guidance: Guidance | Imputer, schedule: NoiseSchedule, path: GaussianPath) -> None:
    """Raises IncompatibleAxes where a change of the score has no meaning for x0."""
    if not guidance.by_gradient:
        return
    last = path.at(schedule, torch.ones((), dtype=torch.float64, device=schedule_device(schedule)))
    if NoisePrediction().singular_at(last):
        raise IncompatibleAxes(
            f"{type(guidance).__name__} changes the score, which says nothing of x0 at t = 1 of {type(schedule).__name__}, "
            f"log-SNR {schedule.logsnr_min:g}: choose ClassifierFree, to impute Replacement, or a schedule that ends above -18"
        )


def sampling_error(sampler: DiffusionSampler, schedule: NoiseSchedule, path: GaussianPath, steps: int) -> float:
    """Wasserstein distance between a Gaussian and what is sampled from its perfect denoiser, over its standard deviation.

    From 1024 dimensions of one sample, so that a Monte Carlo error of a few hundredths is in it; guidance is left out.
    """
    trial = copy.copy(sampler)
    trial.steps, trial.guidance, trial.threshold = steps, None, None
    try:
        key = pickle.dumps((trial, schedule, path))
    except (pickle.PicklingError, AttributeError, TypeError):  # a class that was made within a function
        return _sampling_error(trial, schedule, _Gaussian(path))
    if key not in _errors:
        _errors[key] = _sampling_error(trial, schedule, _Gaussian(path))
    return _errors[key]


def _sampling_error(sampler: DiffusionSampler, schedule: NoiseSchedule, denoiser: _Gaussian) -> float:
    rng = GeneratorSource(0, schedule_device(schedule))
    last = deque(sampler.trajectory(denoiser, schedule, (1, 1024), None, rng), maxlen=1).pop()
    x, noise = last.x.double() / last.level.alpha, torch.exp(-0.5 * last.level.logsnr)
    std = torch.hypot(torch.full_like(noise, denoiser.std), noise)
    if sampler.denoise:
        std = denoiser.std**2 / std
    error = float(torch.hypot(x.mean() - denoiser.mean, x.std() - std) / std)
    return error if math.isfinite(error) else math.inf


def schedule_device(schedule: NoiseSchedule) -> torch.device:
    """Where its parameters or its table lie."""
    return next((part.device for part in (*schedule.parameters(), *schedule.buffers())), torch.device("cpu"))
