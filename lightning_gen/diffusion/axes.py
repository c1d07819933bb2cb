"""Which choices on the axes of a diffusion go together."""

from __future__ import annotations

import torch

from lightning_gen.diffusion.parameterizations import Parameterization
from lightning_gen.diffusion.paths import GaussianPath
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.diffusion.time_samplers import TimeSampler
from lightning_gen.diffusion.variance_models import VarianceModel
from lightning_gen.diffusion.weightings import Elbo, LearnedUncertainty, Weighting
from lightning_gen.errors import IncompatibleAxes


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
    if time_sampler.has_tails and not isinstance(getattr(weighting, "under", None), type(time_sampler)):
        raise IncompatibleAxes(
            f"a loss divided by the density of {names[time_sampler]} has no finite variance: let it be meant under these "
            f"times, weighting Simple with under={names[time_sampler]}"
        )
    if time_sampler.follows_losses and isinstance(weighting, LearnedUncertainty):
        raise IncompatibleAxes(
            f"LearnedUncertainty and the times of {names[time_sampler]} would chase each other: choose other times"
        )
