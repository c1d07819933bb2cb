"""Sharded weights are refused; DDP keeps its gradients once."""

import pytest
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from lightning_gen.errors import UserError
from lightning_gen.strategies import check_strategy


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_a_strategy_that_shards_is_refused_by_its_name(strategy):
    with pytest.raises(UserError, match=rf"{strategy.__name__}.*ema.*checkpoints.*give ddp"):
        check_strategy(strategy())


def test_gradients_live_in_their_buckets_unless_the_config_says_otherwise():
    plain, own = DDPStrategy(), DDPStrategy(gradient_as_bucket_view=False)
    for strategy in (plain, own, SingleDeviceStrategy()):
        check_strategy(strategy)
    assert plain._ddp_kwargs["gradient_as_bucket_view"] and not own._ddp_kwargs["gradient_as_bucket_view"]
