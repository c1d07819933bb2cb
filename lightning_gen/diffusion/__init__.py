"""Gaussian diffusion: the mathematics of its six axes, and the LightningModule that joins them.

The mathematics imports torch alone; Lightning comes in when `GaussianDiffusion` is first named.
"""

from typing import Any

from lightning_gen.diffusion.bounds import VariationalBound
from lightning_gen.diffusion.denoisers import (
    Conditioned,
    Denoiser,
    GaussianDenoiser,
    NetworkDenoiser,
    TrainingSetDenoiser,
)
from lightning_gen.diffusion.guidance import ClassifierFree, Guidance
from lightning_gen.diffusion.parameterizations import (
    DataPrediction,
    NoisePrediction,
    Parameterization,
    Prediction,
    VelocityPrediction,
    VPrediction,
)
from lightning_gen.diffusion.paths import GaussianPath, Linear, NoiseLevel, VariancePreserving
from lightning_gen.diffusion.samplers import DiffusionSampler, Grid, UniformLogSNR, UniformTime
from lightning_gen.diffusion.schedules import (
    Cosine,
    FlowMatching,
    LinearBeta,
    LinearLogSNR,
    NoiseSchedule,
    Sigmoid,
)
from lightning_gen.diffusion.solvers import DDIM, Ancestral, Euler, Heun, Solver
from lightning_gen.diffusion.time_samplers import LowDiscrepancy, TimeSampler, Uniform
from lightning_gen.diffusion.weightings import SNR, Elbo, MinSNR, Simple, Weighting

__all__ = [
    "DDIM",
    "SNR",
    "Ancestral",
    "ClassifierFree",
    "Conditioned",
    "Cosine",
    "DataPrediction",
    "Denoiser",
    "DiffusionSampler",
    "Elbo",
    "Euler",
    "FlowMatching",
    "GaussianDenoiser",
    "GaussianDiffusion",
    "GaussianPath",
    "Grid",
    "Guidance",
    "Heun",
    "Linear",
    "LinearBeta",
    "LinearLogSNR",
    "LowDiscrepancy",
    "MinSNR",
    "NetworkDenoiser",
    "NoiseLevel",
    "NoisePrediction",
    "NoiseSchedule",
    "Parameterization",
    "Prediction",
    "Sigmoid",
    "Simple",
    "Solver",
    "TimeSampler",
    "TrainingSetDenoiser",
    "Uniform",
    "UniformLogSNR",
    "UniformTime",
    "VPrediction",
    "VariancePreserving",
    "VariationalBound",
    "VelocityPrediction",
    "Weighting",
]


def __getattr__(name: str) -> Any:
    if name == "GaussianDiffusion":
        from lightning_gen.diffusion.module import GaussianDiffusion

        return GaussianDiffusion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
