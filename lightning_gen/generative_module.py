"""GenerativeModule: the contract every family meets, and the training it shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_gen.divergence import LossWatch
from lightning_gen.domains import domain_of
from lightning_gen.errors import NoLikelihood, UserError
from lightning_gen.likelihood import Likelihood
from lightning_gen.loggers import count_steps, is_logged
from lightning_gen.means import MeanOverExamples, batch_mean
from lightning_gen.optim import clip_gradients
from lightning_gen.random_source import (
    GeneratorSource,
    IndexedSource,
    LossDraws,
    RandomSource,
    derive_seed,
    seed_global_state,
)
from lightning_gen.run_directory import CHECKPOINT_KEY

SCHEMA = 1
"""Version of what stands under `CHECKPOINT_KEY`."""

EVALUATION_SEED = 0
"""Seed of the noise of validation and test: the same for every run, so that curves can be compared pair by pair."""


class WeightAverages(Protocol):
    """What a module asks of the callback that keeps averages of its weights."""

    def scope(self, module: GenerativeModule, name: str | None = None) -> AbstractContextManager[None]: ...

    def write(self, module: GenerativeModule, checkpoint: dict[str, Any]) -> None: ...

    def read(self, module: GenerativeModule, checkpoint: dict[str, Any]) -> None: ...


class GenerativeModule(LightningModule, ABC):
    """A generative model of data with `shape`, `levels` and `num_classes` (the data module's; no config states them).

    A family defines `build`, `training_loss`, `sample` and, if it has one, `log_likelihood`.

    Args:
        shape: of one example: (C, H, W), (N,) or (D,).
        levels: L of integers {0..L-1}, or None for real vectors.
        num_classes: of the labels, or None where the data have none.
        optimizer: makes the optimizer from the parameters.
        lr_schedule: makes the learning-rate schedule, stepped once per optimizer step, or None for a constant rate.
        compile: compile the networks in place with torch.compile when training starts.
        eval_draws: noise draws per example of the likelihood that validation and test report.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        optimizer: Callable[[Any], Optimizer] = lambda params: AdamW(params, lr=1e-3, weight_decay=0.0, fused=True),
        lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
        compile: bool = False,
        eval_draws: int = 1,
    ) -> None:
        super().__init__()
        self.shape, self.levels, self.num_classes = tuple(shape), levels, num_classes
        self.optimizer_factory, self.lr_schedule_factory = optimizer, lr_schedule
        self.compile_networks, self.eval_draws = compile, eval_draws
        self.eval_estimator: Any | None = None  # of the likelihood that is tested; the family's own by default
        self.eval_seed = EVALUATION_SEED
        self.seed = 0  # of the run; the command line sets it
        self.recipe: dict[str, Any] | None = None  # what rebuilds this module and its data; the command line sets it
        self.symbols: str | None = None  # symbol i is what level i stands for, in text; the command line sets it
        self.training_recipe: dict[str, Any] | None = None  # what else its training depended on; the command line too
        self.weights = "raw"  # which weights the parameters hold: `lightning_gen.load` sets it
        self.averages: WeightAverages | None = None
        self.measured: dict[str, tuple[float, float]] = {}  # the last validation's or test's means and standard errors
        self.num_measured = 0  # the examples that they are of
        self.likelihood_kind: str | None = None
        self.likelihood_terms: tuple[str, ...] = ()
        self._means = MeanOverExamples()
        self._parts: dict[str, Tensor] = {}  # of a logged step's loss, added up over its micro-batches
        self.losses = LossWatch()
        self.judged_step = 0  # of the weights that are tested; the command line sets it
        self.warm_start: Callable[[GenerativeModule], None] | None = None  # fills a new run's weights from another's
        self._draws: LossDraws | None = None
        self._built = self._fresh = False  # fresh: built by `fit`, its weights of no checkpoint and not yet initialized

    # ---- what a family defines ------------------------------------------------------------------------------------

    @abstractmethod
    def build(self) -> None:
        """Makes the networks, now that the data's shape is known. Called once."""

    @abstractmethod
    def training_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """`loss` and its named parts, each [B], or a mean over the batch, []. All its randomness is `self.draws(x)`."""

    @abstractmethod
    def sample(
        self, num: int, y: Tensor | None = None, *, sampler: Any | None = None, rng: RandomSource | None = None
    ) -> Tensor:
        """[num, *shape] in the data's own domain: integers where `levels` is set.

        Args:
            y: conditions [num, ...]; None draws labels for a conditional model: the samples are the mixture over labels.
            sampler: of the family; the module's own by default.
            rng: an `IndexedSource` of indices 0..num-1 with seed 0 by default.
        """

    def log_likelihood(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        estimator: Any | None = None,
        draws: int = 1,
        rng: RandomSource | None = None,
    ) -> Likelihood:
        """Per-example log-likelihood of data in their own domain, given y; never holds the loss's knobs.

        Raises:
            UserError: data of another domain; a conditional model without y, whose samples are then a mixture.
            NoLikelihood: if the family has none.
        """
        raise NoLikelihood(f"{type(self).__name__} has no likelihood")

    def initialize(self, x: Tensor, y: Tensor | None = None) -> None:
        """Data-dependent start on one global batch, in place: once, before averaging and compiling see the weights."""

    def networks(self) -> Iterator[nn.Module]:
        """The networks that `compile` compiles."""
        return iter(())

    def check_data(self, x: Tensor) -> None:
        """Raises UserError for data of another shape or domain. Reads from the device: not for training steps."""
        if tuple(x.shape[1:]) != self.shape:
            raise UserError(f"the data have shape {('B', *self.shape)}, not {tuple(x.shape)}".replace("'", ""))
        domain_of(self.levels).check(x)

    # ---- randomness -----------------------------------------------------------------------------------------------

    def draws(self, x: Tensor) -> LossDraws:
        """The randomness of the loss at hand. Outside `fit` it is torch's global state, the batch being the whole."""
        if self._draws is not None:
            return self._draws
        source = GeneratorSource(device=x.device)
        return LossDraws(torch.arange(len(x), device=x.device), len(x), source, source)

    def default_rng(self, num: int) -> RandomSource:
        """What `sample` and `log_likelihood` draw from when they are given no source."""
        return IndexedSource(EVALUATION_SEED, range(num), self.device)

    @contextmanager
    def drawing(self, draws: LossDraws) -> Iterator[None]:
        """`training_loss` draws from `draws` within this scope."""
        self._draws, before = draws, self._draws
        try:
            yield
        finally:
            self._draws = before

    # ---- building and saving --------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        if self._trainer is not None:
            count_steps(self._trainer)
        if self._built:
            return
        self.build()
        self._built = True
        self._fresh = self._trainer is not None and self._trainer.training
        if self._fresh and self.warm_start is not None:
            self.warm_start(self)
            self._fresh = False

    def on_fit_start(self) -> None:
        # Here and not in configure_model: only now is it known whether a checkpoint has brought the weights.
        data = self.trainer.datamodule
        if self._fresh and data is not None and type(self).initialize is not GenerativeModule.initialize:
            first = data.first_batch()
            self.initialize(first.x.to(self.device), None if first.y is None else first.y.to(self.device))
        self._fresh = False
        if self.compile_networks:
            for network in self.networks():
                network.compile()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = {
            "schema": SCHEMA,
            "recipe": self.recipe,
            "training": self.training_recipe,
            "data": {"shape": list(self.shape), "levels": self.levels, "num_classes": self.num_classes},
            "symbols": self.symbols,
        }
        if self.averages is not None:
            self.averages.write(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._fresh = False
        if self.averages is not None:
            self.averages.read(self, checkpoint)

    def ema_scope(self, name: str | None = None) -> AbstractContextManager[None]:
        """Within it the parameters are their average: the first decay's, or the named one's. No averages: no change."""
        return self.averages.scope(self, name) if self.averages is not None else nullcontext()

    # ---- optimisation ---------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory([p for p in self.parameters() if p.requires_grad])
        if self.lr_schedule_factory is None:
            return optimizer
        schedule = self.lr_schedule_factory(optimizer)
        if getattr(schedule, "total_steps", 0) is None and self.trainer.max_steps > 0:  # as long as the training
            schedule.total_steps = self.trainer.max_steps
        return [optimizer], [{"scheduler": schedule, "interval": "step", "frequency": 1}]

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips with fused optimizers too, and logs the norm.

        Lightning refuses to clip for a fused optimizer in mixed precision, although only the loss scaler of 16-mixed
        has anything to undo first.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        norm = clip_gradients(optimizer, gradient_clip_val or 0.0, gradient_clip_algorithm or "norm", self._logs_now())
        if self._logs_now():
            self._log_training({**self._parts, "optim/grad_norm": norm})

    def _logs_now(self) -> bool:
        """Whether the step at hand is one that reaches the loggers; others pay nothing for logging."""
        return is_logged(self.trainer, self.trainer.global_step + 1)

    def _log_training(self, metrics: dict[str, Tensor]) -> None:
        """Writes a step's metrics, means over ranks and micro-batches, at the number of steps it completes.

        Not through `self.log`: Lightning counts steps from 0 and rounds what it logs to the default dtype.
        """
        trainer, self._parts = self.trainer, {}
        values = torch.stack([value.detach().float() for value in metrics.values()])
        values = trainer.strategy.reduce(values, reduce_op="mean").tolist()
        for logger in trainer.loggers:
            logger.log_metrics(dict(zip(metrics, values)), step=trainer.global_step + 1)
        self.check_losses()  # after what is logged: the curve shows where it went

    def check_losses(self) -> None:
        """Raises Diverged, on all ranks, if a loss since the last look was NaN or infinite. Not for every step: waits."""
        self.losses.check(self.largest)

    def largest(self, value: Tensor) -> Tensor:
        """The largest of all ranks' values."""
        return self.trainer.strategy.reduce(value, reduce_op="max")

    # ---- steps ----------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout and the loss draw from the global state, and the state of this step is a function of
        # (seed, step, rank): a resumed run repeats itself with no random state in the checkpoint.
        trainer = self.trainer
        micro = batch_idx % trainer.accumulate_grad_batches
        seed_global_state(derive_seed(self.seed, "step", trainer.global_step, micro, self.global_rank), self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        trainer = self.trainer
        own = GeneratorSource(device=batch.x.device)
        if hasattr(trainer.datamodule, "global_rows"):  # made on the device: a copy would wait for it
            micro = batch_idx % trainer.accumulate_grad_batches
            rows, total = trainer.datamodule.global_rows(micro, batch.x.device)
        else:
            rows, total = torch.arange(len(batch.x), device=batch.x.device), len(batch.x)
        shared = GeneratorSource(derive_seed(self.seed, "shared", trainer.global_step), batch.x.device)
        with self.drawing(LossDraws(rows, total, shared, own)):
            parts = {name: batch_mean(part) for name, part in self.training_loss(batch.x, batch.y).items()}
        self.losses.add(trainer.global_step + 1, parts["loss"])
        if self._logs_now():
            share = 1 / trainer.accumulate_grad_batches
            for name, value in parts.items():
                self._parts[f"train/{name}"] = self._parts.get(f"train/{name}", 0.0) + share * value.detach()
            self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, logger=False)
        return parts["loss"]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluation_step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluation_step(batch, "test")

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _evaluation_step(self, batch: Any, stage: str) -> None:
        own = IndexedSource(self.eval_seed, batch.index, batch.x.device)
        # The loss's times are stratified over the whole split, as if it were one batch, whatever the batch size.
        total, shared = len(self.trainer.datamodule.split(stage)), GeneratorSource(self.eval_seed, batch.x.device)
        with self.drawing(LossDraws(batch.index, total, shared, own.fork("loss"))):
            measured = dict(self.training_loss(batch.x, batch.y))
        if self.eval_draws:
            with suppress(NoLikelihood):
                how = {"estimator": self.eval_estimator, "draws": self.eval_draws, "rng": own.fork("likelihood")}
                likelihood = self.log_likelihood(batch.x, batch.y, **how)
                self.likelihood_kind, self.likelihood_terms = likelihood.kind, tuple(likelihood.terms)
                # a term that has the name of a part of the loss stands in its place
                measured |= {"log_prob_nats": likelihood.log_prob, **likelihood.terms}
                if self.levels is not None:
                    measured["bits_per_dim"] = likelihood.bits_per_dim()
        for name, value in measured.items() if getattr(batch, "counts", True) else ():
            self._means.add(name, value, len(batch.x))

    def _report(self, stage: str) -> None:
        """Means over the examples of all ranks, to the loggers at this step and to `measured`."""
        self.measured, self.num_measured = self._means.compute(), self._means.num_examples
        self._means = MeanOverExamples()
        trainer, metrics = self.trainer, {f"{stage}/{name}": mean for name, (mean, _) in self.measured.items()}
        if trainer.sanity_checking or not metrics:
            return
        step = trainer.global_step if trainer.state.fn == "fit" else self.judged_step
        seen = {"images_seen": float(step * trainer.datamodule.batch_size)} if trainer.state.fn == "fit" else {}
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, **seen}, step=step)
        self.log_dict({k: torch.tensor(v) for k, v in metrics.items()}, logger=False, sync_dist=True, batch_size=1)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Per-example log-likelihood and its terms, in nats, by the example's index."""
        rng = IndexedSource(EVALUATION_SEED, batch.index, batch.x.device).fork("likelihood")
        likelihood = self.log_likelihood(batch.x, batch.y, draws=self.eval_draws, rng=rng)
        return {"index": batch.index, "log_prob_nats": likelihood.log_prob, **likelihood.terms}
