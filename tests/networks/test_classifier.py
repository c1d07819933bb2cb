"""Laws of the network that says something of a noisy image as a whole."""

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.networks.classifier import AttentionPool, UNetEncoder

SHAPE = (2, 7, 6)


def build(cond_dim=None):
    return UNetEncoder(SHAPE, 5, cond_dim, channels=8, multipliers=(1, 2), blocks=1, attention=[4])


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    x, cond = torch.randn(4, *SHAPE, generator=generator), torch.randn(4, 3, generator=generator)
    return [x, torch.tensor([-12.0, -1.0, 3.0, 12.0]), cond]


def test_untrained_it_has_no_opinion(inputs):
    out = build(3)(*inputs)
    assert out.shape == (4, 5) and not out.any()


@pytest.mark.parametrize("which", [0, 1, 2], ids=["x", "logsnr", "cond"])
def test_an_example_changes_its_own_output_only(inputs, awaken, which):
    network = awaken(build(3))
    before = network(*inputs)
    inputs[which] = inputs[which].clone()
    inputs[which][1] += 0.5
    change = (network(*inputs) - before).abs().amax(1)
    assert change[1] > 1e-3 and change[[0, 2, 3]].max() < 1e-5


def test_gradient_reaches_every_parameter_and_every_pixel(inputs, awaken):
    network = awaken(build(3)).train()
    x = inputs[0].requires_grad_()
    network(*inputs).square().sum().backward()
    assert not [name for name, p in network.named_parameters() if not p.grad.any()]
    assert x.grad.ne(0).all()


def test_it_learns_to_tell_images_apart(inputs):
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(network(*inputs[:2]), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_the_condition_must_be_there_when_built_for_it_and_only_then(inputs):
    with pytest.raises(UserError, match="got none"):
        build(3)(*inputs[:2])
    with pytest.raises(UserError, match="cond_dim"):
        build()(*inputs)


def test_the_pool_knows_no_order_of_pixels_but_their_values(awaken):
    pool = awaken(AttentionPool(8, 2))
    x = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(2))
    turned = x.flatten(2)[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(3))].view_as(x)
    torch.testing.assert_close(pool(turned), pool(x))
    assert (pool(x.flip(0)) - pool(x)).abs().max() > 0.05
    # of equal pixels it is the map of their value, whatever the attention says
    flat = x[:, :, :1, :1].expand(-1, -1, 4, 4)
    torch.testing.assert_close(pool(flat), pool.key_value(x[:, :, 0, 0])[:, 8:])


@pytest.mark.parametrize(
    ("shape", "kwargs", "word"),
    [((5,), {}, "images"), (SHAPE, {"attention": [5]}, "height 5"), (SHAPE, {"channels": 8, "heads": 5}, "heads")],
)
def test_what_cannot_be_built_is_refused(shape, kwargs, word):
    with pytest.raises(UserError, match=word):
        UNetEncoder(shape, 5, **kwargs)
