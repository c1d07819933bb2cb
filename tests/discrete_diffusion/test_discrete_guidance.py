"""Laws of guidance."""

import pytest
import torch

from lightning_gen.discrete_diffusion import Absorbing, ClassifierFree, Cosine
from lightning_gen.errors import IncompatibleAxes, UserError


@pytest.fixture
def model(bind, anything):
    process = bind(Absorbing(), Cosine(), (3,), 4, 5)
    return anything(process)


X, NOISE, Y = torch.tensor([[0, 4, 2], [4, 4, 1]]), torch.tensor([0.5, -2.0]), torch.tensor([0, 2])


@pytest.mark.parametrize(("scale", "y"), [(0.0, None), (1.0, Y)])
def test_no_and_full_guidance_are_the_networks_own(scale, y, model):
    """And cost one evaluation."""
    expected = model(X, NOISE, y)
    model.asked.clear()
    guidance = ClassifierFree(scale)
    assert torch.equal(guidance.wrap(model)(X, NOISE, Y), expected)
    assert len(model.asked) == guidance.evaluations == 1


@pytest.mark.parametrize("scale", [0.4, 1.5, 2.0, 7.0])
def test_guidance_is_a_ratio_of_distributions(scale, model):
    """w(x | y)^s w(x)^(1-s), normalised: for 2 w(x | y)^2 / w(x)."""
    guidance = ClassifierFree(scale)
    p, told = model(X, NOISE).exp(), model(X, NOISE, Y).exp()
    expected = told**scale * p ** (1 - scale)
    model.asked.clear()
    found = guidance.wrap(model)(X, NOISE, Y).exp()
    torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True))
    assert len(model.asked) == guidance.evaluations == 2


def test_a_little_beside_the_ends_is_the_ends(model):
    for scale in (0.0, 1.0):
        near, at = (ClassifierFree(s).wrap(model)(X, NOISE, Y) for s in (scale + 1e-9, scale))
        torch.testing.assert_close(near, at, rtol=0, atol=1e-6)


def test_what_cannot_be_guided_is_refused(model):
    guidance = ClassifierFree()
    with pytest.raises(UserError, match="condition y"):
        guidance.wrap(model)(X, NOISE)
    with pytest.raises(IncompatibleAxes, match="conditioner"):
        guidance.check(conditional=False, label_dropout=0.1)
    with pytest.raises(IncompatibleAxes, match="label_dropout"):
        guidance.check(conditional=True, label_dropout=0.0)
    guidance.check(conditional=True, label_dropout=0.1)
