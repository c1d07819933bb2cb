"""The laws of the order of training and of the shards of evaluation."""

import pytest
import torch

from datamodules.loaders import BatchLayout, DataOrder, EvaluationLoader, Examples, TrainingStream
from lightning_gen.errors import UserError


def batches(num: int, size: int, seed: int, count: int) -> list[list[int]]:
    order = DataOrder(num, seed)
    return [order.positions(k * size, (k + 1) * size).tolist() for k in range(count)]


@pytest.mark.parametrize("size", [1, 8, 37, 100])
def test_the_stream_is_one_permutation_after_another(size):
    stream = torch.tensor(sum(batches(37, size, seed=3, count=37 * 3), []))[: 37 * 3]
    epochs = stream.view(3, 37)
    assert torch.equal(epochs.sort().values, torch.arange(37).expand(3, 37))
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[0], torch.arange(37))


def test_the_order_is_a_function_of_the_seed_and_the_position():
    far = DataOrder(37, 3).positions(1000, 1010)
    torch.manual_seed(9)
    order = DataOrder(37, 3)
    order.positions(0, 90)
    assert torch.equal(order.positions(1000, 1010), far)
    assert not torch.equal(DataOrder(37, 4).positions(1000, 1010), far)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro", [None, 3, 1])
def test_ranks_and_micro_batches_make_up_the_global_batch(world_size, micro):
    layouts = [BatchLayout(12, micro, rank, world_size) for rank in range(world_size)]
    examples = Examples(torch.arange(37).unsqueeze(1))
    accumulation = layouts[0].accumulation
    streams = [iter(TrainingStream(examples, layout, seed=5)) for layout in layouts]
    for expected in batches(37, 12, seed=5, count=7):
        parts = [next(stream).index.tolist() for _ in range(accumulation) for stream in streams]
        assert {len(part) for part in parts} == {12 // world_size // accumulation}
        assert sum(parts, []) == expected


def test_a_rank_whose_share_is_smaller_than_a_micro_batch_does_not_accumulate():
    layout = BatchLayout(128, micro_batch_size=64, rank=3, world_size=4)
    assert (layout.micro, layout.accumulation) == (32, 1)


@pytest.mark.parametrize("num", [1, 7, 9, 64, 150])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_every_example_is_evaluated_once_over_the_ranks(num, world_size, batch_size):
    examples = Examples(torch.arange(num, dtype=torch.float32).unsqueeze(1), torch.arange(num))
    seen, lengths = [], []
    for rank in range(world_size):
        loader = EvaluationLoader(examples, batch_size, rank, world_size)
        whole = list(loader)
        assert len(whole) == len(loader) and all(len(batch.x) > 0 for batch in whole)
        shard = [batch for batch in whole if batch.counts]
        assert all(0 < len(batch.x) <= batch_size for batch in shard)
        assert all(torch.equal(batch.x.flatten().long(), batch.index) for batch in shard)
        assert all(torch.equal(batch.y, batch.index) for batch in shard)
        assert seen == [] or not shard or shard[0].index[0] == seen[-1] + 1
        seen += [i for batch in shard for i in batch.index.tolist()]
        lengths.append(len(loader))
    assert seen == list(range(num))
    assert len(set(lengths)) == 1  # a rank that took fewer steps would leave the others waiting


def test_a_batch_that_does_not_divide_among_the_ranks_is_refused():
    with pytest.raises(UserError, match="batch_size 8 does not divide among 3 ranks"):
        BatchLayout(8, world_size=3)


def test_examples_without_labels_for_all_are_refused():
    with pytest.raises(ValueError, match="4 examples with 3 labels"):
        Examples(torch.zeros(4, 1), torch.zeros(3))


def test_the_fingerprint_tells_values_shapes_types_and_labels_apart():
    x = torch.arange(12, dtype=torch.uint8)
    variants = [(x.view(6, 2), None), (x.view(3, 4), None), (x.flip(0).view(6, 2), None), (x.view(6, 2).char(), None),
                (x.view(6, 2), torch.arange(6)), (x.view(6, 2), torch.arange(6).flip(0))]  # fmt: skip
    prints = [Examples(*variant).fingerprint() for variant in variants]
    assert len(set(prints)) == len(prints)
    assert prints[0] == Examples(x.view(2, 6).t().clone().t().reshape(6, 2)).fingerprint()
