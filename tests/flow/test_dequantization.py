"""Dequantization: integers that come back, noise whose density is the one that is said."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.flow.bijections import CheckerboardMask, VectorMask
from lightning_gen.flow.dequantization import BesideContext, UniformDequantization, VariationalDequantization
from lightning_gen.networks import PlainMLP
from lightning_gen.networks.plain_conv import ConvNet
from lightning_gen.random_source import IndexedSource

LEVELS = (2, 17, 256, 1000)
OF_VECTORS = partial(PlainMLP, widths=[8])
OF_IMAGES = partial(ConvNet, widths=(8,), activation=nn.Tanh)


def bound(dequantization, shape, levels):
    torch.manual_seed(0)
    dequantization.bind(shape, levels)
    return dequantization


def every_integer(levels: int, num: int = 1) -> torch.Tensor:
    """[num, levels]."""
    kind = torch.uint8 if levels <= 256 else torch.int64
    return torch.arange(levels).to(kind).expand(num, -1)


KINDS = {
    "uniform": lambda levels: bound(UniformDequantization(), (levels,), levels),
    "variational": lambda levels: bound(VariationalDequantization(OF_VECTORS), (levels,), levels),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", LEVELS)
def test_integers_come_back(kind, levels, shaken):
    dequantization = shaken(KINDS[kind](levels), 0.1)
    x = every_integer(levels, 100)
    for rng in (IndexedSource(0, range(100)), None):
        v, _ = dequantization(x, rng)
        assert v.dtype == torch.float32 and v.min() > 0 and v.max() < 1
        back = dequantization.quantize(v)
        assert back.dtype == x.dtype and torch.equal(back, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", LEVELS)
def test_no_draw_of_noise_rounds_an_integer_away(kind, levels, given_noise):
    """The ends of float32's uniform draws: 255 + 0.9999999 is 256. One pixel in 300 000 meets them."""
    dequantization, x = KINDS[kind](levels), every_integer(levels)
    for end in (0.0, 2.0**-24, 1 - 2.0**-24):
        v, _ = dequantization(x, given_noise(torch.tensor(end)))
        assert v.min() > 0 and v.max() < 1
        assert torch.equal(dequantization.quantize(v), x)


