"""A bench for generative models on PyTorch Lightning. Importing it costs nothing: names resolve on first use."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "DenoisingAutoencoder": "lightning_gen.dae",
    "DiffusionSampler": "lightning_gen.diffusion",
    "DiscreteDiffusion": "lightning_gen.discrete_diffusion",
    "GaussianDiffusion": "lightning_gen.diffusion",
    "GenerativeModule": "lightning_gen.generative_module",
    "HierarchicalVAE": "lightning_gen.vae",
    "ImportanceWeightedBound": "lightning_gen.vae",
    "IndexedSource": "lightning_gen.random_source",
    "Likelihood": "lightning_gen.likelihood",
    "RandomSource": "lightning_gen.random_source",
    "UserError": "lightning_gen.errors",
    "VAE": "lightning_gen.vae",
    "VariationalBound": "lightning_gen.diffusion",
    "load": "lightning_gen.loading",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
