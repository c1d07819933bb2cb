"""Bijections, each a small module: `forward(x) -> (z, log_det)`, `inverse(z)`. Torch alone."""

from lightning_gen.flow.bijections.actnorm import ActNorm
from lightning_gen.flow.bijections.base import Bijection, Factory
from lightning_gen.flow.bijections.chain import Chain, checkpoint_steps
from lightning_gen.flow.bijections.coupling import Coupling
from lightning_gen.flow.bijections.coupling_masks import ChannelMask, CheckerboardMask, Mask, VectorMask
from lightning_gen.flow.bijections.elementwise import Elementwise, Logit
from lightning_gen.flow.bijections.linear import ChannelMixing, InvertibleConv1x1, LUConv1x1
from lightning_gen.flow.bijections.permutations import Reverse, Shuffle
from lightning_gen.flow.bijections.shapes import Flatten, Squeeze
from lightning_gen.flow.bijections.spline import RationalQuadraticSpline
from lightning_gen.flow.bijections.split import Split
from lightning_gen.flow.bijections.transforms import Additive, Affine, Transform

__all__ = [
    "ActNorm",
    "Additive",
    "Affine",
    "Bijection",
    "Chain",
    "ChannelMask",
    "ChannelMixing",
    "CheckerboardMask",
    "Coupling",
    "Elementwise",
    "Factory",
    "Flatten",
    "InvertibleConv1x1",
    "LUConv1x1",
    "Logit",
    "Mask",
    "RationalQuadraticSpline",
    "Reverse",
    "Shuffle",
    "Split",
    "Squeeze",
    "Transform",
    "VectorMask",
    "checkpoint_steps",
]
