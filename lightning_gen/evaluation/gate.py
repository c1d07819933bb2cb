"""Whether an extractor is fit to measure with: its distance must rise as images get worse.

Three ladders of damage are done to real images that the extractor was not fitted on: noise, blur, and missing classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lightning_gen.evaluation.extractors import Extractor
from lightning_gen.evaluation.feature_sets import moments_of
from lightning_gen.evaluation.frechet import Moments, Reference, frechet_distance
from lightning_gen.evaluation.pixels import to_uint8
from lightning_gen.random_source import GeneratorSource

NOISE = (0.0, 16.0, 32.0, 64.0, 128.0)
"""Standard deviations, in 8-bit greys."""

BLUR = (0.0, 0.05, 0.075, 0.1)
"""Standard deviations, in sides of the image. Twice as much leaves a haze of MNIST's strokes, and no order to see."""

NUM = 2000
"""Images that are enough: the bias of a distance between 64 features is small beside the first step of every ladder."""

BATCH = 500


class Labelled(Protocol):
    """Images `x` [N, C, H, W] with their classes `y` [N]."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Ladder:
    """Frechet distances to the reference as the damage grows.

    Attributes:
        damage: of each step; nothing at first.
        distances: one a step.
        num: images of each step, the same number throughout: the bias of the distance depends on it.
    """

    damage: tuple[float, ...]
    distances: tuple[float, ...]
    num: int

    @property
    def rises(self) -> bool:
        """Whether each step is farther than the one before; NaN is no rise."""
        return all(low < high for low, high in pairwise(self.distances))

    def record(self) -> dict[str, Any]:
        return {"damage": list(self.damage), "fd": [round(d, 4) for d in self.distances], "num": self.num}


def ladders(
    extractor: Extractor, held_out: Labelled, reference: Tensor, levels: int, num: int = NUM, seed: int = 0
) -> dict[str, Ladder]:
    """{"noise", "blur", "missing_classes"}: distances of damaged images to the reference, as many on both sides.

    Noise and blur take the first images of `held_out`. Classes go missing one after another, in the order of their
    numbers, until half are left, which fill up the places of the others: that ladder has half as many images, or fewer.

    Args:
        extractor: to be judged.
        held_out: real images that it was not fitted on, with their labels.
        reference: further such images [N, C, H, W].
        levels: of the images.
        num: of images at most.
        seed: of the noise.
    """
    count = min(len(held_out.x), len(reference), num)
    target = Reference.from_moments(_moments(extractor, to_uint8(reference[:count], levels)))
    pixels = to_uint8(held_out.x, levels)

    def ladder(steps: tuple[float, ...], images: Callable[[float], Tensor]) -> Ladder:
        sets = [images(step) for step in steps]
        return Ladder(steps, tuple(frechet_distance(_moments(extractor, x), target) for x in sets), len(sets[0]))

    noise = GeneratorSource(seed).normal(pixels[:count].shape)
    labels, classes = held_out.y, held_out.y.unique()
    most = len(classes) // 2
    places = min(count // 2, int(torch.isin(labels, classes[most:]).sum()))
    return {
        "noise": ladder(NOISE, lambda sd: _rounded(pixels[:count] + sd * noise)),
        "blur": ladder(BLUR, lambda share: blurred(pixels[:count], share * pixels.shape[-1])),
        "missing_classes": ladder(
            tuple(map(float, range(most + 1))),
            lambda missing: pixels[_balanced(labels, classes[int(missing) :], places)],
        ),
    }


def blurred(pixels: Tensor, sd: float) -> Tensor:
    """uint8 images [N, C, H, W] after a Gaussian filter of this standard deviation in pixels; edges are repeated."""
    if sd == 0:
        return pixels
    radius = math.ceil(3 * sd)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sd).square())
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    images = functional.pad(pixels.flatten(0, 1).unsqueeze(1).float(), [radius] * 4, mode="replicate")
    return _rounded(functional.conv2d(functional.conv2d(images, kernel), kernel.mT).view_as(pixels))


def _rounded(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)


def _balanced(labels: Tensor, classes: Tensor, num: int) -> Tensor:
    """Indices of `num` images of these classes, as evenly as `num` and the classes' sizes allow, the first of each."""
    rank = torch.empty_like(labels)
    for label in classes:
        members = (labels == label).nonzero()[:, 0]
        rank[members] = torch.arange(len(members))
    kept = torch.isin(labels, classes).nonzero()[:, 0]
    return kept[rank[kept].argsort(stable=True)[:num]]


def _moments(extractor: Extractor, pixels: Tensor) -> Moments:
    return moments_of((extractor(part, 256) for part in pixels.split(BATCH)), extractor.num_features)
