"""The networks of a hierarchy: the way down, the way up, and how the two meet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_gen.networks.factory import BLOCK, made
from lightning_gen.networks.maps import Map
from lightning_gen.vae.gaussians import DiagonalGaussian, asked, bounded
from lightning_gen.vae.hierarchy import BottomUp, Generator, Inference, TopDown

Block = Callable[[tuple[int, ...], tuple[int, ...], int | None, int], Map]
"""Makes a map network from (in_shape, out_shape, cond_dim, width)."""

Shape = tuple[int, ...]


class NetworkGenerator(Generator):
    """A block between every two layers, and one to the data.

    Args:
        shapes: of each layer's latents, z_1's first.
        widths: of the blocks below each layer.
        out_shape: what the observation model takes.
    """

    def __init__(
        self, shapes: Sequence[Shape], widths: Sequence[int], out_shape: Shape, block: Block, cond_dim: int | None
    ) -> None:
        super().__init__()
        self.shapes = list(shapes)
        self.to_data = made(block, shapes[0], out_shape, cond_dim, widths[0], key="block", like=BLOCK)
        downward = zip(pairwise(shapes), widths[1:])
        self.down = nn.ModuleList(
            made(block, above, twice(below), cond_dim, w, key="block", like=BLOCK) for (below, above), w in downward
        )

    def networks(self) -> Iterator[nn.Module]:
        """All its blocks."""
        yield self.to_data
        yield from self.down

    def conditional(self, layer: int, above: Tensor, cond: Tensor | None) -> DiagonalGaussian:
        return diagonal(asked(self.down[layer - 1], above, cond))

    def observe(self, z: Tensor, cond: Tensor | None) -> Tensor:
        return asked(self.to_data, z, cond)


class NetworkInference(Inference):
    """An inference made of blocks."""

    @abstractmethod
    def bind(
        self, shape: Shape, latents: Sequence[Shape], widths: Sequence[int], block: Block, cond_dim: int | None
    ) -> None:
        """Makes its networks, for data of this shape and a width for each layer of latents. Called once."""

    @abstractmethod
    def networks(self) -> Iterator[nn.Module]:
        """All its blocks."""


class BottomUpInference(BottomUp, NetworkInference):
    """A block from every layer to the next."""

    def bind(
        self, shape: Shape, latents: Sequence[Shape], widths: Sequence[int], block: Block, cond_dim: int | None
    ) -> None:
        upward = zip(pairwise([shape, *latents]), widths)
        self.up = nn.ModuleList(
            made(block, below, twice(above), cond_dim, w, key="block", like=BLOCK) for (below, above), w in upward
        )

    def networks(self) -> Iterator[nn.Module]:
        yield from self.up

    def posterior(self, layer: int, below: Tensor, cond: Tensor | None) -> DiagonalGaussian:
        return diagonal(asked(self.up[layer - 1], below, cond))


class Merge(ABC):
    """How what a layer's features say and what the layer above says make one posterior."""

    @abstractmethod
    def seen(self, features: Tensor, p: DiagonalGaussian) -> Tensor:
        """What the layer's network sees."""

    @abstractmethod
    def further(self, latent: Shape) -> int:
        """Channels of that beyond the features."""

    @abstractmethod
    def __call__(self, said: DiagonalGaussian, p: DiagonalGaussian) -> DiagonalGaussian:
        """q, from what the network said and p(z | above)."""


class Residual(Merge):
    """N(mean_p + dmean, (std_p dstd)^2): where the network says nothing, q is p and costs nothing (Vahdat and Kautz 2020,
    sec. 3.2). The network sees p too.
    """

    def seen(self, features: Tensor, p: DiagonalGaussian) -> Tensor:
        return torch.cat([features, p.mean.to(features.dtype), p.log_std.to(features.dtype)], 1)

    def further(self, latent: Shape) -> int:
        return 2 * latent[0]

    def __call__(self, said: DiagonalGaussian, p: DiagonalGaussian) -> DiagonalGaussian:
        return DiagonalGaussian(p.mean + said.mean, p.log_std + said.log_std)


class PrecisionWeighted(Merge):
    """The product of the two Gaussians, which is never wider than p: the ladder of Sonderby et al. (2016)."""

    def seen(self, features: Tensor, p: DiagonalGaussian) -> Tensor:
        return features

    def further(self, latent: Shape) -> int:
        return 0

    def __call__(self, said: DiagonalGaussian, p: DiagonalGaussian) -> DiagonalGaussian:
        share = torch.sigmoid(2 * (p.log_std - said.log_std))  # of what the features say, in the sum of the precisions
        mean = torch.lerp(p.mean, said.mean, share)
        return DiagonalGaussian(mean, -0.5 * torch.logaddexp(-2 * said.log_std, -2 * p.log_std))


class TopDownInference(TopDown, NetworkInference):
    """Features on a deterministic way up; each layer's posterior is made of them and of what the layer above says.

    Args:
        merge: how; `Residual` by default. At the top, with nothing above, the features have all the say.
        reader: makes the networks that turn features into Gaussians; the hierarchy's block by default.
    """

    def __init__(self, merge: Merge | None = None, reader: Block | None = None) -> None:
        super().__init__()
        self.merge, self.reader = merge or Residual(), reader

    def bind(
        self, shape: Shape, latents: Sequence[Shape], widths: Sequence[int], block: Block, cond_dim: int | None
    ) -> None:
        features = [(w, *latent[1:]) for w, latent in zip(widths, latents)]
        upward = zip(pairwise([shape, *features]), widths)
        self.up = nn.ModuleList(
            made(block, below, above, cond_dim, w, key="block", like=BLOCK) for (below, above), w in upward
        )
        further = [*(self.merge.further(latent) for latent in latents[:-1]), 0]
        seen = [(w + more, *latent[1:]) for w, more, latent in zip(widths, further, latents)]
        reader = self.reader or block
        self.across = nn.ModuleList(reader(s, twice(z), cond_dim, w) for s, z, w in zip(seen, latents, widths))

    def networks(self) -> Iterator[nn.Module]:
        yield from self.up
        yield from self.across

    def begin(self, x: Tensor, cond: Tensor | None) -> list[Tensor]:
        features = []
        for block in self.up:
            features.append(asked(block, features[-1] if features else x, cond))
        return features

    def posterior(
        self, layer: int, features: Tensor, above: Tensor | None, p: DiagonalGaussian, cond: Tensor | None
    ) -> DiagonalGaussian:
        seen = features if above is None else self.merge.seen(features, p)
        said = diagonal(asked(self.across[layer - 1], seen, cond))
        return said if above is None else self.merge(said, p)


def twice(latent: Shape) -> Shape:
    """The shape of means and log standard deviations of such latents."""
    return (2 * latent[0], *latent[1:])


def diagonal(out: Tensor) -> DiagonalGaussian:
    """The Gaussian that a block's output [N, 2 C, ...] means."""
    mean, log_std = out.chunk(2, dim=1)
    return DiagonalGaussian(mean, bounded(log_std))
