"""Masks of any shape that broadcasts, of bool or integers."""

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.masks import as_mask

X = torch.zeros(3, 1, 2, 2)


@pytest.mark.parametrize("mask", [torch.eye(2, dtype=torch.bool), 5 * torch.eye(2, dtype=torch.int64)[None, None]])
def test_a_mask_is_spread_over_the_batch(mask):
    assert torch.equal(as_mask(mask, X), torch.eye(2, dtype=torch.bool).expand(3, 1, 2, 2))


@pytest.mark.parametrize(("mask", "word"), [(torch.ones(2, 2), "float32"), (torch.ones(3).bool(), "broadcast")])
def test_what_is_no_mask_is_refused(mask, word):
    with pytest.raises(UserError, match=word):
        as_mask(mask, X)
