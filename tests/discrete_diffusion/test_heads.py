"""Laws of what the network's output says of the levels."""

import pytest
import torch

from lightning_gen.discrete_diffusion import Categorical, DiscretizedLogistic

HEADS = [Categorical(), DiscretizedLogistic()]
CATEGORICAL_LEVELS = [2, 17, 256]


def output(head, levels, shape, seed=0):
    """[3, C n, H, W] or [3, n, N]."""
    lead = (shape[0] * head.numbers(levels), *shape[1:]) if len(shape) == 3 else (head.numbers(levels), *shape)
    return torch.randn(3, *lead, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("levels", CATEGORICAL_LEVELS)
@pytest.mark.parametrize("head", HEADS)
def test_levels_sum_to_one(head, levels, masked):
    x_t = torch.randint(levels + masked, (3, 2, 3, 5), generator=torch.Generator().manual_seed(1))
    log_w = head(3 * output(head, levels, (2, 3, 5)), x_t, levels)
    assert log_w.shape == (3, 2, 3, 5, levels)
    torch.testing.assert_close(
        log_w.double().exp().sum(-1), torch.ones(3, 2, 3, 5, dtype=torch.float64), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("head", HEADS)
def test_a_number_speaks_of_its_own_place(head):
    """A change of channel c n + k at (h, w) changes what is said there of channel c, and nothing else."""
    n, x_t = head.numbers(4), torch.zeros(1, 2, 3, 5).long()
    out = output(head, 4, (2, 3, 5))[:1]
    before = head(out, x_t, 4)
    for channel, h, w in ((0, 0, 4), (n - 1, 2, 0), (n, 1, 3), (2 * n - 1, 2, 4)):
        other = out.clone()
        other[0, channel, h, w] += 1
        changed = (head(other, x_t, 4) != before).any(-1)[0].nonzero().tolist()
        assert changed == [[channel // n, h, w]]
    row = output(head, 4, (7,))[:1]
    other = row.clone()
    other[0, n - 1, 5] += 1
    x_t = torch.zeros(1, 7).long()
    assert (head(other, x_t, 4) != head(row, x_t, 4)).any(-1)[0].nonzero().tolist() == [[5]]


def test_a_categorical_number_is_the_logit_of_its_level():
    out = torch.zeros(1, 5, 3)
    out[0, 3, 1] = 9.0
    assert Categorical()(out, torch.zeros(1, 3).long(), 5)[0].argmax(-1).tolist()[1] == 3
    torch.testing.assert_close(Categorical()(out, torch.zeros(1, 3).long(), 5)[0, 1], out[0, :, 1].log_softmax(0))


@pytest.mark.parametrize("levels", [9, 256])
def test_a_logistic_that_says_nothing_is_centred_on_what_it_sees(levels):
    x_t = torch.arange(levels)[None]
    log_w = DiscretizedLogistic(-4.0)(torch.zeros(1, 2, levels), x_t, levels)[0]
    inside = slice(levels // 20, -(levels // 20) or None)  # the outermost bins are open, and more than their neighbours
    assert torch.equal(log_w.argmax(-1)[inside], x_t[0, inside])
    middle = log_w[levels // 2, levels // 2 - 2 : levels // 2 + 3]
    torch.testing.assert_close(middle, middle.flip(0))


def test_a_logistic_is_centred_on_the_middle_at_a_mask():
    log_w = DiscretizedLogistic()(torch.zeros(1, 2, 1), torch.tensor([[9]]), 9)[0, 0]
    assert log_w.argmax() == 4
    torch.testing.assert_close(log_w, log_w.flip(0))


def test_a_logistic_is_moved_and_widened_by_its_two_numbers():
    """In units of [-1, 1]: half of it is a quarter of the levels; the scale is exp of what starts at `log_scale`."""
    x_t, levels = torch.tensor([[4]]), 9
    moved = DiscretizedLogistic(-4.0)(torch.tensor([[[0.5], [0.0]]]), x_t, levels)[0, 0]
    assert moved.argmax() == 6
    wide, narrow = (DiscretizedLogistic(a)(torch.tensor([[[0.0], [b]]]), x_t, levels) for a, b in ((-2, 0), (-3, 1)))
    torch.testing.assert_close(wide, narrow)
    assert DiscretizedLogistic(-2.0)(torch.tensor([[[0.0], [1.0]]]), x_t, levels)[0, 0, 4] < wide[0, 0, 4]
    edges = torch.sigmoid(torch.tensor([-0.125, 0.125], dtype=torch.float64) / torch.tensor(-2.0).double().exp())
    assert wide[0, 0, 4].exp().item() == pytest.approx((edges[1] - edges[0]).item(), rel=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_an_extreme_network_has_finite_gradients(head):
    out = (200 * output(head, 256, (7,))).requires_grad_()
    log_w = head(out, torch.randint(257, (3, 7), generator=torch.Generator().manual_seed(0)), 256)
    assert log_w.isfinite().all()
    log_w.sum().backward()
    assert out.grad.isfinite().all()
