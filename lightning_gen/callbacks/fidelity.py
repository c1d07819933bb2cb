"""Sample quality inside the Trainer: a small one as training goes on, and the whole of it where `test` asks."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import Callback, Trainer

from lightning_gen.callbacks.periodic import Periodic, judging
from lightning_gen.callbacks.throughput import paused
from lightning_gen.errors import NonFiniteFeatures, NonFiniteSamples, UserError
from lightning_gen.evaluation.judge import Judge
from lightning_gen.evaluation.measured import Measured
from lightning_gen.evaluation.progress import Progress
from lightning_gen.evaluation.protocol import LikelihoodProtocol, Protocol
from lightning_gen.evaluation.ranks import Ranks
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.specs import overridden

LOGGED = ("fd", "fid", "kid")


class Fidelity(Periodic):
    """Logs `fidelity/fd` and `fidelity/kid` (and `fidelity/fid`, where the extractor is the one that bears the name) of a
    few samples of the averaged weights, every so many steps and at the end of training.

    The samples are those of the same indices each time. Neither the module tree nor a checkpoint knows of the extractor,
    and training's random state is left alone, so that a run is the same with and without. A small N has a large bias:
    these curves compare with each other, and not with the numbers of `evaluate`.

    Args:
        every_n_steps: optimizer steps between measurements, or 0 for none.
        num_samples: samples each time, over all ranks; more than the extractor has features.
        reference: the split that they are measured against. Not the test split: training is steered by what it shows.
        extractor: of the features, as in `evaluate`; the data set's own by default.
        sampler: replaces fields of the model's sampler, such as {"steps": 10}.
        batch_size: samples at a time, on each rank.
    """

    def __init__(
        self,
        every_n_steps: int = 0,
        num_samples: int = 1000,
        reference: str = "val",
        extractor: str | dict[str, Any] | None = None,
        sampler: dict[str, Any] | None = None,
        batch_size: int = 256,
    ) -> None:
        if every_n_steps < 0:
            raise UserError(f"fidelity.every_n_steps must be at least 0, not {every_n_steps}")
        super().__init__(every_n_steps)
        self.num_samples, self.reference = num_samples, reference
        self.extractor, self.sampler, self.batch_size = extractor, sampler, batch_size
        if num_samples < 2 or batch_size < 1:
            raise UserError(
                f"fidelity needs num_samples of at least 2 and a batch_size of 1, got {num_samples} and {batch_size}: "
                "every_n_steps 0 switches it off"
            )
        self._protocol = Protocol(num_samples, reference, extractor, sampler, LikelihoodProtocol(0), batch_size)
        self._judge: Judge | None = None

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.every_n_steps:  # refused now, not after the first thousand steps
            with paused(trainer):
                ranks = ranks_of(trainer)
                self._judge = ranks.agreed(
                    lambda: Judge(trainer.datamodule, self._protocol, pl_module.device, ranks, in_full=False)
                )

    def look(self, trainer: Trainer, module: GenerativeModule) -> None:
        judge = self._judge
        with judging(module), module.ema_scope():
            try:
                measured = judge.ranks.agreed(lambda: judge.of_model(module))
            except (NonFiniteSamples, NonFiniteFeatures) as error:  # training goes on, and may mend them
                if trainer.is_global_zero:
                    warnings.warn(f"no fidelity at step {trainer.global_step}: {error}", stacklevel=2)
                return
        metrics = {f"fidelity/{key}": measured.metrics[key] for key in LOGGED if key in measured.metrics}
        for logger in trainer.loggers if metrics else ():
            logger.log_metrics(metrics, step=trainer.global_step)


class TestFidelity(Callback):
    """Within `trainer.test`: the distances that `evaluate` reports, beside the likelihood that the loop takes.

    Args:
        protocol: as of `evaluate`; the loop takes the likelihood as it says.

    Attributes:
        measured: after the test, on the first rank.
        left_out: why there is no distance, or None.
    """

    __test__ = False  # to pytest: this is no test

    def __init__(self, protocol: Protocol) -> None:
        if protocol.reference != "test":
            split = protocol.reference
            raise UserError(f"`test` is about the split 'test': for {split!r} there is evaluate --reference {split}")
        self.protocol = protocol
        self.measured: Measured | None = None
        self.left_out: str | None = None

    def on_test_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        how = self.protocol.likelihood
        pl_module.eval_draws, pl_module.eval_seed = how.draws, self.protocol.seed
        pl_module.eval_estimator = overridden(getattr(pl_module, "bound", None), how.estimator)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        ranks = ranks_of(trainer)
        with judging(pl_module), pl_module.ema_scope(), Progress(ranks) as show:
            judge = ranks.agreed(lambda: Judge(trainer.datamodule, self.protocol, pl_module.device, ranks, show))
            self.measured = ranks.agreed(lambda: judge.of_model(pl_module, with_likelihood=False))
            self.left_out = judge.left_out


def ranks_of(trainer: Trainer) -> Ranks:
    """The ranks of a Trainer as those of an evaluation."""
    return Ranks(trainer.global_rank, trainer.world_size, trainer.local_rank)
