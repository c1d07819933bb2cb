"""A flow from data to latents, with all that stands before and behind its bijections. No Lightning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gen.errors import NonFiniteSamples, UserError
from lightning_gen.flow.bases import Base
from lightning_gen.flow.bijections.base import Bijection
from lightning_gen.flow.bijections.elementwise import Logit
from lightning_gen.flow.dequantization import Dequantization
from lightning_gen.over_ranks import rows_of_rank
from lightning_gen.random_source import RandomSource


@dataclass(frozen=True)
class FlowModel:
    """x -> (dequantization ->) (logit ->) bijection -> latents [B, D], distributed as the base.

    Attributes:
        flow: from what comes before, [B, *shape], to the latents.
        base: of the latents.
        dequantization: of integers; None for real vectors.
        logit: from the unit cube to the reals; None where the flow takes the points of the cube themselves.
    """

    flow: Bijection
    base: Base
    dequantization: Dequantization | None = None
    logit: Logit | None = None

    @property
    def latents(self) -> int:
        """D."""
        return math.prod(self.flow.out_shape)

    @property
    def kind(self) -> str:
        """Of the likelihood that `terms` add up to."""
        return "density" if self.dequantization is None else self.dequantization.kind

    def terms(self, x: Tensor, cond: Tensor | None, rng: RandomSource) -> dict[str, Tensor]:
        """Nats [B] that add up to log p(x), or to a bound of log P(x) of integers."""
        v, terms = self.floats(x, rng, cond)
        return {**terms, **self.density(v, cond)}

    def floats(
        self, x: Tensor, rng: RandomSource | None, cond: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Floats of x, and the term of their noise; without a source its middle."""
        if self.dequantization is None:
            return x.to(torch.promote_types(x.dtype, torch.float32)), {}
        v, term = self.dequantization(x, rng, cond)
        return v, {"dequantization": term}

    def density(self, v: Tensor, cond: Tensor | None) -> dict[str, Tensor]:
        """Terms of log p(v), nats [B], of floats v [B, *shape]: `logit`, `log_det`, `base`."""
        v, terms = self._reals(v)
        z, log_det = self.flow(v, cond)
        return {**terms, "log_det": log_det, "base": self.base.log_prob(z.flatten(1))}

    def _reals(self, v: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the bijection takes of floats, and the logit's term where there is one."""
        if self.logit is None:
            return v, {}
        reals, term = self.logit(v)
        return reals, {"logit": term}

    @torch.no_grad()
    def initialize(self, x: Tensor, cond: Tensor | None, rng: RandomSource) -> None:
        """The layers' data-dependent start on a batch x, the same on every rank, each of which computes its share."""
        v, _ = self.floats(x, rng, cond)
        share = rows_of_rank(len(v))
        v, cond = v[share], None if cond is None else cond[share]
        self.flow.initialize(self._reals(v)[0], cond)

    def encode(self, x: Tensor, cond: Tensor | None, rng: RandomSource | None) -> Tensor:
        """All latents [B, D] of x; of integers with a draw of noise, or without a source at the middles of their bins."""
        v, _ = self.floats(x, rng, cond)
        return self.flow(self._reals(v)[0], cond)[0].flatten(1)

    def decode(self, z: Tensor, cond: Tensor | None) -> Tensor:
        """Floats [B, *shape] of latents [B, D]; of integers points of the unit cube or beside it.

        Raises:
            UserError: other than D latents.
        """
        if z.ndim != 2 or z.shape[1] != self.latents:
            raise UserError(f"this flow decodes latents of shape (B, {self.latents}), not {tuple(z.shape)}")
        v = self.flow.inverse(z.unflatten(1, self.flow.out_shape), cond)
        return v if self.logit is None else self.logit.inverse(v)

    def to_data(self, v: Tensor) -> Tensor:
        """Floats in the data's own domain.

        Raises:
            NonFiniteSamples: some are NaN or infinite.
        """
        if not v.isfinite().all():
            raise NonFiniteSamples("the flow decodes latents to points that are not finite: its training has diverged")
        return v if self.dequantization is None else self.dequantization.quantize(v)
