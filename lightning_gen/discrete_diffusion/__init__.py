"""Diffusion over levels: uniform, absorbing and discretised Gaussian noise, and masked diffusion.

The mathematics imports torch alone; Lightning comes in when `DiscreteDiffusion` is first named.
"""

import importlib
from typing import Any

from lightning_gen.discrete_diffusion.bounds import LikelihoodEstimator, VariationalBound
from lightning_gen.discrete_diffusion.encodings import Encoding, OneHot, Ordinal
from lightning_gen.discrete_diffusion.guidance import ClassifierFree, Guidance
from lightning_gen.discrete_diffusion.heads import Categorical, DiscretizedLogistic, Head
from lightning_gen.discrete_diffusion.imputation import Infilling
from lightning_gen.discrete_diffusion.objectives import Bound, CrossEntropy, Objective
from lightning_gen.discrete_diffusion.predictor import NetworkPredictor, Predictor
from lightning_gen.discrete_diffusion.processes import (
    Absorbing,
    DiscretizedGaussian,
    OrderedAbsorbing,
    Process,
    Uniform,
)
from lightning_gen.discrete_diffusion.samplers import Ancestral, AnyOrder, Confidence, Sampler, Unmasking
from lightning_gen.discrete_diffusion.schedules import Cosine, Linear, MutualInformation, Schedule

__all__ = [
    "Absorbing",
    "Ancestral",
    "AnyOrder",
    "Bound",
    "Categorical",
    "ClassifierFree",
    "Confidence",
    "Cosine",
    "CrossEntropy",
    "DiscreteDiffusion",
    "DiscretizedGaussian",
    "DiscretizedLogistic",
    "Encoding",
    "Guidance",
    "Head",
    "Infilling",
    "LikelihoodEstimator",
    "Linear",
    "MutualInformation",
    "NetworkPredictor",
    "Objective",
    "OneHot",
    "OrderedAbsorbing",
    "Ordinal",
    "Predictor",
    "Process",
    "Sampler",
    "Schedule",
    "Uniform",
    "Unmasking",
    "VariationalBound",
]


def __getattr__(name: str) -> Any:
    if name == "DiscreteDiffusion":
        return importlib.import_module(f"{__name__}.module").DiscreteDiffusion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
