"""Solvers: one pure step from a noise level to a lower one.

`at` and `to` are the records of the two levels (scalar fields), `state` is whatever a multistep solver carries from one
step to the next (None at first), `rng` serves the noise. Nothing is hidden in the solver, so two trajectories can be
interleaved and a trajectory can be resumed.
"""

from lightning_gen.diffusion.solvers.ancestral import Ancestral
from lightning_gen.diffusion.solvers.base import Solver, is_last, score, velocity
from lightning_gen.diffusion.solvers.churn import Churn
from lightning_gen.diffusion.solvers.ddim import DDIM
from lightning_gen.diffusion.solvers.dpm_solver import DPMSolverPP
from lightning_gen.diffusion.solvers.euler import Euler, EulerMaruyama
from lightning_gen.diffusion.solvers.heun import Heun, KarrasHeun
from lightning_gen.diffusion.solvers.langevin import AnnealedLangevin, langevin_step
from lightning_gen.diffusion.solvers.predictor_corrector import PredictorCorrector
from lightning_gen.diffusion.solvers.unipc import UniPC

__all__ = [
    "DDIM",
    "Ancestral",
    "AnnealedLangevin",
    "Churn",
    "DPMSolverPP",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "KarrasHeun",
    "PredictorCorrector",
    "Solver",
    "UniPC",
    "is_last",
    "langevin_step",
    "score",
    "velocity",
]
