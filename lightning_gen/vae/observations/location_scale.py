"""What the distributions that have a location and a scale share: where the two come from, and where they start."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_gen.vae.observations.base import Observation, moments, precise


class LocationScale(Observation):
    """A location for each element of x and a log-scale, in the encoder's units.

    Args:
        shared_scale: one log-scale of all elements and all z, a parameter of the observation; else the network puts out
            one for each element, after the locations.
    """

    scale_per_std: float = 1.0
    """The distribution's scale over its standard deviation."""

    def __init__(self, shared_scale: bool = False) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(())) if shared_scale else None

    @property
    def multiple(self) -> int:
        return 2 if self.log_scale is None else 1

    @property
    def least_std(self) -> float:
        """The standard deviation at which an element that is constant in the first batch starts, in the encoder's units."""
        return 1e-3

    def location_and_log_scale(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """[..., *shape] each, or the second a scalar, from an output [..., *out_shape]."""
        if self.log_scale is not None:
            return precise(out), precise(self.log_scale)
        return self.split(precise(out)).unbind(-len(self.shape) - 1)

    @torch.no_grad()
    def initial(self, x: Tensor) -> Tensor:
        """The data's moments; a shared scale starts at their mean variance around each element's mean."""
        mean, std = moments(self.encode(x), self.least_std)
        if self.log_scale is None:
            return torch.cat([mean, (std * self.scale_per_std).log()])
        self.log_scale.fill_((std.square().mean().sqrt() * self.scale_per_std).log())
        return mean
