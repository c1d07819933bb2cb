"""Autoencoders: a map through a bottleneck, and any map in the place of a network that is told the noise level."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.networks.factory import MAP, made
from lightning_gen.networks.maps import Map

MapFactory = Callable[[tuple[int, ...], tuple[int, ...], int | None], nn.Module]
"""Makes a map from (in_shape, out_shape, cond_dim)."""


class Bottleneck(Map):
    """A decoder of what an encoder keeps, `features` numbers. The condition goes to both.

    Args:
        features: that the encoder gives.
        encoder: makes a map to (features,).
        decoder: makes a map from (features,).

    Raises:
        UserError: for a bottleneck of no width.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        cond_dim: int | None = None,
        *,
        features: int = 32,
        encoder: MapFactory,
        decoder: MapFactory,
    ) -> None:
        super().__init__(in_shape, out_shape, cond_dim)
        if features < 1:
            raise UserError(f"Bottleneck needs at least one feature, got features {features}")
        self.encoder = made(encoder, self.in_shape, (features,), cond_dim, key="encoder", like=MAP)
        self.decoder = made(decoder, (features,), self.out_shape, cond_dim, key="decoder", like=MAP)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.decoder(self.encoder(x, cond), cond)

    def start_at(self, value: Tensor) -> None:
        self.decoder.start_at(value)


class NoiseBlind(nn.Module):
    """A map as a network of a noisy example, which is not told how noisy it is: network(x, logsnr, cond) = map(x, cond).

    Args:
        shape: of the data.
        out_channels: of the output [B, out_channels, *shape[1:]].
        cond_dim: features of the condition; None for a map without one.
        network: makes the map.
    """

    def __init__(
        self, shape: tuple[int, ...], out_channels: int, cond_dim: int | None = None, *, network: MapFactory
    ) -> None:
        super().__init__()
        self.map = made(network, tuple(shape), (out_channels, *shape[1:]), cond_dim, like=MAP)

    def forward(self, x: Tensor, logsnr: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [B, *shape], logsnr [B] of no influence, cond [B, cond_dim] or None -> [B, out_channels, *shape[1:]]."""
        return self.map(x, cond).to(x.dtype)
