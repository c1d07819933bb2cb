import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.networks import ClassEmbedding, LinearConditioner

CASES = {
    "classes": (lambda: ClassEmbedding(5, dim=8), lambda: torch.tensor([0, 4, 2, 4])),
    "vectors": (lambda: LinearConditioner(None, features=3, dim=8), lambda: torch.randn(4, 3)),
}


@pytest.fixture(params=CASES)
def case(request):
    make, data = CASES[request.param]
    return make(), data()


def test_dropped_rows_are_null_and_the_others_untouched(case):
    conditioner, y = case
    drop = torch.tensor([True, False, True, False])
    out = conditioner(y, drop)
    assert out.shape == (4, conditioner.dim)
    assert torch.equal(out[drop], conditioner.null(2, "cpu"))
    assert torch.equal(out[~drop], conditioner(y)[~drop])


def test_null_is_no_condition_of_the_data_and_is_learned(case):
    conditioner, y = case
    assert not (conditioner(y) == conditioner.null(4, "cpu")).all(dim=1).any()
    before, null = conditioner(y).detach(), conditioner.null(1, "cpu").detach().clone()
    conditioner.null(3, "cpu").sum().backward()
    with torch.no_grad():
        for p in conditioner.parameters():
            if p.grad is not None:
                p -= p.grad
    assert torch.equal(conditioner(y), before)  # what teaches the null vector moves no other
    assert torch.allclose(conditioner.null(1, "cpu"), null - 3.0)


def test_each_row_depends_on_its_own_y(case):
    conditioner, y = case
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(conditioner(y[order]), conditioner(y)[order])


def test_errors():
    with pytest.raises(UserError, match="class labels"):
        ClassEmbedding(None)
    with pytest.raises(UserError, match=r"\[B, 3\]"):
        LinearConditioner(10, features=3)(torch.tensor([1, 2]))


@pytest.mark.parametrize("y", [[0, 5], [-1, 0], [[0], [1]], [0.0, 1.0]], ids=str)
def test_labels_outside_the_classes_are_none(y):
    """Label 5 of 5 classes is not the null condition, as the rows of the table would have it."""
    with pytest.raises(UserError, match="labels"):
        ClassEmbedding(5)(torch.tensor(y))
    assert ClassEmbedding(5)(torch.tensor([0, 4], dtype=torch.int32)).shape == (2, 128)