@pytest.mark.parametrize("levels", LEVELS)
def test_what_lies_beside_the_cube_is_the_nearest_level(levels):
    dequantization = KINDS["uniform"](levels)
    v = torch.tensor([[-math.inf, -3.0, -1e-6, 1.0, 1.5, math.inf]])
    assert dequantization.quantize(v).tolist() == [[0, 0, 0, levels - 1, levels - 1, levels - 1]]
    assert dequantization.expected(v).tolist() == [[0, 0, 0, levels - 1, levels - 1, levels - 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_middle_of_the_noise_is_an_integer_without_rounding(kind):
    x = every_integer(17)
    dequantization = KINDS[kind](17)
    torch.testing.assert_close(dequantization.expected(dequantization(x, None)[0]), x.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", LEVELS)
def test_new_noise_is_uniform(kind, levels, kolmogorov_smirnov):
    """Exactly: a new variational one costs what a uniform one does, in every draw."""
    dequantization, x = KINDS[kind](levels), every_integer(levels, 20)
    v, term = dequantization(x, IndexedSource(1, range(20)))
    torch.testing.assert_close(term, torch.full((20,), -levels * math.log(levels)), rtol=1e-6, atol=0)
    u = v.double() * levels - x.double()
    assert kolmogorov_smirnov(u.flatten()) < 1.95


IMAGE, VECTOR = (1, 1, 2), (2,)
SMALL = {VECTOR: OF_VECTORS, IMAGE: OF_IMAGES}


def noise_of_a_grid(dequantization, x, side, given_noise, offset):
    """Noise [side, side, 2] and its log-density [side, side], of uniforms (i + offset) / cells on a square grid."""
    axis = (torch.arange(side, dtype=torch.float64) + offset[0]) / offset[1]
    w = torch.cartesian_prod(axis, axis).unflatten(1, dequantization.shape)
    u, weight = dequantization.noise(x.expand(len(w), *dequantization.shape), given_noise(w))
    return u.reshape(side, side, 2).detach(), -weight.reshape(side, side).detach()


@pytest.mark.parametrize("shape", SMALL, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_the_noise_has_a_density_over_the_cube(shape, seed, shaken, given_noise):
    """The cells of a grid of uniforms, moved: their areas are those of the square, and density times area is one."""
    dequantization = shaken(bound(VariationalDequantization(SMALL[shape]), shape, 5), 0.15, seed).double()
    x, cells = torch.tensor([1, 4]).reshape(1, *shape), 200
    corners, _ = noise_of_a_grid(dequantization, x, cells + 1, given_noise, (0, cells))
    _, log_q = noise_of_a_grid(dequantization, x, cells, given_noise, (0.5, cells))
    across, along = corners[1:, 1:] - corners[:-1, :-1], corners[1:, :-1] - corners[:-1, 1:]
    area = 0.5 * (across[..., 0] * along[..., 1] - across[..., 1] * along[..., 0]).abs()
    assert float(area.sum()) == pytest.approx(1, abs=2e-3)
    assert float((log_q.exp() * area).sum()) == pytest.approx(1, abs=2e-3)
    assert float(log_q.std()) > 0.1  # not uniform any more


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_the_log_density_is_the_jacobians(shape, shaken, given_noise):
    """u is a function of uniforms w, so q(u) = 1 / |det du/dw|; in float64 by autograd."""
    dequantization = shaken(bound(VariationalDequantization(SMALL[shape]), shape, 5), 0.3).double()
    for i in range(10):
        w = torch.rand(shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        x = torch.randint(5, (1, *shape), generator=torch.Generator().manual_seed(i))

        def u(w, x=x):
            return dequantization.noise(x, given_noise(w))[0].flatten()

        jacobian = torch.autograd.functional.jacobian(u, w).reshape(2, 2)
        _, weight = dequantization.noise(x, given_noise(w))
        assert float(weight) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-6)


@pytest.mark.parametrize(
    "shape, mask, network",
    [((5,), VectorMask, OF_VECTORS), ((2, 3, 4), CheckerboardMask, OF_IMAGES)],
    ids=["vector", "image"],
)
def test_beside_a_context_noise_changes_and_the_context_does_not(shape, mask, network, shaken):
    dequantization = shaken(bound(VariationalDequantization(network), shape, 7), 0.6)
    generator = torch.Generator().manual_seed(0)
    context, eps = (torch.randn(3, *shape, generator=generator) for _ in range(2))
    with torch.no_grad():
        moved, _ = dequantization.flow(torch.cat([context, eps], 1))
        other, _ = dequantization.flow(torch.cat([context + 1, eps], 1))
    assert torch.equal(moved.chunk(2, 1)[0], context)
    assert not torch.isclose(moved.chunk(2, 1)[1], eps).any()  # both halves take their turn
    assert not torch.isclose(moved.chunk(2, 1)[1], other.chunk(2, 1)[1]).any()  # by networks that see the context
    for flip in (False, True):
        beside = BesideContext((2 * shape[0], *shape[1:]), flip, mask)
        given, active = beside.split(torch.cat([context, eps], 1))
        assert given.shape[1:] == beside.given_shape and active.shape[1:] == beside.active_shape
        assert torch.equal(given[:, : shape[0]], context)
        assert torch.equal(beside.merge(torch.cat([context, eps], 1), active), torch.cat([context, eps], 1))


def test_noise_depends_on_every_pixel_nearby(shaken):
    """q(u | x): the gradient of the noise by the network's view of x is nowhere zero within its reach."""
    dequantization = shaken(bound(VariationalDequantization(OF_IMAGES, steps=2), (1, 3, 3), 9), 0.6)
    x = torch.full((1, 1, 3, 3), 4)
    rng = partial(IndexedSource, 0, range(1))
    before, _ = dequantization.noise(x, rng())
    for row in range(3):
        for column in range(3):
            changed = x.clone()
            changed[0, 0, row, column] = 8
            after, _ = dequantization.noise(changed, rng())
            assert (after != before).sum() >= 4


def test_kinds_and_refusals():
    assert UniformDequantization().kind == "dequantized" and VariationalDequantization(OF_VECTORS).kind == "elbo"
    with pytest.raises(UserError, match="a step or more, not 0"):
        VariationalDequantization(OF_VECTORS, steps=0)
