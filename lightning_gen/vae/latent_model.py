"""What the families with latent variables share: a pass of inference and generation, and what its terms are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_gen.random_source import RandomSource
from lightning_gen.vae.observations import Observation


@dataclass(frozen=True)
class Pass:
    """K samples of the posterior of each of B examples, and what they weigh, in nats.

    Attributes:
        reconstruction: log p(x | z), [K, B].
        kl: for each layer, z_1's first, [K, B, n] or [1, B, n]: a sample of log q - log p, or the divergence itself, in n
            parts that add up; n is the number of dimensions where it splits so, else 1.
        z: the samples, for each layer [K, B, *latent].
        out: what the decoder said, [K B, ...].
    """

    reconstruction: Tensor
    kl: tuple[Tensor, ...]
    z: tuple[Tensor, ...]
    out: Tensor

    def layers(self) -> list[Tensor]:
        """Each layer's divergence, [K, B] or [1, B] nats."""
        return [layer.sum(2) for layer in self.kl]

    def log_weight(self) -> Tensor:
        """log p(x, z) - log q(z | x), [K, B] nats: of a pass whose divergences were sampled."""
        return self.reconstruction - sum(self.layers())


class LatentModel(ABC):
    """p(x, z) and q(z | x): networks joined, without weights of its own.

    A new one defines `infer`, `weigh`, `generate`, `encode` and `decode`.

    Attributes:
        observation: p(x | z), bound to the data.
        num_layers: of latents.
        latents: numbers in the latents of one example.
    """

    observation: Observation
    num_layers: int = 1
    latents: int

    @abstractmethod
    def infer(self, x: Tensor, cond: Tensor | None) -> Any:
        """What of q(z | x) is computed once, whatever the number of samples; `weigh` takes it."""

    @abstractmethod
    def weigh(
        self,
        x: Tensor,
        inferred: Any,
        cond: Tensor | None,
        num: int,
        rng: RandomSource,
        *,
        sampled: bool,
        path_only: bool = False,
    ) -> Pass:
        """`num` samples of the posterior of x [B, *shape].

        Args:
            rng: what is drawn has num * B rows, all examples of the first sample first.
            sampled: take log q - log p at the samples, in the place of divergences in closed form.
            path_only: let the posterior's parameters move log q through the samples alone, as DReG asks.
        """

    @abstractmethod
    def generate(self, num: int, cond: Tensor | None, rng: RandomSource, temperature: float) -> Tensor:
        """What the decoder says at `num` samples of the prior, whose standard deviations are scaled by `temperature`."""

    @abstractmethod
    def encode(self, x: Tensor, cond: Tensor | None, rng: RandomSource | None) -> Tensor:
        """Latents [B, latents] of x: the posterior's mean, or a sample of it where there is a source."""

    @abstractmethod
    def decode(self, z: Tensor, cond: Tensor | None) -> Tensor:
        """What the decoder says at latents [B, latents]."""
