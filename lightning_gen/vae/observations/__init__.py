"""Observation models p(x | z): the distribution of the data whose parameters a decoder network puts out."""

from lightning_gen.vae.observations.base import LevelObservation, Observation
from lightning_gen.vae.observations.bernoulli import Bernoulli
from lightning_gen.vae.observations.categorical import Categorical
from lightning_gen.vae.observations.discretized_logistic import DiscretizedLogistic
from lightning_gen.vae.observations.gaussian import CalibratedGaussian, FixedGaussian, Gaussian, LearnedGaussian
from lightning_gen.vae.observations.mixture_of_logistics import MixtureOfLogistics

__all__ = [
    "Bernoulli",
    "CalibratedGaussian",
    "Categorical",
    "DiscretizedLogistic",
    "FixedGaussian",
    "Gaussian",
    "LearnedGaussian",
    "LevelObservation",
    "MixtureOfLogistics",
    "Observation",
]
