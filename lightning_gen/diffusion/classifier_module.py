"""NoisyClassifier: p(y | x_t) at every noise level, for `ClassifierGuidance`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_gen.diffusion.decoders import LevelDecoder, VectorDecoder
from lightning_gen.diffusion.denoisers import asked
from lightning_gen.diffusion.paths import GaussianPath, NoiseLevel, VariancePreserving
from lightning_gen.diffusion.schedules import Cosine, NoiseSchedule
from lightning_gen.diffusion.time_samplers import LowDiscrepancy, TimeSampler
from lightning_gen.errors import IncompatibleAxes, UserError
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.networks.factory import made
from lightning_gen.random_source import RandomSource


class NoisyClassifier(GenerativeModule):
    """A classifier of data under noise (Dhariwal & Nichol 2021, sec. 4). It has no likelihood and draws no samples.

    Args:
        network: makes the network from (shape, num_classes, None); called as network(x, logsnr, None) -> logits.
        schedule: the noise levels it learns; its ends must reach as far as those of the diffusion that it will guide.
        path: the scale that goes with it.
        time_sampler: where the training times are drawn. The loss is the mean under uniform times whichever it is.

    Raises:
        UserError: for data without classes.
        IncompatibleAxes: for a schedule that is learned; by what?
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        network: Callable[[tuple[int, ...], int, int | None], nn.Module],
        schedule: NoiseSchedule | None = None,
        path: GaussianPath | None = None,
        time_sampler: TimeSampler | None = None,
        optimizer: Callable[[Any], Optimizer] = lambda params: AdamW(params, lr=1e-3, weight_decay=0.05, fused=True),
        lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__(shape, levels, num_classes, optimizer, lr_schedule, compile)
        self.network_factory = network
        self.schedule = schedule or Cosine()
        self.path = path or VariancePreserving()
        self.time_sampler = time_sampler or LowDiscrepancy()
        self.decoder = VectorDecoder() if levels is None else LevelDecoder(levels)
        if num_classes is None:
            raise UserError("NoisyClassifier needs data with class labels, these have none")
        if self.schedule.learned:
            raise IncompatibleAxes(
                f"a classifier has no bound that {type(self.schedule).__name__} could be learned by: choose a fixed schedule"
            )

    def build(self) -> None:
        self.network = made(self.network_factory, self.shape, self.num_classes, None)

    def networks(self):
        yield self.network

    def logits(self, x_t: Tensor, level: NoiseLevel) -> Tensor:
        """x_t [B, *shape] at a level -> [B, num_classes], in x_t's dtype."""
        shape = (len(x_t), self.num_classes)
        return asked(self.network, x_t, level, self.path.input_scale(level), None, shape)

    def log_prob(self, x_t: Tensor, logsnr: Tensor, y: Tensor) -> Tensor:
        """log p(y | x_t), [B] in nats, at log-SNR [B] or [], for labels int64 [B]."""
        level = self.path.at(self.schedule, self.schedule.time(logsnr.double()))
        return -cross_entropy(self.logits(x_t, level), y, reduction="none")

    def training_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Cross-entropy in nats and whether the guess is right, of each example, weighted as uniform times would be."""
        if y is None or y.is_floating_point():
            raise UserError("NoisyClassifier learns from class labels, and this data set gives none")
        draws = self.draws(x)
        x0 = self.decoder.encode(x)
        t = self.time_sampler.sample(draws.total, draws.shared, self.schedule)[draws.rows]
        level = self.path.at(self.schedule, t)
        logits = self.logits(level.diffuse(x0, draws.own.normal(x0.shape)), level)
        density = self.time_sampler.density(level)
        losses = cross_entropy(logits, y, reduction="none") / density
        if self.training:
            self.time_sampler.observe(level, losses.detach(), draws.total)
        return {"loss": losses, "accuracy": (logits.argmax(1) == y) / density}

    def sample(
        self, num: int, y: Tensor | None = None, *, sampler: Any | None = None, rng: RandomSource | None = None
    ) -> Tensor:
        raise UserError(
            "a NoisyClassifier draws no samples: give its run to a diffusion's sampler.guidance, ClassifierGuidance, "
            "and set samples.every_n_steps to 0 in its own training"
        )
