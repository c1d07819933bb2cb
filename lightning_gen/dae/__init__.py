"""Denoising autoencoders: the mathematics, and the LightningModules that join it.

The mathematics imports torch alone; Lightning comes in when a module is first named.
"""

import importlib
from typing import Any

from lightning_gen.dae.denoisers import Denoiser, Informed, LinearDenoiser, NetworkDenoiser, OptimalDenoiser
from lightning_gen.dae.iteration import iterate
from lightning_gen.dae.noises import FixedNoise, LogNormalNoise, LogUniformNoise, Noise
from lightning_gen.dae.preconditioning import Plain, Preconditioned, Preconditioning
from lightning_gen.dae.samplers import Langevin, NoiseToManifold, Sampler
from lightning_gen.dae.weightings import InverseVariance, UnitTarget, Unweighted, Weighting

__all__ = [
    "Denoiser",
    "FixedNoise",
    "Informed",
    "InverseVariance",
    "Langevin",
    "LinearDenoiser",
    "LogNormalNoise",
    "LogUniformNoise",
    "NetworkDenoiser",
    "Noise",
    "NoiseToManifold",
    "OptimalDenoiser",
    "Plain",
    "Preconditioned",
    "Preconditioning",
    "Sampler",
    "UnitTarget",
    "Unweighted",
    "Weighting",
    "iterate",
]

_MODULES = {"DenoisingAutoencoder": "module", "OptimalDAE": "oracles", "LinearDAE": "oracles"}
"""What imports Lightning, and where it stands."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
