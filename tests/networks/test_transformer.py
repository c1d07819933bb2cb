import math

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.networks import Transformer
from lightning_gen.networks.layers import zero
from lightning_gen.networks.transformer import Block, waves

TINY = dict(width=16, depth=2, heads=2)


def test_what_two_places_have_in_common_depends_on_their_offset_only():
    places = waves(40, 32)
    assert places.dtype == torch.float32 and places.shape == (40, 32)
    common = places.double() @ places.double().T
    for offset in range(40):
        torch.testing.assert_close(common.diagonal(offset), common[0, offset].expand(40 - offset), atol=1e-5, rtol=0)
    assert (common.fill_diagonal_(0) < 15.9).all()  # and no two are the same place: 16 is their square


def test_the_slowest_wave_goes_round_in_ten_thousand_times_two_pi_places_and_the_fastest_in_two_pi():
    places = waves(5, 4).double()
    torch.testing.assert_close(places[3, 0], torch.tensor(3.0).double().sin())
    torch.testing.assert_close(places[3, 3], torch.tensor(3.0 / math.sqrt(10_000)).double().cos())


@pytest.mark.parametrize(("gate", "opened", "shut"), [(2, "out", "mlp_out"), (5, "mlp_out", "out")])
def test_each_gate_opens_its_own_branch(gate, opened, shut):
    block = Block(16, 2, 32)
    with torch.no_grad():
        block.modulation.bias.view(6, 16)[gate] = 1.0
    h, embedding = torch.randn(2, 4, 16), torch.randn(2, 16)
    before = block(h, embedding)
    zero(getattr(block, shut))
    assert torch.equal(block(h, embedding), before)
    zero(getattr(block, opened))
    assert torch.equal(block(h, embedding), h) and not torch.equal(before, h)


def test_every_place_sees_every_other_before_and_after_it(awaken):
    network = awaken(Transformer((2, 6), 3, **TINY))
    x = torch.randn(1, 2, 6, requires_grad=True)
    out = network(x, torch.zeros(1))
    for place in range(6):
        (reached,) = torch.autograd.grad(out[0, :, place].square().sum(), x, retain_graph=True)
        assert (reached[0].abs().amax(0) > 1e-6).all()


def test_places_are_told_apart_by_their_positions_alone(awaken):
    network = awaken(Transformer((2, 6), 3, **TINY))
    x, logsnr, order = torch.randn(2, 2, 6), torch.tensor([-1.0, 2.0]), torch.tensor([3, 0, 5, 1, 4, 2])

    def error():
        return (network(x[:, :, order], logsnr) - network(x, logsnr)[:, :, order]).abs().max()

    assert error() > 1e-2
    network.positions.zero_()
    assert error() < 1e-5


def test_a_sequence_is_copied_shifted_by_a_place_within_a_few_steps():
    """What only attention by position can do."""
    torch.manual_seed(0)
    network = Transformer((4, 5), 4, width=32, depth=2, heads=2)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(100):
        tokens = torch.randint(4, (64, 5))
        x = torch.nn.functional.one_hot(tokens, 4).float().transpose(1, 2)
        loss = torch.nn.functional.cross_entropy(network(x, torch.zeros(64)), tokens.roll(1, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * math.log(4)


def test_its_size_is_that_of_its_parts():
    """12 width^2 of a block's matrices at an MLP of four widths, and 6 of its modulation."""
    small, large = (
        sum(p.numel() for p in Transformer((3, 10), 5, width=32, depth=depth).parameters()) for depth in (1, 2)
    )
    assert large - small == (4 + 2 * 4 + 6) * 32**2 + (3 + 1 + 4 + 1 + 6) * 32
    longer = Transformer((3, 1000), 5, width=32, depth=1)
    assert sum(p.numel() for p in longer.parameters()) == small and "positions" not in longer.state_dict()


@pytest.mark.parametrize(
    ("shape", "kwargs", "message"),
    [
        ((5,), {}, r"takes sequences \(F, N\), the data have shape \(5,\)"),
        ((1, 8, 8), {}, "takes sequences"),
        ((2, 8), {"width": 15, "heads": 3}, "multiple of 2"),
        ((2, 8), {"width": 16, "heads": 3}, "3 heads"),
        ((2, 8), {"depth": 0}, "positive"),
        ((2, 8), {"mlp_ratio": 0.0}, "positive"),
    ],
)
def test_errors(shape, kwargs, message):
    with pytest.raises(UserError, match=message):
        Transformer(shape, 1, **kwargs)
