"""A network as what it says of x_0."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lightning_gen.conditional import condition_or_null
from lightning_gen.discrete_diffusion.encodings import Encoding
from lightning_gen.discrete_diffusion.heads import Head
from lightning_gen.networks.factory import checked
from lightning_gen.networks.layers import own_dtype


class Predictor(ABC):
    """log w of x_t: see `Process`. Closed forms and guided networks are such too."""

    @abstractmethod
    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Tensor:
        """[B, *shape, L], normalised, at least float32, of x_t int64 [B, *shape] and logsnr float32 [B]."""


class NetworkPredictor(Predictor):
    """A network between an encoding and a head.

    Args:
        network: called as network(x, logsnr, cond).
        encoding: of its input.
        head: of its output.
        levels: L.
        states: L, or L + 1 with a mask.
        conditioner: of y, or None.
        timeless: tell the network nothing of the noise level; it sees how much is masked.
    """

    def __init__(
        self,
        network: nn.Module,
        encoding: Encoding,
        head: Head,
        levels: int,
        states: int,
        conditioner: nn.Module | None = None,
        timeless: bool = False,
    ) -> None:
        self.network, self.encoding, self.head = network, encoding, head
        self.levels, self.states, self.conditioner, self.timeless = levels, states, conditioner, timeless

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        """`drop` [B] replaces those rows' y by the null condition."""
        cond = condition_or_null(self.conditioner, y, x_t, drop)
        x = self.encoding(x_t, self.levels, self.states)
        x = x.to(own_dtype(self.network, x.dtype))
        logsnr = logsnr.expand(len(x_t))
        out = self.network(x, torch.zeros_like(logsnr) if self.timeless else logsnr, cond)
        channels = (x_t.shape[1] if x_t.ndim == 4 else 1) * self.head.numbers(self.levels)
        checked(self.network, out, (len(x), channels, *x.shape[2:]))
        # logarithms of small probabilities are nothing for 16 bits
        with torch.autocast(out.device.type, enabled=False):
            return self.head(out.to(torch.promote_types(out.dtype, torch.float32)), x_t, self.levels)


class Conditioned:
    """A predictor with y bound to it, and a temperature; it counts what it is asked: what a sampler goes by."""

    def __init__(self, predictor: Predictor, y: Tensor | None, temperature: float = 1.0) -> None:
        self.predictor, self.y, self.temperature, self.evaluations = predictor, y, temperature, 0

    def __call__(self, x_t: Tensor, logsnr: Tensor) -> Tensor:
        self.evaluations += 1
        log_w = self.predictor(x_t, logsnr, self.y)
        return log_w if self.temperature == 1 else (log_w / self.temperature).log_softmax(-1)
