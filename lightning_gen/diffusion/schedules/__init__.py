"""Noise schedules: how log-SNR falls as t goes from 0 (data) to 1 (noise). Shape only; the scale is the path's.

Their names are used from here (`lightning_gen.diffusion.schedules.Cosine`), whatever file they stand in.
"""

from lightning_gen.diffusion.schedules.base import NoiseSchedule
from lightning_gen.diffusion.schedules.discrete_beta import DiscreteBeta, DiscreteCosine, DiscreteLinearBeta
from lightning_gen.diffusion.schedules.learned import GradientScale, LearnedLinear, LearnedMonotone, LearnedSchedule
from lightning_gen.diffusion.schedules.linear_beta import LinearBeta, SubVPLinearBeta
from lightning_gen.diffusion.schedules.shapes import Cosine, FlowMatching, Laplace, LinearLogSNR, Sigmoid
from lightning_gen.diffusion.schedules.sigmas import Geometric, Karras
from lightning_gen.diffusion.schedules.wrappers import Shifted, Truncated, ZeroTerminal

__all__ = [
    "Cosine",
    "DiscreteBeta",
    "DiscreteCosine",
    "DiscreteLinearBeta",
    "FlowMatching",
    "Geometric",
    "GradientScale",
    "Karras",
    "Laplace",
    "LearnedLinear",
    "LearnedMonotone",
    "LearnedSchedule",
    "LinearBeta",
    "LinearLogSNR",
    "NoiseSchedule",
    "Shifted",
    "Sigmoid",
    "SubVPLinearBeta",
    "Truncated",
    "ZeroTerminal",
]
