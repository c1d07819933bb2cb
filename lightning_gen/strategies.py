"""Lightning's strategies, settings and callbacks under which a run cannot be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
)

from lightning_gen.errors import UserError

_SHARDING = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)

_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "fast_dev_run": (bool, "a run keeps what it makes: give trainer.max_steps 2 and trainer.limit_val_batches 1"),
    "barebones": (bool, "a run logs and writes checkpoints: leave it out"),
    "enable_checkpointing": (
        lambda on: on is False,
        "a run goes on from its checkpoints: see checkpoints.every_n_steps",
    ),
    "default_root_dir": (lambda path: path is not None, "all that a run makes lies in its directory: give --run DIR"),
    "model_registry": (lambda name: name is not None, "checkpoints lie in the run's directory: leave it out"),
    "val_check_interval": (
        lambda steps: steps == 0,
        "no validation falls on it: give trainer.limit_val_batches 0 for none",
    ),
    "max_steps": (lambda steps: steps == 0, "there is nothing to train"),
    "num_sanity_val_steps": (lambda steps: steps is not None and steps < -1, "give -1 for the whole split, 0 for none"),
    "log_every_n_steps": (lambda steps: steps is not None and steps < 0, "give 0 for no metrics of training"),
}
"""By setting of the Trainer: whether its value is refused, and why."""

_CALLBACKS: dict[type[Callback], str] = {
    GradientAccumulationScheduler: "accumulation follows from data.init_args.batch_size and micro_batch_size",
    BatchSizeFinder: "data.init_args.batch_size decides the result; what fits a device is data.init_args.micro_batch_size",
    LearningRateFinder: "it makes steps that the run would not make again: compare runs of several rates",
    StochasticWeightAveraging: "it counts epochs, which training has none of: see ema.decays",
    WeightAveraging: "checkpoints would hold its averages as the model's own weights: see ema.decays",
}
"""Callbacks of Lightning that cannot be honoured, and why."""

_BATCHES = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}


def check_settings(settings: Mapping[str, Any], verb: str) -> None:
    """Raises UserError for settings of the Trainer that a run cannot honour."""
    for name, (is_refused, reason) in _SETTINGS.items():
        if is_refused(settings.get(name)):
            raise UserError(f"trainer.{name} {settings[name]}: {reason}")
    name = f"limit_{_BATCHES[verb]}_batches"
    if settings.get(name) == 0:
        raise UserError(
            f"trainer.{name} is 0: there is nothing to {'train on' if verb == 'fit' else verb}, give 1.0 for the whole split"
        )


def check_callbacks(callbacks: Iterable[Callback]) -> None:
    """Raises UserError for callbacks that a run cannot honour."""
    for callback in callbacks:
        for kind, reason in _CALLBACKS.items():
            if isinstance(callback, kind):
                raise UserError(f"{type(callback).__name__} cannot be used: {reason}")


def check_strategy(strategy: Strategy) -> None:
    """Gives DDP what always pays: gradients that live in the buckets they are reduced in, one copy of them less.

    `static_graph` is left to the config: it cannot begin within the `no_sync` of an accumulation.

    Raises:
        UserError: a strategy that shards the weights, or that starts its ranks by spawn or fork.
    """
    method = getattr(strategy, "_start_method", "popen")
    if method != "popen":
        raise UserError(
            f"trainer.strategy starts its ranks by {method}, with a run that cannot be copied into them: give ddp, which "
            "starts the command once for each rank"
        )
    if isinstance(strategy, _SHARDING):
        raise UserError(
            f"trainer.strategy {type(strategy).__name__} cuts the weights into shards, which neither the averages (ema) nor "
            "the checkpoints of a run can gather yet: give ddp, under which the model, its averages and the optimizer's "
            "state must fit each device"
        )
    if type(strategy) is DDPStrategy:
        strategy._ddp_kwargs.setdefault("gradient_as_bucket_view", True)
