"""Distributions in the plane whose densities are known, so that a model's likelihood and samples are judged exactly."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from datamodules.base import DataModule, Examples
from lightning_gen.errors import UserError
from lightning_gen.random_source import derive_seed


class Toy2D(DataModule):
    """Real vectors in the plane, float32 [2], drawn once from a fixed seed.

    A subclass draws in its own coordinates z; the data are x = (z - centre) / scale, of mean zero and, over the two
    coordinates together, unit variance: one scale for both, so that shapes keep their aspect. Densities are of x.

    Args:
        num_train, num_val, num_test: examples in each split.
        data_seed: of the draws; the splits draw from different streams.
        kwargs: the batch sizes of `DataModule`.
    """

    shape = (2,)
    levels = None
    extractor = {"class_path": "lightning_gen.evaluation.extractors.RawFeatures"}  # noqa: RUF012
    centre: tuple[float, float] = (0.0, 0.0)
    scale: float

    def __init__(
        self,
        num_train: int = 20_000,
        num_val: int = 2_000,
        num_test: int = 10_000,
        data_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, num in (("num_train", num_train), ("num_val", num_val), ("num_test", num_test)):
            if num < 1:
                raise UserError(f"{name} must be at least 1, not {num}.")
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        self.data_seed = data_seed

    @abstractmethod
    def draw(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """(z float64 [num, 2], labels int64 [num] or None)."""

    @abstractmethod
    def log_density_of_z(self, z: Tensor) -> Tensor:
        """[B], nats, at z float64 [B, 2]."""

    @abstractmethod
    def entropy_of_z(self) -> float:
        """Nats."""

    def load(self) -> dict[str, Examples]:
        return {name: self._examples(name, num) for name, num in self.sizes.items()}

    def _examples(self, name: str, num: int) -> Examples:
        z, y = self.draw(num, torch.Generator().manual_seed(derive_seed("toy", self.data_seed, name)))
        return Examples(((z - z.new_tensor(self.centre)) / self.scale).float(), y)

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) for x [B, 2]: float64 [B], nats; -inf off the support."""
        x = x.double()
        return self.log_density_of_z(x * self.scale + x.new_tensor(self.centre)) + 2 * math.log(self.scale)

    def entropy(self) -> float:
        """Differential entropy of x, nats: what a perfect model's mean negative log-density tends to."""
        return self.entropy_of_z() - 2 * math.log(self.scale)

    def _entropy_on_grid(self, half_width: float, spacing: float) -> float:
        """-sum p log p over a square grid about the centre.

        The trapezoidal rule converges geometrically where the integrand is analytic and has vanished at the border
        (Trefethen & Weideman 2014): a Gaussian of standard deviation s needs a spacing of s / 4 for 1e-9.
        """
        axis = torch.arange(-half_width, half_width, spacing, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis) + torch.tensor(self.centre, dtype=torch.float64)
        log_p = torch.cat([self.log_density_of_z(part) for part in grid.split(8_192)])
        return -(log_p.exp() * log_p).sum().item() * spacing**2


def _log_normal(squared_distance: Tensor, std: float) -> Tensor:
    """Log-density of an isotropic Gaussian in the plane."""
    return -0.5 * squared_distance / std**2 - math.log(2 * math.pi * std**2)


class EightGaussians(Toy2D):
    """Eight equal Gaussians of standard deviation 0.5 on a circle of radius 4; y says which."""

    num_classes = 8
    radius = 4.0
    std = 0.5
    scale = math.sqrt(radius**2 / 2 + std**2)

    def _means(self) -> Tensor:
        angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def draw(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(8, (num,), generator=generator)
        noise = torch.randn(num, 2, generator=generator, dtype=torch.float64)
        return self._means()[y] + self.std * noise, y

    def log_density_of_z(self, z: Tensor) -> Tensor:
        squares = (z[:, None] - self._means().to(z.device)).square().sum(-1)
        return _log_normal(squares, self.std).logsumexp(1) - math.log(8)

    def entropy_of_z(self) -> float:
        return self._entropy_on_grid(self.radius + 8 * self.std, self.std / 4)


class TwoMoons(Toy2D):
    """Two interleaved half circles of radius 1 under Gaussian noise of standard deviation 0.1; y says which.

    Angles are uniform, so the density is an integral over the angle of one half circle, taken by Gauss-Legendre
    quadrature: out to six radii the integrand is a Gaussian at least 0.04 rad wide, and 256 nodes are 0.02 apart.
    """

    num_classes = 2
    std = 0.1
    centre = (0.5, 0.25)
    # variances of the coordinates: 1/2 + 1/4 and 1/2 - 4/pi^2 + (2/pi - 1/4)^2, and the noise in both
    scale = math.sqrt((0.75 + 0.5 - 4 / math.pi**2 + (2 / math.pi - 0.25) ** 2) / 2 + std**2)

    @staticmethod
    def _arc(angle: Tensor, moon: Tensor) -> Tensor:
        """The point of each moon (0 upper, 1 lower) at an angle in [0, pi]."""
        upper = torch.stack([angle.cos(), angle.sin()], dim=-1)
        lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], dim=-1)
        return torch.where(moon[..., None] == 0, upper, lower)

    def draw(self, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(2, (num,), generator=generator)
        angle = math.pi * torch.rand(num, generator=generator, dtype=torch.float64)
        noise = torch.randn(num, 2, generator=generator, dtype=torch.float64)
        return self._arc(angle, y) + self.std * noise, y

    def log_density_of_z(self, z: Tensor) -> Tensor:
        import numpy as np

        nodes, weights = (torch.from_numpy(a).to(z.device) for a in np.polynomial.legendre.leggauss(256))
        moon = torch.arange(2, device=z.device).repeat_interleave(len(nodes))
        means = self._arc((nodes.repeat(2) + 1) * (math.pi / 2), moon)
        squares = torch.cdist(z, means).square()
        # weights sum to 2 over one moon: divided by 4, the 512 points make a mixture
        return (_log_normal(squares, self.std) + (weights.repeat(2) / 4).log()).logsumexp(1)

    def entropy_of_z(self) -> float:
        return self._entropy_on_grid(1.5 + 8 * self.std, self.std / 4)


class Checkerboard(Toy2D):
    """Uniform on the eight dark cells, of side 2, of a 4 x 4 board on [-4, 4]^2. It has no labels."""

    num_classes = None
    scale = 4 / math.sqrt(3)

    def draw(self, num: int, generator: torch.Generator) -> tuple[Tensor, None]:
        column = torch.randint(4, (num,), generator=generator)
        row = 2 * torch.randint(2, (num,), generator=generator) + column % 2
        # midpoints of 2^18 bins, so that rounding to float32 moves no example across an edge, where its density is zero
        inside = (torch.randint(2**18, (num, 2), generator=generator).double() + 0.5) / 2**18
        return 2 * (torch.stack([column, row], dim=1) + inside) - 4, None

    def log_density_of_z(self, z: Tensor) -> Tensor:
        cell = (z / 2).floor().long() + 2
        dark = ((cell >= 0) & (cell < 4)).all(1) & (cell.sum(1) % 2 == 0)
        return torch.where(dark, z.new_tensor(-self.entropy_of_z()), -math.inf)

    def entropy_of_z(self) -> float:
        return math.log(32)
