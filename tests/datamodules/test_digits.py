"""The splits of the digits: exact, disjoint, stratified and fixed."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from datamodules.digits import BinaryDigits, Digits, stratified

PARTS = ("extractor", "real", "val", "test")


def rows(examples) -> list[bytes]:
    return [bytes(x.flatten().tolist()) for x in examples.x]


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


def test_the_parts_are_the_whole_data_set_each_image_once(digits):
    assert [len(digits.split(name)) for name in PARTS] == [447, 600, 150, 600]
    images = sorted(bytes(x.astype(np.uint8).flatten().tolist()) for x in load_digits().images)
    assert sorted(sum((rows(digits.split(name)) for name in PARTS), [])) == images
    assert len(set(images)) == len(images)  # so equal contents would show a shared image


def test_train_is_the_extractors_part_and_the_rest(digits):
    assert len(digits.split("train")) == 1047
    assert sorted(rows(digits.split("train"))) == sorted(rows(digits.split("extractor")) + rows(digits.split("real")))


def test_values_are_all_the_integers_up_to_16_and_upright(digits):
    x = digits.split("train").x
    assert x.dtype == torch.uint8 and x.unique().tolist() == list(range(17))
    ones = digits.split("train").x[digits.split("train").y == 1].double().mean(0)[0]
    assert ones.sum(0).std() > 2 * ones.sum(1).std()  # an upright 1 is a vertical stroke: columns differ, rows do not


def test_labels_go_with_their_images(digits):
    label_of = {bytes(x.astype(np.uint8).flatten().tolist()): y for x, y in zip(*load_digits(return_X_y=True))}
    for name in PARTS:
        assert [label_of[row] for row in rows(digits.split(name))] == digits.split(name).y.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_every_part_has_every_class_in_its_share(seed):
    data = Digits(split_seed=seed)
    total = torch.bincount(torch.as_tensor(load_digits().target)).double()
    for name in (*PARTS, "train"):
        share = total * len(data.split(name)) / total.sum()
        assert (torch.bincount(data.split(name).y, minlength=10) - share).abs().max() < 2


def test_splits_are_fixed_by_their_seed_and_by_nothing_else(digits):
    torch.manual_seed(1)
    same, other = Digits(batch_size=32), Digits(split_seed=1)
    for name in (*PARTS, "train"):
        assert digits.split(name).fingerprint() == same.split(name).fingerprint() != other.split(name).fingerprint()


def test_the_shipped_split_never_moves(digits):
    # the shipped extractor was fitted on this part: if it moves, real and test are no longer new to it
    assert digits.split("extractor").fingerprint() == "a2f593d828b51f8f"
    assert digits.split("test").fingerprint() == "ddfa020e0dca2138"


def test_sizes_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="add up"):
        stratified(torch.zeros(10, dtype=torch.int64), [5, 4], seed=0)


def test_bits_are_the_greys_in_two_halves():
    """The same images in the same splits, in order; of the 17 levels the upper nine are 1."""
    greys, bits = Digits(), BinaryDigits()
    assert bits.levels == 2 and bits.shape == greys.shape
    for name in ("train", "val", "test", "real", "extractor"):
        assert torch.equal(bits.split(name).x, (greys.split(name).x > 7).to(torch.uint8))
        assert torch.equal(bits.split(name).y, greys.split(name).y)
