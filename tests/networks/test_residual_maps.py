from itertools import product

import pytest
import torch

from lightning_gen.networks import ConvBlock, ResidualDecoder, ResidualEncoder, ResidualMLP

SHAPES = [(3, 28, 28), (4, 14, 14), (5, 7, 7), (6, 4, 4), (6, 2, 2), (7, 1, 1), (9,)]
BLOCK = dict(width=8, depth=1)


def test_a_block_leads_between_any_two_layers_of_a_hierarchy():
    for start, end in product(SHAPES, SHAPES):
        assert ConvBlock(start, end, **BLOCK)(torch.randn(2, *start)).shape == (2, *end)


@pytest.mark.parametrize(
    ("start", "end", "blocks"),
    [((3, 9, 9), (4, 9, 9), 1), ((3, 9, 9), (4, 3, 3), 3), ((3, 3, 3), (4, 9, 9), 3), ((3,), (4, 9, 9), 1)],
)
def test_each_change_of_resolution_has_a_block_of_its_own(start, end, blocks):
    assert len(ConvBlock(start, end, **BLOCK).blocks) == blocks


@pytest.mark.parametrize(("start", "end", "reach"), [((2, 8, 8), (3, 8, 8), 2), ((2, 4, 4), (3, 8, 8), 4)])
def test_between_images_a_pixel_reaches_as_far_as_the_convolutions(start, end, reach):
    """A new block has two: its blocks do nothing yet but double. (The head's norm would reach everywhere: it is left out.)"""
    block = ConvBlock(start, end, **BLOCK).eval()
    block.head = torch.nn.Identity()
    x = torch.randn(1, *start)
    moved = x.clone()
    moved[:, :, 0, 0] += 1.0
    change = (block(moved) - block(x)).abs().amax((0, 1))
    assert (change[: reach + 1, : reach + 1] > 1e-5).all()
    assert change[reach + 1 :].max() < 1e-6 and change[:, reach + 1 :].max() < 1e-6


def test_between_vectors_a_block_is_a_residual_mlp():
    block, mlp = ConvBlock((6,), (5, 1, 1), 3, **BLOCK), ResidualMLP((6,), (5, 1, 1), 3, **BLOCK)
    mlp.load_state_dict(block.state_dict())
    x, cond = torch.randn(4, 6), torch.randn(4, 3)
    assert torch.equal(block(x, cond), mlp(x, cond))


@pytest.mark.parametrize("kind", [ResidualEncoder, ResidualDecoder])
def test_stages_halve_or_double_between_them_and_keep_their_widths(kind):
    shapes = ((1, 9, 12), (5,)) if kind is ResidualEncoder else ((5,), (1, 9, 12))
    network, seen = kind(*shapes, widths=(8, 12, 16), depth=2), []
    for block in network.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[1:])))
    network(torch.randn(1, *shapes[0]))
    finest, middle, coarsest = (8, 9, 12), (12, 5, 6), (16, 3, 3)
    down = [finest] * 2 + [middle] * 3 + [coarsest] * 3
    up = [coarsest] * 2 + [middle] * 3 + [finest] * 3
    assert seen == (down if kind is ResidualEncoder else up)
