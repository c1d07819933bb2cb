"""From integers to points of the unit cube: a random first layer of a flow, whose density of noise is in the likelihood."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial

import torch
from torch import Tensor, nn

from lightning_gen.domains import Levels, integer_dtype
from lightning_gen.errors import UserError
from lightning_gen.flow.architectures import Steps
from lightning_gen.flow.bases import logistic, logistic_log_prob
from lightning_gen.flow.bijections.base import per_example
from lightning_gen.flow.bijections.coupling_masks import CheckerboardMask, Mask, MaskFactory, VectorMask
from lightning_gen.flow.bijections.transforms import Transform
from lightning_gen.networks.maps import Network
from lightning_gen.random_source import RandomSource


class Dequantization(nn.Module, ABC):
    """v = (x + u) / L with noise u ~ q(u | x) in [0, 1)^D, so that x = floor(L v).

    With p the density of v: log P(x) >= E_q [log p(v) - log q(u | x)] - D log L (Theis et al. 2016; Ho et al. 2019).

    Attributes:
        kind: of that bound: `dequantized` where the noise is uniform, else `elbo`.
    """

    kind: str

    def bind(self, shape: tuple[int, ...], levels: int, cond_dim: int | None = None) -> None:
        """Makes its weights, for integers of `shape` in {0..levels-1} and conditions of so many features. Called once."""
        self.shape, self.levels = tuple(shape), levels

    @abstractmethod
    def noise(self, x: Tensor, rng: RandomSource | None, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u [B, *shape] and -log q(u | x) [B] in nats, for integers x; without a source the middle of q."""

    def forward(self, x: Tensor, rng: RandomSource | None, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """v [B, *shape] and the term of the bound, -log q(u | x) - D log L [B]."""
        u, weight = self.noise(x, rng, cond)
        inside = self.levels * 2.0**-22  # in float32 x + u would else round to x + 1, the last one to the cube's side
        return (x + u.clamp(inside, 1 - inside)) / self.levels, weight - x[0].numel() * math.log(self.levels)

    def quantize(self, v: Tensor) -> Tensor:
        """The integers of v, those outside of the cube at its sides: uint8, int64 above 256 levels."""
        index = (v * self.levels).floor().clamp(0, self.levels - 1)
        return index.to(integer_dtype(self.levels))

    def expected(self, v: Tensor) -> Tensor:
        """v in the units of the data, whose integers are the middles of their bins, cut at both ends."""
        return (v * self.levels - 0.5).clamp(0, self.levels - 1)


class UniformDequantization(Dequantization):
    """u ~ U[0, 1)^D: the density is averaged over each bin."""

    kind = "dequantized"

    def noise(self, x: Tensor, rng: RandomSource | None, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u = torch.full(x.shape, 0.5, dtype=torch.float32, device=x.device) if rng is None else rng.uniform(x.shape)
        return u, u.new_zeros(len(x))


class BesideContext(Mask):
    """Another mask on the second half of the channels; the first half never changes, and the network sees all of it."""

    def __init__(self, shape: tuple[int, ...], flip: bool, mask: MaskFactory) -> None:
        super().__init__(shape, flip)
        half = (shape[0] // 2, *shape[1:])
        self.inner = mask(half, flip)
        self.given_shape = (half[0] + self.inner.given_shape[0], *self.inner.given_shape[1:])
        self.active_shape = self.inner.active_shape

    def network_shape(self, features: int) -> tuple[int, ...]:
        return self.inner.network_shape(features)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        context, own = x.chunk(2, 1)
        given, active = self.inner.split(own)
        return torch.cat([context, given], 1), active

    def parameters_of(self, out: Tensor, features: int) -> Tensor:
        return self.inner.parameters_of(out, features)

    def merge(self, x: Tensor, active: Tensor) -> Tensor:
        context, own = x.chunk(2, 1)
        return torch.cat([context, self.inner.merge(own, active)], 1)


class VariationalDequantization(Dequantization):
    """u = sigmoid(g(eps; x)), g a small flow of couplings that see x, eps logistic (Ho et al. 2019, Flow++, sec. 3.1).

    In a conditional model the couplings are told the condition too.

    A new one is uniform: g starts as the identity, and the sigmoid of a logistic variable is uniform.

    Args:
        network: of the couplings.
        transform: of the couplings; `Affine` by default.
        steps: couplings, which take turns with the half that they change: checkerboards of images, components of vectors.
    """

    kind = "elbo"

    def __init__(self, network: Network, transform: Transform | None = None, steps: int = 4) -> None:
        super().__init__()
        if steps < 1:
            raise UserError(f"variational dequantization needs a step or more, not {steps}")
        self.network_factory, self.transform, self.steps = network, transform, steps

    def bind(self, shape: tuple[int, ...], levels: int, cond_dim: int | None = None) -> None:
        super().bind(shape, levels, cond_dim)
        board = len(shape) == 3 and shape[1] * shape[2] > 1
        mask = partial(BesideContext, mask=CheckerboardMask if board else VectorMask)
        with_context = (2 * shape[0], *shape[1:])
        parts = {"network": self.network_factory, "transform": self.transform, "steps": self.steps}
        self.flow = Steps(with_context, cond_dim, **parts, mask=mask, norm=None)

    def noise(self, x: Tensor, rng: RandomSource | None, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        eps = (
            torch.zeros(x.shape, dtype=torch.float32, device=x.device) if rng is None else logistic(rng, tuple(x.shape))
        )
        moved, log_det = self.flow(torch.cat([Levels(self.levels).encode(x), eps], 1), cond)
        h = moved.chunk(2, 1)[1]
        # q(u | x) = logistic(eps) / (|det dg/deps| sigmoid'(h))
        log_q = per_example(logistic_log_prob(eps) - logistic_log_prob(h)) - log_det
        return h.sigmoid(), -log_q
