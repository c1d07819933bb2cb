"""Numbers in other places: pixels as channels, images as vectors. Their log-determinant is 0."""

from __future__ import annotations

from math import prod

from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from lightning_gen.errors import UserError
from lightning_gen.flow.bijections.base import Bijection


class Squeeze(Bijection):
    """Two by two pixels become four channels each, [C, H, W] -> [4 C, H / 2, W / 2] (Dinh et al. 2017, sec. 3.6).

    Raises:
        UserError: for what is no image of even height and width.
    """

    def __init__(self, shape: tuple[int, ...], cond_dim: int | None = None) -> None:
        if len(shape) != 3 or shape[1] % 2 or shape[2] % 2:
            raise UserError(
                f"a flow of several levels halves images, and shape {tuple(shape)} cannot be halved: choose fewer levels"
            )
        super().__init__(shape, cond_dim, (4 * shape[0], shape[1] // 2, shape[2] // 2))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        return pixel_shuffle(z, 2)


class Flatten(Bijection):
    """An example of any shape as a vector."""

    def __init__(self, shape: tuple[int, ...], cond_dim: int | None = None) -> None:
        super().__init__(shape, cond_dim, (prod(shape),))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        return z.reshape(-1, *self.shape)
