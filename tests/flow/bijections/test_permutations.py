"""Orders of the channels."""

import torch

from lightning_gen.flow import Reverse, Shuffle

X = torch.randn(2, 7, 2, 3, generator=torch.Generator().manual_seed(0))


def test_channels_change_places_and_nothing_else():
    torch.manual_seed(0)
    for layer in (Reverse((7, 2, 3)), Shuffle((7, 2, 3))):
        z, log_det = layer(X)
        assert torch.equal(log_det, torch.zeros(2))
        found = [next(c for c in range(7) if torch.equal(z[:, k], X[:, c])) for k in range(7)]
        assert sorted(found) == list(range(7)) != found


def test_reverse_is_its_own_inverse():
    layer = Reverse((7, 2, 3))
    assert torch.equal(layer(layer(X)[0])[0], X)
    assert torch.equal(layer(X)[0][:, 0], X[:, 6])


def test_a_shuffle_is_drawn_once_and_kept_in_checkpoints():
    torch.manual_seed(0)
    one, other = Shuffle((7, 2, 3)), Shuffle((7, 2, 3))
    assert not torch.equal(one(X)[0], other(X)[0])
    assert torch.equal(one(X)[0], one(X)[0])
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(X)[0], other(X)[0])
    assert not list(one.parameters())


def test_a_cast_of_the_module_leaves_the_order_of_many_channels_exact():
    """In bfloat16 there are no odd numbers above 256."""
    layer = Shuffle((700,)).bfloat16()
    x = torch.randn(2, 700)
    assert torch.equal(layer.inverse(layer(x)[0]), x)
