"""Observation: p(x | z), the distribution over the data that a decoder network's output stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lightning_gen.domains import Levels, integer_dtype
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.gaussians import precise

_CHUNK = 1 << 18
"""Elements of an intermediate on a CPU: above a MiB more time goes to its cache and to fresh pages than to arithmetic."""


class Observation(nn.Module, ABC):
    """p(x | z) from out [B, *out_shape], what the decoder puts out for z. It says no more of z than that.

    The elements of x are independent given z unless a class says otherwise. A new one defines `check`, `multiple` (or
    `out_shape`), `encode`, `terms`, `sample`, `mode`, `mean` and `initial`. Whatever dtype `out` has, computed is in float32,
    or in float64 where that is what it has.
    """

    integers: bool
    """Whether `log_prob` is the log-probability of integers; else it is a log-density."""

    shape: tuple[int, ...]
    levels: int | None

    def bind(self, shape: tuple[int, ...], levels: int | None) -> None:
        """Says of what data it is: x is [B, *shape], integers {0..levels-1} or, with None, real vectors. Once.

        Raises:
            UserError: it is not for such data.
        """
        self.check(levels)
        self.shape, self.levels = tuple(shape), levels

    @abstractmethod
    def check(self, levels: int | None) -> None:
        """Raises UserError for data that it is not for."""

    @property
    def multiple(self) -> int:
        """How many outputs of the network it takes for each element of x."""
        return 1

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Of the network's output for one example: x's, with the first dimension `multiple` times as long."""
        return (self.multiple * self.shape[0], *self.shape[1:])

    def split(self, out: Tensor) -> Tensor:
        """[..., multiple, *shape] of an output [..., *out_shape]."""
        return out.unflatten(-len(self.shape), (self.multiple, self.shape[0]))

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """What the encoder sees of the data: float32 [B, *shape]."""

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """log p(x | z), nats, [B].

        Args:
            out: [B, *out_shape], or [K B, *out_shape] for K samples of z: row k B + b is of example b. Then [K B].
            x: [B, *shape], in the data's own domain.
        """
        samples = precise(out).unflatten(0, (-1, len(x)))
        # the examples of a sample are not split: a batch of them is small enough
        return torch.cat([self.terms(part, x).flatten(2).sum(2) for part in pieces(samples)]).flatten()

    @abstractmethod
    def terms(self, out: Tensor, x: Tensor) -> Tensor:
        """What sums to log p(x | z), nats, [K, B, ...], from out [K, B, *out_shape] and x [B, *shape]."""

    @abstractmethod
    def sample(self, out: Tensor, rng: RandomSource) -> Tensor:
        """x ~ p(x | z), [B, *shape] in the data's own domain."""

    @abstractmethod
    def mode(self, out: Tensor) -> Tensor:
        """The most probable x, [B, *shape] in the data's own domain."""

    @abstractmethod
    def mean(self, out: Tensor) -> Tensor:
        """E[x | z] in the data's units (0..L-1 for integers), float32 [B, *shape]."""

    @abstractmethod
    def initial(self, x: Tensor) -> Tensor:
        """The output [*out_shape], float32, that is a good start for data x [N, *shape] whatever z.

        Called once, before training: what the observation itself learns starts at these data as well.
        """

    def observe(self, out: Tensor, x: Tensor) -> None:
        """Takes note of a training batch and of what was put out for it, no gradient. Shapes as for `log_prob`."""


class LevelObservation(Observation):
    """Of integers {0..L-1}; the encoder sees them at L equally spaced points of [-1, 1]."""

    integers = True

    def check(self, levels: int | None) -> None:
        if levels is None:
            name = type(self).__name__
            raise UserError(
                f"{name} is of integers and these data are real vectors: take FixedGaussian, LearnedGaussian or "
                "CalibratedGaussian as model.init_args.observation"
            )

    def encode(self, x: Tensor) -> Tensor:
        return Levels(self.levels).encode(x)

    def as_data(self, index: Tensor) -> Tensor:
        """Levels in the data's own dtype."""
        return index.to(integer_dtype(self.levels))


def pieces(rows: Tensor) -> tuple[Tensor, ...]:
    """Some rows at a time: as many as are fast on a CPU, elsewhere all."""
    return rows.split(max(1, _CHUNK // rows[0].numel())) if rows.device.type == "cpu" else (rows,)


def moments(v: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, the latter at least `least`, of each element over the examples of v [N, ...]; float32."""
    var, mean = torch.var_mean(v.double(), dim=0, correction=0)
    return mean.float(), var.sqrt().clamp(min=least).float()
