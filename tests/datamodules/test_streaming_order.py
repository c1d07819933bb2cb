"""The laws of the order over shards: those of any order of training, and few shards at a time."""

import pytest
import torch

from datamodules.streaming_order import ShardedOrder

SIZES = [5, 7, 7, 7, 2, 7, 7, 7, 7, 3]
NUM = sum(SIZES)
SHARD = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))


@pytest.mark.parametrize("window", [1, 3, 10, 100])
@pytest.mark.parametrize("size", [1, 8, 59, 100])
def test_the_stream_is_one_permutation_after_another(window, size):
    order = ShardedOrder(SIZES, seed=3, window=window)
    stream = torch.cat([order.positions(k * size, (k + 1) * size) for k in range(-(-3 * NUM // size))])[: 3 * NUM]
    epochs = stream.view(3, NUM)
    assert torch.equal(epochs.sort().values, torch.arange(NUM).expand(3, NUM))
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[0], torch.arange(NUM))
    assert torch.equal(order.epoch(1), epochs[1])


def test_the_order_is_a_function_of_the_seed_and_the_position():
    far = ShardedOrder(SIZES, 3, 4).positions(1000, 1010)
    torch.manual_seed(9)
    order = ShardedOrder(SIZES, 3, 4)
    for k in (0, 90, 17, 600, 995):
        order.positions(k, k + 30)
    assert torch.equal(order.positions(1000, 1010), far)
    assert not torch.equal(ShardedOrder(SIZES, 4, 4).positions(1000, 1010), far)


@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_stretch_needs_few_shards(window):
    order = ShardedOrder([10] * 40, seed=1, window=window)
    for start in range(0, 800, 7):
        for length in (1, 10 * window, 25 * window):
            needed = order.positions(start, start + length).div(10, rounding_mode="floor").unique()
            windows = (start + length - 1) // (10 * window) - start // (10 * window) + 1
            assert len(needed) <= windows * window
    assert len({tuple(order.positions(0, 10 * w).tolist()) for w in (1, 2)}) == 2


def test_the_shards_of_the_next_window_are_told_as_one_begins():
    told = []
    order = ShardedOrder(SIZES, seed=3, window=4, ahead=told.append)
    needed = [SHARD[order.positions(k, k + 1)].item() for k in range(2 * NUM)]
    assert [len(shards) for shards in told] == [4, 2, 4, 2]  # of 4, 4 and 2 in an epoch; nothing before the first
    for epoch in range(2):
        said = told[2 * epoch] + told[2 * epoch + 1]
        later = list(dict.fromkeys(needed[epoch * NUM : (epoch + 1) * NUM]))[4:]
        assert sorted(said[:4]) == sorted(later[:4]) and sorted(said[4:]) == sorted(later[4:])


def test_within_a_window_shards_are_mixed_and_windows_change_with_the_epoch():
    order = ShardedOrder([100] * 8, seed=1, window=4)
    first = order.positions(0, 100) // 100
    assert first.bincount(minlength=8).count_nonzero() == 4 and first.bincount().max() < 50
    together = [frozenset((order.positions(e * 800, e * 800 + 400) // 100).unique().tolist()) for e in range(8)]
    assert len(set(together)) > 1


def test_one_shard_alone_is_shuffled_anew_in_each_epoch():
    order = ShardedOrder([50], seed=1, window=4)
    assert len({tuple(order.epoch(e).tolist()) for e in range(5)}) == 5


def test_only_what_is_asked_for_is_drawn(monkeypatch):
    drawn = []
    randperm = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **kwargs: drawn.append(n) or randperm(n, **kwargs))
    order = ShardedOrder([1000] * 10_000, seed=1, window=4)
    last = order.positions(9_999_900, 10_000_000)
    assert len(last) == 100 and drawn == [10_000, 4000]
    order.positions(9_999_800, 9_999_950)
    assert drawn == [10_000, 4000]
