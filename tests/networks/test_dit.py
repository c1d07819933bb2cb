import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.networks import DiT, DiTB, DiTL, DiTS, DiTXL
from lightning_gen.networks.dit import patchify, positions, unpatchify


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_unpatchify_undoes_patchify_whose_tokens_are_the_patches_row_by_row(patch):
    x = torch.randn(2, 3, 12, 6)
    tokens = patchify(x, patch)
    assert torch.equal(unpatchify(tokens, patch, 12), x)
    corner = x[:, :, patch : 2 * patch, :patch]  # the first patch of the second row
    assert torch.equal(tokens[:, 6 // patch], corner.flatten(1))


def test_positions_are_all_different_and_what_two_have_in_common_depends_on_their_offset_only():
    grid = positions(7, 5, 32).unflatten(0, (7, 5)).double()
    assert grid.dtype == torch.float64 and positions(7, 5, 32).dtype == torch.float32
    assert len(torch.unique(positions(7, 5, 32), dim=0)) == 35
    product = torch.einsum("ijc,ijc->ij", grid[:-2, :-1], grid[2:, 1:])
    assert torch.allclose(product, product[0, 0], atol=1e-5)
    assert torch.allclose(grid.square().sum(2), torch.tensor(16.0).double(), atol=1e-5)
    assert torch.equal(grid[3, :, :16], grid[3, :1, :16].expand(5, -1))  # the first half is the row's


def test_without_positions_permuted_patches_give_permuted_patches_and_with_them_they_do_not(awaken):
    network = awaken(DiT((2, 6, 8), 3, width=16, depth=2, heads=2))
    x, logsnr = torch.randn(2, 2, 6, 8), torch.tensor([-1.0, 2.0])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))

    def error():
        permuted = network(unpatchify(patchify(x, 2)[:, order], 2, 6), logsnr)
        return (patchify(permuted, 2) - patchify(network(x, logsnr), 2)[:, order]).abs().max()

    assert error() > 1e-2
    network.positions.zero_()
    assert error() < 1e-5


def test_new_blocks_are_the_identity():
    network = DiT((2, 4, 4), 3, width=16, depth=3, heads=2)
    h = torch.randn(2, 4, 16)
    for block in network.blocks:
        assert torch.equal(block(h, torch.randn(2, 16)), h)


def test_after_the_first_step_of_the_output_the_gradient_reaches_the_gates_and_after_theirs_all(awaken):
    """From zero the weights wake from the output backwards, and nothing sleeps for good."""
    network = DiT((2, 4, 4), 3, 6, width=16, depth=2, heads=2)
    optimizer = torch.optim.SGD(network.parameters(), 1e-2)
    x, cond = torch.randn(4, 2, 4, 4), torch.randn(4, 6)
    for _ in range(4):
        optimizer.zero_grad()
        (network(x, torch.randn(4), cond) - torch.randn(4, 3, 4, 4)).square().mean().backward()
        awake = {name for name, p in network.named_parameters() if p.grad.any()}
        optimizer.step()
    assert awake == dict(network.named_parameters()).keys()


PAPER = {DiTS: 32_963_360, DiTB: 130_512_416, DiTL: 458_102_816, DiTXL: 675_129_632}
"""Parameters of the paper's code at patch 2 on latents 4x32x32: 33, 130, 458 and 675 M in its table 1."""


@pytest.mark.parametrize("size", PAPER)
def test_the_sizes_have_the_papers_numbers_of_parameters(size):
    """Theirs count the positions and the vectors of 1000 classes and of none; here the first are no parameters, and
    the second the conditioner's."""
    with torch.device("meta"):
        network = size((4, 32, 32), 8)
    own = sum(p.numel() for p in network.parameters())
    width = network.positions.shape[1]
    assert own + 16 * 16 * width + 1001 * width == PAPER[size]


def test_positions_are_not_trained_nor_saved_but_move_with_the_network():
    network = DiT((1, 4, 6), 1, width=16, depth=1, heads=2)
    assert "positions" not in network.state_dict()
    assert network.positions.dtype == torch.float32 and network.positions.shape == (6, 16)
    assert network.double().positions.dtype == torch.float64


@pytest.mark.parametrize(
    ("shape", "kwargs", "message"),
    [
        ((2,), {}, "takes images"),
        ((1, 7, 8), {}, "patches of 2 pixels do not divide images of 7x8: change patch"),
        ((1, 8, 8), {"patch": 3}, "change patch"),
        ((1, 8, 8), {"width": 18, "heads": 2}, "multiple of 4"),
        ((1, 8, 8), {"width": 16, "heads": 3}, "3 heads"),
        ((1, 8, 8), {"depth": 0}, "positive"),
    ],
)
def test_errors(shape, kwargs, message):
    with pytest.raises(UserError, match=message):
        DiT(shape, 1, **kwargs)


def test_patches_of_one_pixel_take_odd_sizes(awaken):
    network = awaken(DiT((1, 5, 7), 2, patch=1, width=16, depth=1, heads=2))
    assert network(torch.randn(2, 1, 5, 7), torch.zeros(2)).shape == (2, 2, 5, 7)
