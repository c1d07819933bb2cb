"""Binary pixels, each 1 with a probability of its own."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.observations.base import LevelObservation, precise


class Bernoulli(LevelObservation):
    """p(x = 1 | z) = sigmoid(out), of binary data only; the encoder sees 0 and 1."""

    def check(self, levels: int | None) -> None:
        super().check(levels)
        if levels != 2:
            raise UserError(
                f"Bernoulli is of binary data and these have {levels} levels (cross-entropy on greys is no likelihood): "
                "set data.init_args.binarization, or take DiscretizedLogistic or Categorical as the observation"
            )

    def encode(self, x: Tensor) -> Tensor:
        return x.float()

    def terms(self, out: Tensor, x: Tensor) -> Tensor:
        # x out - softplus(out), without the difference, and faster
        return F.logsigmoid(out * (2 * x.to(out.dtype) - 1))

    def sample(self, out: Tensor, rng: RandomSource) -> Tensor:
        return self.as_data(rng.uniform(out.shape) < precise(out).sigmoid())

    def mode(self, out: Tensor) -> Tensor:
        return self.as_data(out > 0)

    def mean(self, out: Tensor) -> Tensor:
        return precise(out).sigmoid().float()

    def initial(self, x: Tensor) -> Tensor:
        """The logit of the pixels' means, each with half a 0 and half a 1 added to the data."""
        return ((x.double().sum(0) + 0.5) / (len(x) + 1)).logit().float()
