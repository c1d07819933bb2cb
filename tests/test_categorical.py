"""Laws of draws by inversion."""

import pytest
import torch

from lightning_gen.categorical import draw_index


def test_inversion_never_draws_what_cannot_be():
    """At both ends of u, where rounding could: probability 0 at the first, in the middle and at the last index."""
    p = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).log().expand(4, 5)
    u = torch.tensor([0.0, 0.4999, 0.5, 1 - 2**-24]).unsqueeze(1)
    assert draw_index(p, u, 1).tolist() == [1, 1, 3, 3]


def test_what_rounding_leaves_over_goes_to_what_can_be():
    """Sums of 300 probabilities in float32 end below the largest u; the level after them has probability 0."""
    free = torch.randn(500, 301, generator=torch.Generator().manual_seed(0))
    free[:, 300] = -1e4
    assert (free.softmax(1).sum(1) < 1 - 2**-24).any()
    assert draw_index(free, torch.full((500, 1), 1 - 2**-24), 1).max() < 300


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_shares_of_u_are_the_probabilities(dim):
    """Whatever the dimension, and up to a constant in the logits."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    logits = (p.log() + 7).expand(1000, 4)
    drawn = draw_index(logits.movedim(1, dim), u.unsqueeze(dim), dim)
    assert drawn.shape == (1000,) and torch.bincount(drawn).tolist() == [100, 200, 300, 400]
    assert (drawn.diff() >= 0).all()
