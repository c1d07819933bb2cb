"""Which of Lightning's strategies a run can be trained under, and how."""

from __future__ import annotations

from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
)

from lightning_gen.errors import UserError

_SHARDING = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)


def check_strategy(strategy: Strategy) -> None:
    """Gives DDP what always pays: gradients that live in the buckets they are reduced in, one copy of them less.

    `static_graph` is left to the config: it cannot begin within the `no_sync` of an accumulation.

    Raises:
        UserError: a strategy that shards the weights.
    """
    if isinstance(strategy, _SHARDING):
        raise UserError(
            f"trainer.strategy {type(strategy).__name__} cuts the weights into shards, which neither the averages (ema) nor "
            "the checkpoints of a run can gather yet: give ddp, under which the model, its averages and the optimizer's "
            "state must fit each device"
        )
    if type(strategy) is DDPStrategy:
        strategy._ddp_kwargs.setdefault("gradient_as_bucket_view", True)
