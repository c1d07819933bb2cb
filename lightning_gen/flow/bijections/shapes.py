"""Numbers in other places: pixels as channels, images as vectors. Their log-determinant is 0."""

from __future__ import annotations

from math import prod

from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.flow.bijections.base import Bijection


class Squeeze(Bijection):
    """Two by two pixels become four times the channels, [C, H, W] -> [4 C, H / 2, W / 2] (Dinh et al. 2017, sec. 3.6).

    All channels of one of the four come before those of the next: half of the result is half of the pixels in all colours.

    Raises:
        UserError: for what is no image of even height and width.
    """

    def __init__(self, shape: tuple[int, ...], cond_dim: int | None = None) -> None:
        if len(shape) != 3 or shape[1] % 2 or shape[2] % 2:
            raise UserError(
                f"Squeeze halves images, and data of shape {tuple(shape)} cannot be halved: choose fewer levels, or a flow "
                "without, such as Steps or NICE"
            )
        super().__init__(shape, cond_dim, (4 * shape[0], shape[1] // 2, shape[2] // 2))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        pairs = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B, C, H/2, row, W/2, column
        return pairs.permute(0, 3, 5, 1, 2, 4).flatten(1, 3), x.new_zeros(len(x))

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        parts = z.unflatten(1, (2, 2, self.shape[0]))  # B, row, column, C, H/2, W/2
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(-1, *self.shape)


class Flatten(Bijection):
    """An example of any shape as a vector."""

    def __init__(self, shape: tuple[int, ...], cond_dim: int | None = None) -> None:
        super().__init__(shape, cond_dim, (prod(shape),))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        return z.reshape(-1, *self.shape)
