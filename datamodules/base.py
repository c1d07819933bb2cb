"""The base of every data set: splits loaded once, and a global batch that is the same on any number of ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from datamodules.loaders import Batch, BatchLayout, EvaluationLoader, Examples, Split, TrainingStream
from lightning_gen.domains import check_labels, domain_of, integer_dtype
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, RandomSource, derive_seed

__all__ = ["Batch", "DataModule", "Examples"]


class DataModule(LightningDataModule, ABC):
    """A data set. A subclass says what its data are in four attributes and loads them in `load`; that is all it must do.

    Args:
        batch_size: of the global batch: the share of each rank and the accumulation follow from the world size.
        micro_batch_size: the most examples a rank processes at once (None: its whole share).
        eval_batch_size: the most examples a rank evaluates at once; no result depends on it.

    Attributes:
        shape: of one example.
        levels: L where x holds integers {0..L-1} (uint8, int64 above 256 levels); None where it holds real vectors.
        num_classes: where y holds class labels.
        symbols: symbol i is what level i stands for, in text; None where levels are greys, or nothing to be read.
        extractor: the feature space this data set is judged in by default, as class_path and init_args.
        floor: the split that stands for perfect samples, as new to the extractor as the test split.
        seed: of the order of training and of augmentation; the command line sets it to the run's.

    Raises:
        UserError: batch sizes below one, or that do not divide among the ranks.
    """

    shape: tuple[int, ...]
    levels: int | None = None
    num_classes: int | None = None
    symbols: str | None = None
    extractor: dict[str, Any] | None = None
    floor: str = "val"
    seed: int = 0

    def __init__(self, batch_size: int = 128, micro_batch_size: int | None = None, eval_batch_size: int = 256) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.eval_batch_size = eval_batch_size
        self._splits: Mapping[str, Split] | None = None
        self._counted: Any = None  # the trainer whose interval of validation is in micro-batches already
        BatchLayout(batch_size, micro_batch_size)  # refused here, not after minutes in a queue
        if eval_batch_size < 1:
            raise UserError(f"eval_batch_size must be at least 1, not {eval_batch_size}.")

    @abstractmethod
    def load(self) -> Mapping[str, Split]:
        """The splits: train, val, test, and others if the data set has them. Called once."""

    def training_examples(self) -> Split:
        """What training reads: the split `train`, unless `augment` makes the data's own domain of something else."""
        return self.split("train")

    def augment(self, x: Tensor, rng: RandomSource) -> Tensor:
        """What the model sees of a batch `x` of training, on the device. Validation and test do not pass through here.

        Args:
            rng: depends on (seed, micro-step, rank) alone, so that a resumed run sees what it would have seen.
        """
        return x

    def split(self, name: str) -> Split:
        """A split by its name, with or without a trainer.

        Raises:
            UserError: the data set has no such split.
        """
        if self._splits is None:
            splits = self.load()
            for key, examples in splits.items():
                self._check(key, examples)
            self._splits = splits
        if name not in self._splits:
            raise UserError(f"{type(self).__name__} has no split {name!r}: it has {', '.join(self._splits)}.")
        return self._splits[name]

    def _check(self, name: str, examples: Split) -> None:
        """Refuses a `load` that does not keep what the attributes say."""
        x, levels = examples.x, self.levels
        dtype = torch.float32 if levels is None else integer_dtype(levels)
        if x.dtype != dtype or tuple(x.shape[1:]) != tuple(self.shape):
            raise ValueError(f"{name}: x is {x.dtype} {tuple(x.shape[1:])}, must be {dtype} {tuple(self.shape)}")
        if levels not in (None, 256) and (int(x.min()) < 0 or int(x.max()) >= levels):
            raise ValueError(f"{name}: x holds {int(x.min())}..{int(x.max())}, must be in 0..{levels - 1}")
        y = examples.y
        try:
            if levels is None:
                domain_of(levels).check(x)
            if self.num_classes is not None and isinstance(y, Tensor) and (y.ndim == 1 or not y.is_floating_point()):
                check_labels(y, self.num_classes)  # what is streamed got its labels from the names of its classes
        except UserError as error:
            raise UserError(f"{type(self).__name__}, split {name}: {error}") from error

    @property
    def _place(self) -> tuple[int, int]:
        """(rank, world size); (0, 1) with no trainer."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    @property
    def layout(self) -> BatchLayout:
        """How the global batch is cut among the trainer's ranks and micro-batches."""
        return BatchLayout(self.batch_size, self.micro_batch_size, *self._place)

    def global_rows(self, micro_step: int, device: torch.device | str = "cpu") -> tuple[Tensor, int]:
        """(rows of the global batch that this rank's micro-batch has, int64 [b]; rows in all), at a batch index."""
        first = self.layout.first_row(micro_step)
        return torch.arange(first, first + self.layout.micro, device=device), self.batch_size

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        self._refuse_epochs()
        accumulation = self.layout.accumulation
        if self.trainer.accumulate_grad_batches not in (1, accumulation):
            raise UserError(
                f"trainer.accumulate_grad_batches is {self.trainer.accumulate_grad_batches}, but batch_size "
                f"{self.batch_size} on {self.layout.world_size} ranks in micro-batches of {self.layout.micro} makes it "
                f"{accumulation}: leave it out."
            )
        # Lightning counts the interval in micro-batches; configs mean optimizer steps, on any number of ranks.
        interval = getattr(self.trainer, "val_check_interval", None)  # none where it is a time
        if isinstance(interval, int) and self._counted is not self.trainer:
            self._counted = self.trainer
            self.trainer.val_check_interval *= accumulation
        if interval is None and self._place[1] > 1:
            raise UserError("a trainer.val_check_interval in time ends at other steps on other ranks: give it in steps")
        self.trainer.accumulate_grad_batches = accumulation
        self.trainer.fit_loop.min_epochs = None
        if self.trainer.overfit_batches:  # the stream repeats them: no epoch of Lightning's ends
            self.trainer.limit_train_batches = 1.0

    def _refuse_epochs(self) -> None:
        """Raises UserError for settings of the trainer that count epochs: the stream of training has no end."""
        trainer, settings = self.trainer, {}
        if trainer.max_epochs not in (None, -1):
            num = len(self.training_examples())
            steps = -(-trainer.max_epochs * num // self.batch_size)
            settings["max_epochs"] = f"trainer.max_steps {steps}, {trainer.max_epochs} times the {num} examples"
        if (trainer.min_epochs or 0) > (trainer.min_steps is not None):  # Lightning makes 1 of min_steps
            settings["min_epochs"] = "trainer.min_steps"
        if trainer.limit_train_batches != 1.0 and not trainer.overfit_batches:
            settings["limit_train_batches"] = "trainer.max_steps, or trainer.overfit_batches for fewer examples"
        if trainer.reload_dataloaders_every_n_epochs:
            settings["reload_dataloaders_every_n_epochs"] = "0"
        by_epochs = trainer.check_val_every_n_epoch not in (None, 1)
        if trainer.limit_val_batches and (by_epochs or isinstance(getattr(trainer, "val_check_interval", 0), float)):
            name = "check_val_every_n_epoch" if by_epochs else "val_check_interval"
            settings[name] = "trainer.val_check_interval in steps, or trainer.limit_val_batches 0 for no validation"
        for name, instead in settings.items():
            raise UserError(
                f"trainer.{name} {getattr(trainer, name)} has no effect, for training is counted in steps: give {instead}"
            )

    @property
    def _distinct_batches(self) -> int | None:
        """Global batches that `overfit_batches`, a number or a share of an epoch, has training repeat; None for all."""
        wanted = 0 if self.trainer is None else self.trainer.overfit_batches
        if isinstance(wanted, float):
            wanted = wanted and max(1, int(wanted * len(self.training_examples()) / self.batch_size))
        return int(wanted) or None

    def first_batch(self) -> Batch:
        """The first global batch as training sees it, augmented (on the CPU), the same on every rank."""
        examples, (_, world_size) = self.training_examples(), self._place
        parts = []
        for rank in range(world_size):
            layout = BatchLayout(self.batch_size, self.micro_batch_size, rank, world_size)
            requests = islice(TrainingStream(examples, layout, self.seed).requests(), layout.accumulation)
            parts += [self._augmented(examples.take(*request), rank) for request in requests]
        parts.sort(key=lambda batch: batch.micro_step)  # stable: micro-step by micro-step, in each rank by rank
        x, y, index, _ = zip(*parts)
        return Batch(torch.cat(x), None if y[0] is None else torch.cat(y), torch.cat(index))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        training = self.trainer is not None and self.trainer.training
        return self._augmented(batch, self._place[0]) if training else batch

    def _augmented(self, batch: Batch, rank: int) -> Batch:
        if type(self).augment is DataModule.augment:
            return batch
        if batch.micro_step is None:
            raise ValueError("a batch of training must say its micro_step, which augmentation is seeded by")
        rng = GeneratorSource(derive_seed(self.seed, "augment", batch.micro_step, rank), batch.x.device)
        return batch._replace(x=self.augment(batch.x, rng))

    def train_dataloader(self) -> TrainingStream:
        self._drop_partial_step()
        return TrainingStream(
            self.training_examples(), self.layout, self.seed, self._micro_step, self._distinct_batches
        )

    def val_dataloader(self) -> EvaluationLoader:
        return EvaluationLoader(self.split("val"), self.eval_batch_size, *self._place)

    def test_dataloader(self) -> EvaluationLoader:
        return EvaluationLoader(self.split("test"), self.eval_batch_size, *self._place)

    def predict_dataloader(self) -> EvaluationLoader:
        return self.test_dataloader()

    def _micro_step(self) -> int:
        """Where the stream begins: after the micro-batches of the optimizer steps already made."""
        return 0 if self.trainer is None else self.trainer.global_step * self.layout.accumulation

    def _drop_partial_step(self) -> None:
        """Sets Lightning's count of micro-batches to what the optimizer steps made of them.

        They differ after a resume from a checkpoint written between micro-batches, whose gradients are lost, or at
        another accumulation; Lightning would then step after the wrong micro-batches ever after. It asks for the loader
        once the checkpoint is restored and before it reads these counts.
        """
        if self.trainer is None:
            return
        loop = self.trainer.fit_loop.epoch_loop
        excess = loop.batch_progress.total.processed - self._micro_step()
        if excess == 0:
            return
        for count in (loop.batch_progress.total, loop.batch_progress.current):
            count.ready = count.started = count.completed = count.processed = count.processed - excess
        loop._batches_that_stepped = self.trainer.global_step
