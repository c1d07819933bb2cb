"""Normalizing flows: bijections, each with its log-determinant, between data and latents.

The mathematics imports torch alone; Lightning comes in when `NormalizingFlow` is first named.
"""

import importlib
from typing import Any

from lightning_gen.flow.architectures import NICE, Glow, RealNVP, Steps
from lightning_gen.flow.bases import Base, StandardLogistic, StandardNormal
from lightning_gen.flow.bijections import (
    ActNorm,
    Additive,
    Affine,
    Bijection,
    Chain,
    ChannelMask,
    ChannelMixing,
    CheckerboardMask,
    Coupling,
    Elementwise,
    Flatten,
    InvertibleConv1x1,
    Logit,
    LUConv1x1,
    Mask,
    RationalQuadraticSpline,
    Reverse,
    Shuffle,
    Split,
    Squeeze,
    Transform,
    VectorMask,
)
from lightning_gen.flow.bounds import ChangeOfVariables, ImportanceWeightedBound, LikelihoodEstimator
from lightning_gen.flow.dequantization import Dequantization, UniformDequantization, VariationalDequantization
from lightning_gen.flow.flow_model import FlowModel
from lightning_gen.flow.samplers import LatentSampler, Sampler

__all__ = [
    "NICE",
    "ActNorm",
    "Additive",
    "Affine",
    "Base",
    "Bijection",
    "Chain",
    "ChangeOfVariables",
    "ChannelMask",
    "ChannelMixing",
    "CheckerboardMask",
    "Coupling",
    "Dequantization",
    "Elementwise",
    "Flatten",
    "FlowModel",
    "Glow",
    "ImportanceWeightedBound",
    "InvertibleConv1x1",
    "LUConv1x1",
    "LatentSampler",
    "LikelihoodEstimator",
    "Logit",
    "Mask",
    "NormalizingFlow",
    "RationalQuadraticSpline",
    "RealNVP",
    "Reverse",
    "Sampler",
    "Shuffle",
    "Split",
    "Squeeze",
    "StandardLogistic",
    "StandardNormal",
    "Steps",
    "Transform",
    "UniformDequantization",
    "VariationalDequantization",
    "VectorMask",
]


def __getattr__(name: str) -> Any:
    if name == "NormalizingFlow":
        return importlib.import_module(f"{__name__}.module").NormalizingFlow
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
