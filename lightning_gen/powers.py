"""Powers that some families have. Callbacks and evaluation ask for the power, never for the family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource

NOTHING = -1
"""Stands among integers where nothing is there yet, or where a hole is, in what is shown of them."""


class Imputation(ABC):
    """A family that can fill the holes of an instance.

    Attributes:
        imputer: how it is done by default, an object of the family.
    """

    imputer: Any

    @abstractmethod
    def impute(
        self,
        x: Tensor,
        mask: Tensor,
        y: Tensor | None = None,
        *,
        imputer: Any | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        """x with its holes filled by a sample of what belongs there, given the rest and y; the known values untouched.

        Args:
            x: [B, *shape] in the data's own domain. What stands in its holes has no influence.
            mask: bool or integers, [B, *shape], [*shape] or what broadcasts to them: true, or not 0, where x is known.
            y: conditions [B, ...]; None for the null condition, which a conditional model must have been trained with.
            imputer: of the family: how it is done; the module's own by default.
            rng: an `IndexedSource` of indices 0..B-1 with seed 0 by default.
        """


class LatentVariables(ABC):
    """A family whose examples have latents: vectors [B, latents] that the model decodes, distributed as its prior has them."""

    @property
    @abstractmethod
    def latents(self) -> int:
        """Numbers in the latents of one example."""

    @abstractmethod
    def encode(self, x: Tensor, y: Tensor | None = None, *, rng: RandomSource | None = None) -> Tensor:
        """Latents [B, latents] of x [B, *shape], in the data's own domain: the posterior's mean, or with `rng` a sample of it.

        For a flow the posterior is a point, and `decode(encode(x))` is x.
        """

    @abstractmethod
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The most probable x [B, *shape] of p(x | z), in the data's own domain."""

    def expected(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x | z], float [B, *shape] in the data's units, {0..levels-1}: what pictures show, without rounding."""
        return self.decode(z, y)

    def reconstruct(self, x: Tensor, y: Tensor | None = None, *, rng: RandomSource | None = None) -> Tensor:
        """decode(encode(x))."""
        return self.decode(self.encode(x, y, rng=rng), y)

    def interpolate(self, start: Tensor, end: Tensor, num: int, y: Tensor | None = None) -> Tensor:
        """[B, num, *shape], E[x | z] on great circles between the latents of two batches of data, both ends included.

        Along a straight line between two samples of a standard normal in many dimensions the middle is shorter than any
        sample (White 2016).

        Raises:
            UserError: fewer than two stations.
        """
        stations = spherical(self.encode(start, y), self.encode(end, y), num)
        return torch.stack([self.expected(z, y) for z in stations.unbind(1)], 1)


def spherical(start: Tensor, end: Tensor, num: int) -> Tensor:
    """[B, num, d] on the great circle from `start` to `end` [B, d], lengths between theirs; parallel ones go straight."""
    if num < 2:
        raise UserError(f"an interpolation has at least its two ends, not {num} stations")
    t = torch.linspace(0, 1, num, dtype=start.dtype, device=start.device)[None, :, None]
    lengths = [v.norm(dim=1).clamp(min=torch.finfo(v.dtype).tiny)[:, None, None] for v in (start, end)]
    first, last = start[:, None] / lengths[0], end[:, None] / lengths[1]
    # not acos, which in float32 tells nothing of angles near 0 and pi
    angle = 2 * torch.atan2((first - last).norm(dim=2, keepdim=True), (first + last).norm(dim=2, keepdim=True))
    near = (
        torch.sin(angle) < 1e-4
    )  # sin(t angle) / sin(angle) is t there, or nothing: opposite ones have no great circle
    safe = torch.where(near, torch.ones_like(angle), angle)
    weights = [torch.where(near, s, torch.sin(s * safe) / torch.sin(safe)) for s in (1 - t, t)]
    length = lengths[0] * (1 - t) + lengths[1] * t
    circle = length * (weights[0] * first + weights[1] * last)
    return torch.where(near, (1 - t) * start[:, None] + t * end[:, None], circle)


def check_frames(frames: int) -> None:
    """Raises UserError for a film of fewer than two frames."""
    if frames < 2:
        raise UserError(f"a film has at least two frames, not {frames}")


def frames_of(total: int, frames: int) -> list[int]:
    """Which of `total` points of a trajectory a film shows, equally many apart, the first and the last among them."""
    return torch.linspace(0, total - 1, min(frames, total)).round().long().tolist()


class Film(ABC):
    """A family whose samples take shape step by step."""

    @abstractmethod
    def film(
        self,
        num: int,
        frames: int,
        y: Tensor | None = None,
        *,
        sampler: Any | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        """[num, frames, *shape] in the data's own domain: stations of `sample`, from pure noise to the sample itself.

        The last frame is what `sample` gives for the same arguments. A frame of integers has -1 where nothing is there yet.
        """


@dataclass(frozen=True)
class Attractors:
    """Where iterated denoising came to.

    Attributes:
        points: [B, *shape], floats.
        steps: taken by each, int64 [B].
        converged: bool [B], whether the residual came down to the tolerance.
        residual: |x - D(x)| at the points, [B], root mean square over the dimensions.
        sigma: the noise level at which the denoiser was asked.
        stations: [B, S, *shape], the points after the steps that were asked for; None where none were.
    """

    points: Tensor
    steps: Tensor
    converged: Tensor
    residual: Tensor
    sigma: float
    stations: Tensor | None = None


class Denoising(ABC):
    """A family that estimates clean data from noisy ones, x + sigma eps, at one noise level or more.

    Noise lives among floats: for integers the points of [-1, 1] that `to_floats` says, vectors as they are.
    """

    @abstractmethod
    def to_floats(self, x: Tensor) -> Tensor:
        """Floats [B, *shape] of data in their own domain."""

    @abstractmethod
    def to_data(self, x: Tensor) -> Tensor:
        """The data nearest to floats [B, *shape], in their own domain."""

    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor | float, y: Tensor | None = None) -> Tensor:
        """E[clean | x], floats [B, *shape], from floats at noise of standard deviation sigma, [] or [B]; y as in `impute`."""

    @abstractmethod
    def attractors(
        self,
        x: Tensor,
        *,
        eta: float = 1.0,
        steps: int = 100,
        y: Tensor | None = None,
        sigma: float | None = None,
        tolerance: float = 1e-4,
        stations: Sequence[int] = (),
    ) -> Attractors:
        """Where x <- x - eta (x - denoise(x, sigma)) leads from floats x [B, *shape].

        Args:
            steps: at most; an example stops where its residual is at most `tolerance`.
            y: conditions [B, ...]; None for the null condition, which a conditional model must have been trained with.
            sigma: the least that the model knows by default.
            stations: after which steps the points are kept.
        """
