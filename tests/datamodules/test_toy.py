"""The toys' densities are densities, of their samples."""

import math

import pytest
import torch
from scipy.integrate import quad

from datamodules.toy import Checkerboard, EightGaussians, TwoMoons
from lightning_gen.errors import UserError

CELLS = 24


@pytest.fixture(scope="module", params=[TwoMoons, EightGaussians, Checkerboard], ids=lambda toy: toy.__name__)
def toy(request):
    return request.param(num_train=50_000)


@pytest.fixture(scope="module")
def histogram(toy) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(cell probabilities by the midpoint rule, counts of the training data, entropy) on CELLS^2 squares."""
    # 6 is a border of the board's cells in its own coordinates: the squares' edges fall on its cells' edges
    half, fine = (6 / toy.scale if isinstance(toy, Checkerboard) else 3.5), 6
    axis = ((torch.arange(CELLS * fine, dtype=torch.float64) + 0.5) / (CELLS * fine) * 2 - 1) * half
    density = torch.cat([toy.log_density(part) for part in torch.cartesian_prod(axis, axis).split(8_192)]).exp()
    mass = density.view(CELLS, fine, CELLS, fine).sum((1, 3)) * (2 * half / (CELLS * fine)) ** 2
    cell = ((toy.split("train").x.double() / half + 1) * CELLS / 2).floor().long()
    counts = torch.bincount(cell[:, 0] * CELLS + cell[:, 1], minlength=CELLS**2).double()
    entropy = -torch.xlogy(density, density).sum().item() * (2 * half / (CELLS * fine)) ** 2
    return mass, counts.view(CELLS, CELLS), entropy


def test_the_density_integrates_to_one(histogram):
    assert histogram[0].sum().item() == pytest.approx(1, abs=1e-8)


def test_the_samples_have_that_density(histogram):
    mass, counts, _ = histogram
    expected = counts.sum() * mass
    seen = expected > 10
    chi_squared = ((counts - expected)[seen] ** 2 / expected[seen]).mean().item()
    assert abs(chi_squared - 1) < 5 * math.sqrt(2 / seen.sum().item())
    assert counts[~seen].sum() <= 1.5 * expected[~seen].sum() + 5


def test_entropy_is_the_mean_negative_log_density(toy, histogram):
    assert toy.entropy() == pytest.approx(histogram[2], abs=1e-5)
    nll = -toy.log_density(toy.split("train").x[:20_000])
    assert nll.dtype == torch.float64 and nll.isfinite().all()
    assert abs(nll.mean().item() - toy.entropy()) < 4 * nll.std().item() / len(nll) ** 0.5 + 1e-9


def test_data_have_mean_zero_and_unit_variance(toy):
    x = toy.split("train").x
    assert x.mean(0).abs().max() < 0.02
    assert x.var(0).mean().item() == pytest.approx(1, abs=0.01)


def test_splits_are_fixed_by_the_seed_and_differ(toy):
    torch.manual_seed(1)
    same, other = type(toy)(num_train=50_000), type(toy)(num_train=50_000, data_seed=1)
    prints = [data.split("train").fingerprint() for data in (toy, same, other)]
    assert prints[0] == prints[1] != prints[2]
    assert not torch.equal(toy.split("train").x[:2000], toy.split("val").x)


@pytest.mark.parametrize("point", [(0.0, 0.0), (0.5, 0.25), (1.0, 0.0), (-1.1, -0.3), (2.0, 2.0), (3.0, -2.0)])
def test_the_moons_density_is_the_integral_over_their_arcs(point):
    def at(angle: float) -> float:
        upper = (point[0] - math.cos(angle)) ** 2 + (point[1] - math.sin(angle)) ** 2
        lower = (point[0] - 1 + math.cos(angle)) ** 2 + (point[1] - 0.5 + math.sin(angle)) ** 2
        return (math.exp(-upper / 0.02) + math.exp(-lower / 0.02)) / (2 * math.pi * math.pi * 0.02)

    integral = sum(quad(at, k * math.pi / 32, (k + 1) * math.pi / 32, epsrel=1e-12, epsabs=0)[0] for k in range(32))
    density = TwoMoons().log_density_of_z(torch.tensor([point], dtype=torch.float64))
    assert density.item() == pytest.approx(math.log(integral), abs=1e-8)


def test_labels_name_the_component():
    data = EightGaussians().split("train")
    angle = torch.atan2(data.x[:, 1], data.x[:, 0])
    nearest = (angle / (math.pi / 4)).round().long() % 8
    assert (nearest == data.y).double().mean() > 0.99
    moons = TwoMoons().split("train")
    # the lower moon is the upper one turned half a circle about the centre
    upper, lower = moons.x[moons.y == 0].mean(0), moons.x[moons.y == 1].mean(0)
    assert torch.allclose(upper, -lower, atol=0.03) and upper[1] > 0.3


def test_off_the_board_the_density_is_zero():
    board = Checkerboard()
    side = 2 / board.scale
    points = torch.tensor([[0.5, 0.5], [0.5, 1.5], [2.5, 0.5], [-1.5, -2.5]]) * side
    assert board.log_density(points).exp().gt(0).tolist() == [True, False, False, False]
    assert board.log_density(torch.tensor([[1e9, 0.0]])).item() == -math.inf


def test_no_example_of_the_board_lies_on_an_edge():
    board = Checkerboard(num_train=2_000_000)
    x = board.split("train").x
    in_cells = x.double() * board.scale / 2
    assert (in_cells - in_cells.round()).abs().min() > 1.5e-6  # of two million, some twelve would be nearer
    assert board.log_density(x).isfinite().all()


def test_an_empty_split_is_refused():
    with pytest.raises(UserError, match="num_val must be at least 1, not 0"):
        TwoMoons(num_val=0)
