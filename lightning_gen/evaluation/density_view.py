"""Densities in the plane: a model's log-density at points, integrals over a grid, and the picture. No files, no flags."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.evaluation.likelihoods import likelihood
from lightning_gen.evaluation.progress import Advance
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.random_source import derive_seed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARGIN = 0.25
"""Of half the side of the square that holds the data: how far beyond them it reaches."""


_PROBED = 64
"""Points at which it is tried whether a density has noise."""


@dataclass(frozen=True)
class Square:
    """A grid of side x side points over the square of half-width `reach` about `centre`, its border included."""

    centre: tuple[float, float]
    reach: float
    side: int

    @classmethod
    def around(cls, x: Tensor, side: int, reach: float | None = None) -> Self:
        """About the middle of points x [N, 2]; holds them all with a margin, unless `reach` says how far it goes.

        Raises:
            UserError: the points are one point, and no reach is given.
        """
        low, high = x.double().amin(0), x.double().amax(0)
        if reach is None:
            reach = (1 + MARGIN) * (high - low).max().item() / 2
        if not reach > 0:
            raise UserError("all examples are one point, around which no square shows itself: give --range")
        return cls(tuple(((low + high) / 2).tolist()), reach, side)

    @property
    def axes(self) -> tuple[Tensor, Tensor]:
        """Coordinates of the columns and of the rows, float64 [side] each, ascending."""
        offsets = torch.linspace(-self.reach, self.reach, self.side, dtype=torch.float64)
        return self.centre[0] + offsets, self.centre[1] + offsets

    @property
    def limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """(low, high) of the first coordinate and of the second."""
        (left, right), (bottom, top) = ((axis[0].item(), axis[-1].item()) for axis in self.axes)
        return (left, right), (bottom, top)

    def points(self) -> Tensor:
        """float32 [side^2, 2], row by row from the bottom; in each the first coordinate grows."""
        across, up = self.axes
        return torch.stack(torch.meshgrid(across, up, indexing="xy"), 2).flatten(0, 1).float()

    def density(self, log_density: Tensor) -> Tensor:
        """float64 [side, side] of nats at `points`."""
        return log_density.double().exp().unflatten(0, (self.side, self.side))

    def integral(self, density: Tensor) -> float:
        """By the trapezoidal rule, of values [side, side]."""
        across, up = self.axes
        return torch.trapezoid(torch.trapezoid(density, across, dim=1), up).item()


class _Part(NamedTuple):
    x: Tensor
    y: Tensor | None


@dataclass(frozen=True)
class _Points:
    """Points [N, 2] as the examples of a split, all of them under one label, or under none."""

    x: Tensor
    label: int | None

    def take(self, index: Tensor) -> _Part:
        return _Part(self.x[index], None if self.label is None else torch.full_like(index, self.label))


def labels_of(model: Any) -> list[int | None]:
    """The labels over which a model's density is a mixture of equal weights; [None] of an unconditional one.

    Raises:
        UserError: its conditions are no labels.
    """
    if not getattr(model, "conditional", False):
        return [None]
    if model.num_classes is None:
        raise UserError(
            f"{type(model).__name__} is conditional on more than classes, over which its density could be averaged: "
            "give a run with data of num_classes or without a conditioner"
        )
    return list(range(model.num_classes))


def log_density(
    model: GenerativeModule,
    x: Tensor,
    batch_size: int,
    seed: int,
    draws: int,
    *,
    estimator: Any | None = None,
    advance: Advance = int,
) -> Likelihood:
    """Log-density of points x [N, 2], float64, on the CPU; a conditional model's is that of the mixture of its labels.

    Noise is keyed by (seed, index) and is the same under every label. Where it makes the exponential too high, the mixture is
    `mixture_bound` of two halves of the draws.

    Args:
        advance: called with the number of points just finished, under one label.

    Raises:
        NoLikelihood: the family has none.
    """
    labels = labels_of(model)

    def under(label: int | None, seed: int, draws: int, advance: Advance = int) -> Likelihood:
        how = {"estimator": estimator, "advance": advance}
        parts = likelihood(model, _Points(x, label), range(len(x)), batch_size, seed, draws, **how)
        return Likelihood.concatenated(list(parts))

    if len(labels) == 1:
        return under(labels[0], seed, draws, advance)
    if not overestimates(model, x, seed, draws, estimator):
        found = [under(label, seed, draws, advance) for label in labels]
        mixture = torch.stack([each.log_prob.double() for each in found]).logsumexp(0) - math.log(len(labels))
    else:
        half, again = max(1, draws // 2), derive_seed(seed, "again")
        found = [under(label, seed, half) for label in labels]
        other = [under(label, again, half, advance) for label in labels]
        mixture = mixture_bound(*(torch.stack([one.log_prob.double() for one in each]) for each in (found, other)))
    return Likelihood(mixture, found[0].kind, found[0].num_dims)


def overestimates(model: GenerativeModule, x: Tensor, seed: int, draws: int, estimator: Any | None = None) -> bool:
    """Whether the density, the exponential of an estimate with noise, comes out too high in the mean.

    An exact log-density is the same under another seed, which a few points of x tell; an importance-weighted bound is the
    logarithm of an unbiased estimate.
    """
    few, label = x[:_PROBED], labels_of(model)[0]
    seeds = (seed, derive_seed(seed, "again"))
    one, other = (
        next(likelihood(model, _Points(few, label), range(len(few)), len(few), s, draws, estimator=estimator))
        for s in seeds
    )
    return "iwae" not in one.kind and not torch.allclose(one.log_prob, other.log_prob, 0, 0, equal_nan=True)


def mixture_bound(first: Tensor, second: Tensor) -> Tensor:
    """log of a mixture of K equally probable labels, [N], from below in expectation; log p(x | k) comes as [K, N].

    sum_k q_k (log p_k - log q_k) - log K bounds it for every q. q is the posterior of one estimate, the logarithms are those of
    the other, whose noise is independent, and the mean of both ways is taken. Without noise it is the logarithm itself.
    """

    def bound(q: Tensor, log_p: Tensor) -> Tensor:
        return (torch.where(q > 0, q * log_p, 0.0) + torch.special.entr(q)).sum(0)

    return (bound(first.softmax(0), second) + bound(second.softmax(0), first)) / 2 - math.log(len(first))


def mean_with_error(name: str, values: Tensor) -> dict[str, float]:
    """{name: mean, name_se: its standard error} of nats [N].

    Raises:
        UserError: a value is NaN or infinite; a mean would hide how many there are.
    """
    lost = (~values.isfinite()).nonzero().flatten()
    if len(lost):
        raise UserError(
            f"{name} of {len(lost)} of {len(values)} examples is NaN or infinite, the first of them number {lost[0]}: "
            "give an earlier checkpoint of the run, or other --weights"
        )
    values = values.double()
    error = {f"{name}_se": values.std().item() / math.sqrt(len(values))} if len(values) > 1 else {}
    return {name: values.mean().item(), **error}


def portrait(square: Square, densities: Mapping[str, Tensor], points: Mapping[str, Tensor]) -> Figure:
    """A row of panels over the square, by their titles: densities [side, side] in one scale of colours, then points [N, 2].

    The scale ends at the first density's highest value: one that rises above it is cut, and the colour bar says so.
    """
    from matplotlib.figure import Figure

    number = len(densities) + len(points)
    figure = Figure(figsize=(3.4 * number + 0.8, 3.6), dpi=150, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    panels: Iterator[Axes] = iter(figure.subplots(1, number, squeeze=False)[0])
    (left, right), (bottom, top) = square.limits
    half = square.reach / (square.side - 1)  # of a pixel, whose middle is the point of the grid
    frame = (left - half, right + half, bottom - half, top + half)
    first, *others = densities.values()
    highest = first.max().item()
    drawn, above = [], any(bool((other > highest).any()) for other in others)
    for title, density in densities.items():
        axes = next(panels)
        look = {"cmap": "magma", "vmin": 0.0, "vmax": highest, "extent": frame, "origin": "lower"}
        axes.imshow(density.numpy(), **look)
        axes.set_title(title, fontsize=10)
        drawn.append(axes)
    for title, each in points.items():
        axes = next(panels)
        size = min(6.0, max(0.8, 6000 / max(1, len(each))))
        axes.scatter(*each.float().T.numpy(), s=size, alpha=0.7, linewidths=0, color="#fec488")
        axes.set_facecolor("black")
        axes.set_title(title, fontsize=10)
    for axes in figure.axes:
        axes.set(xlim=frame[:2], ylim=frame[2:], aspect="equal")
        axes.tick_params(labelsize=8)
    bar = figure.colorbar(
        drawn[-1].images[0], ax=figure.axes, extend="max" if above else "neither", pad=0.02, aspect=25
    )
    bar.set_label("density", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure
