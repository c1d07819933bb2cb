"""Laws of the losses, against the bound enumerated."""

import pytest
import torch

from lightning_gen.discrete_diffusion import Absorbing, Bound, Cosine, CrossEntropy
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource

NUM = 20000


def drawn(process, predictor, x0):
    u = (torch.arange(NUM, dtype=torch.float64) + 0.5) / NUM
    t = process.times(u)
    x0 = x0.expand(NUM, 3)
    x_t = process.diffuse(x0, t, GeneratorSource(0))
    return x0, x_t, predictor(x_t, process.logsnr(t)), t


def test_the_bounds_loss_is_what_the_bound_loses_a_dimension(small, anything, exact_bound):
    """All but the prior term, in nats."""
    process, predictor = small.process, anything(small.process)
    terms = exact_bound(small, predictor)
    x0, x_t, log_w, t = drawn(process, predictor, torch.tensor([[1, 1, 2]]))
    parts = Bound()(process, x0, x_t, log_w, t)
    assert parts.keys() == {"bound"} and parts["bound"].shape == (NUM,)
    expected = -(terms["diffusion"] + terms["reconstruction"])[14].item() / 3
    assert parts["bound"].mean().item() == pytest.approx(expected, rel=0.03)


def test_the_auxiliary_cross_entropy_is_weighed_and_added(small, anything):
    process = small.process
    given = drawn(process, anything(process), torch.tensor([[1, 1, 2]]))
    parts, alone = Bound(0.01)(process, *given), CrossEntropy()(process, *given)
    assert parts.keys() == {"bound", "cross_entropy"} and alone.keys() == {"cross_entropy"}
    assert torch.equal(parts["bound"], Bound()(process, *given)["bound"])
    # beside the KL of one step, of which the bound is T times the mean
    x0, x_t, log_w, t = given
    step = process.kl(x0, x_t, log_w, t - 1 / process.steps, t).mean()
    expected = 0.01 * alone["cross_entropy"].mean() / step
    torch.testing.assert_close(parts["cross_entropy"].mean() / parts["bound"].mean(), expected, rtol=1e-5, atol=0)


def test_in_continuous_time_the_weight_is_the_cross_entropys_own(bind, anything):
    process = bind(Absorbing(), Cosine(), (3,), 3, None)
    given = drawn(process, anything(process), torch.tensor([[1, 1, 2]]))
    parts, alone = Bound(0.01)(process, *given), CrossEntropy()(process, *given)
    torch.testing.assert_close(parts["cross_entropy"], 0.01 * alone["cross_entropy"])


def test_the_simplified_loss_counts_masks_alone(bind, anything):
    process = bind(Absorbing(), Cosine(), (3,), 3, None)
    x0, x_t, log_w, t = drawn(process, anything(process), torch.tensor([[1, 1, 2]]))
    at_x0 = -log_w.gather(-1, x0[..., None])[..., 0]
    expected = at_x0[x_t == 3].sum() / x_t.numel()
    torch.testing.assert_close(CrossEntropy()(process, x0, x_t, log_w, t)["cross_entropy"].mean(), expected)


def test_a_negative_weight_is_refused():
    with pytest.raises(UserError, match="at least 0"):
        Bound(-0.1)
