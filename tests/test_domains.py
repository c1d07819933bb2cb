"""Domains: data come back from floats, the nearest of them from any."""

import pytest
import torch

from lightning_gen.domains import Levels, Vectors
from lightning_gen.errors import UserError


@pytest.mark.parametrize("levels", [2, 17, 256, 1000])
def test_integers_come_back(levels):
    x = torch.arange(levels).to(torch.uint8 if levels <= 256 else torch.int64)
    domain = Levels(levels)
    floats = domain.encode(x)
    assert floats.dtype == torch.float32 and floats.min() == -1 and floats.max() == 1
    for nearby in (floats, floats + 0.9 / (levels - 1), floats - 0.9 / (levels - 1)):
        assert torch.equal(domain.decode(nearby), x) and domain.decode(nearby).dtype == x.dtype
    assert domain.decode(torch.tensor([-9.0, 9.0])).tolist() == [0, levels - 1]
    domain.check(x)
    for wrong in (x.float(), torch.tensor([levels])):
        with pytest.raises(UserError, match=f"0 to {levels - 1}"):
            domain.check(wrong)


def test_vectors_are_as_they_are():
    x = torch.randn(3, 2)
    assert torch.equal(Vectors().decode(Vectors().encode(x)), x)
    Vectors().check(x)
    with pytest.raises(UserError, match="int64"):
        Vectors().check(torch.ones(2, dtype=torch.int64))
