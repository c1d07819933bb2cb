"""Conditional flows: labels are asked for, drawn where nobody gives them, and seen by every layer that may see them."""

from functools import partial

import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.flow import Coupling, Elementwise, Split, VariationalDequantization
from lightning_gen.networks import ClassEmbedding, ConvNet, LinearConditioner
from lightning_gen.random_source import IndexedSource

X = torch.randint(17, (12, 1, 8, 8), generator=torch.Generator().manual_seed(5)).to(torch.uint8)


def rows(num, start=0):
    return IndexedSource(0, range(start, start + num))


def test_a_conditional_model_asks_for_labels_and_uses_them(made):
    module = made(conditioner=lambda n: ClassEmbedding(n, 4))
    y = torch.zeros(len(X), dtype=torch.long)
    zero, one = (module.log_likelihood(X, y + k).log_prob for k in (0, 1))
    assert not torch.isclose(zero, one).any()
    for refused in (module.log_likelihood, module.encode, module.training_loss, module.reconstruct):
        with pytest.raises(UserError, match="give y"):
            refused(X)
    z = module.encode(X, y)
    assert torch.equal(module.decode(z, y), X) and not torch.equal(module.decode(z, y + 1), X)
    # labels that nobody gives are drawn, by index
    assert torch.equal(module.sample(8, rng=rows(8))[4:], module.sample(4, rng=rows(4, 4)))
    y = module.drawn_labels(300, rows(300))
    assert torch.equal(module.sample(300, y, rng=rows(300)), module.sample(300, rng=rows(300)))
    assert y.bincount().min() > 60 and len(y.bincount()) == 3
    prompted = made(conditioner=lambda n: LinearConditioner(n, 5, 4), num_classes=None)
    assert prompted.sample(2, torch.ones(2, 5)).shape == (2, 1, 8, 8)
    with pytest.raises(UserError, match="give y"):
        prompted.sample(2)


@pytest.mark.parametrize("kind", [Coupling, Split, Elementwise], ids=lambda kind: kind.__name__)
def test_each_layer_that_may_be_conditional_is(made, kind):
    """Alone of its kind it tells classes apart: couplings, the priors of split-off latents, the prior of the last."""
    module = made(scale=0.0, conditioner=lambda n: ClassEmbedding(n, 4))
    for layer in (layer for layer in module.flow.modules() if type(layer) is kind):
        torch.manual_seed(1)
        parts = [layer] if kind is Elementwise else [layer.network]
        for parameter in (p for part in parts for p in part.parameters()):
            nn.init.normal_(parameter, std=0.3)
    y = torch.zeros(len(X), dtype=torch.long)
    zero, one = (module.log_likelihood(X, y + k).log_prob for k in (0, 1))
    assert not torch.isclose(zero, one).any()


def test_learned_noise_is_told_the_label(made):
    noise = VariationalDequantization(partial(ConvNet, widths=(8,)))
    module = made(scale=0.0, conditioner=lambda n: ClassEmbedding(n, 4), dequantization=noise)
    for parameter in noise.parameters():
        nn.init.normal_(parameter, std=0.3)
    y = torch.zeros(len(X), dtype=torch.long)
    zero, one = (module.log_likelihood(X, y + k).terms["dequantization"] for k in (0, 1))
    assert not torch.isclose(zero, one).any()


def test_an_unconditional_model_does_not_mind_labels(made):
    module, y = made(), torch.zeros(len(X), dtype=torch.long)
    assert torch.equal(module.log_likelihood(X, y).log_prob, module.log_likelihood(X).log_prob)
