"""Variational autoencoders of one layer of latents or many, and importance-weighted ones.

The mathematics imports torch alone; Lightning comes in when `VAE` or `HierarchicalVAE` is first named.
"""

import importlib
from typing import Any

from lightning_gen.vae.bounds import ElboEstimator, ImportanceWeightedBound, LikelihoodEstimator, Refined
from lightning_gen.vae.gaussians import Diagonal, DiagonalGaussian, FullCovariance, FullGaussian, PosteriorForm
from lightning_gen.vae.hierarchical_networks import (
    BottomUpInference,
    Merge,
    NetworkGenerator,
    NetworkInference,
    PrecisionWeighted,
    Residual,
    TopDownInference,
)
from lightning_gen.vae.hierarchy import BottomUp, Generator, Hierarchy, Inference, TopDown
from lightning_gen.vae.imputation import Imputer, PseudoGibbs
from lightning_gen.vae.latent_model import LatentModel, Pass
from lightning_gen.vae.objectives import ELBO, IWAE, Objective
from lightning_gen.vae.observations import (
    Bernoulli,
    CalibratedGaussian,
    Categorical,
    DiscretizedLogistic,
    FixedGaussian,
    LearnedGaussian,
    MixtureOfLogistics,
    Observation,
)
from lightning_gen.vae.priors import GaussianMixture, Prior, StandardNormal, VampPrior
from lightning_gen.vae.samplers import PriorSampler, Sampler
from lightning_gen.vae.single_layer import SingleLayer

__all__ = [
    "ELBO",
    "IWAE",
    "VAE",
    "Bernoulli",
    "BottomUp",
    "BottomUpInference",
    "CalibratedGaussian",
    "Categorical",
    "Diagonal",
    "DiagonalGaussian",
    "DiscretizedLogistic",
    "ElboEstimator",
    "FixedGaussian",
    "FullCovariance",
    "FullGaussian",
    "GaussianMixture",
    "Generator",
    "HierarchicalVAE",
    "Hierarchy",
    "ImportanceWeightedBound",
    "Imputer",
    "Inference",
    "LatentModel",
    "LearnedGaussian",
    "LikelihoodEstimator",
    "Merge",
    "MixtureOfLogistics",
    "NetworkGenerator",
    "NetworkInference",
    "Objective",
    "Observation",
    "Pass",
    "PosteriorForm",
    "PrecisionWeighted",
    "Prior",
    "PriorSampler",
    "PseudoGibbs",
    "Refined",
    "Residual",
    "Sampler",
    "SingleLayer",
    "StandardNormal",
    "TopDown",
    "TopDownInference",
    "VampPrior",
]

_MODULES = {"VAE": "module", "HierarchicalVAE": "hierarchical_module"}
"""What imports Lightning, and where it stands."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
