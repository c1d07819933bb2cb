"""Where along log-SNR diffusion models lose their likelihood: the draws of a bound as a curve, its table and its plot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_gen.likelihood import Profile
from lightning_gen.run_directory import save_figure


@dataclass(frozen=True)
class ProfileCurve:
    """The diffusion term of a bound as a density over log-SNR, float64. The area below it is what the bound loses.

    Attributes:
        edges: [n + 1] of the bins, ascending log-SNR.
        density: [n], mean over examples, nats per unit of log-SNR; NaN in a bin without a draw.
        se: [n], its standard error over examples.
        drawn: [n], log-SNR that the draws within stand for, per example. Its expectation is the bin's width.
    """

    edges: Tensor
    density: Tensor
    se: Tensor
    drawn: Tensor

    def nats(self) -> float:
        """What the draws of all bins lose, per example: minus the mean diffusion term of the same draws."""
        return float((self.density * self.drawn).nansum())

    def table(self, num_dims: int | None = None) -> tuple[list[str], list[list[float]]]:
        """Header and rows, one a bin; with the data's `num_dims`, if they are integers, in bits/dim too."""
        columns = {
            "logsnr_low": self.edges[:-1],
            "logsnr_high": self.edges[1:],
            "nats_per_logsnr": self.density,
            "nats_per_logsnr_se": self.se,
        }
        if num_dims is not None:
            nats = num_dims * math.log(2.0)
            columns |= {"bits_per_dim_per_logsnr": self.density / nats, "bits_per_dim_per_logsnr_se": self.se / nats}
        return list(columns), torch.stack(list(columns.values()), 1).tolist()


def profile_curve(profile: Profile, bins: int = 40) -> ProfileCurve:
    """The curve over equal bins between the profile's ends.

    In each bin it is the mean of the draws, weighed by the log-SNR they stand for; the step of a T-step bound is
    spread over the bins it covers. Not the sum over the bin's width: that would show how many draws happened to fall
    there. The standard error is that of this ratio of means over examples, whose draws share their offset.
    """
    low, high = profile.ends
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64, device=profile.logsnr.device)
    examples, draws = profile.logsnr.shape
    drawn = torch.zeros(examples, bins, dtype=torch.float64, device=edges.device)
    lost = torch.zeros_like(drawn)
    for k in range(draws):
        logsnr, density, weight, width = (
            column[:, k, None].double() for column in (profile.logsnr, profile.density, profile.weight, profile.width)
        )
        # the share of the draw that lies below each edge; 0 / 0 is a point on an edge, which belongs to the bin above
        below = torch.nan_to_num((edges - logsnr) / width, nan=0.0).clamp(0, 1)
        below[:, 0], below[:, -1] = 0, 1  # float32 may have carried a draw across an end
        stands_for = weight * below.diff() / draws
        drawn += stands_for
        lost += density * stands_for
    total = drawn.sum(0)
    mean = lost.sum(0) / total
    residual = (lost - mean * drawn).square().sum(0)
    correction = examples / (examples - 1) if examples > 1 else math.nan
    return ProfileCurve(edges, mean, (correction * residual).sqrt() / total, total / examples)


def plot(curves: Mapping[str, ProfileCurve], path: Path, num_dims: int | None = None) -> None:
    """Overlays the curves of several models with bands of two standard errors, in bits/dim if `num_dims` is given.

    The axis is linear: areas are losses, and the legend states them. A curve that towers above the others is cut off.
    """
    from lightning_gen.logsnr_plot import Loss, overlaid

    unit, nats = ("nats", 1.0) if num_dims is None else ("bits/dim", num_dims * math.log(2.0))
    losses = {}
    for label, curve in curves.items():
        edges, density, se = (column.tolist() for column in (curve.edges, curve.density / nats, curve.se / nats))
        losses[label] = Loss(edges, density, curve.nats() / nats, se)
    save_figure(overlaid(losses, unit), path)
