"""Great circles between latents, and what LatentVariables makes of encode and decode alone."""

import math

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.powers import LatentVariables, spherical


def vectors(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.acos(torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1))


@pytest.mark.parametrize("dim", [2, 3, 50])
def test_the_way_goes_along_the_circle_at_an_even_pace(dim):
    start, end = vectors(20, dim), 3 * vectors(20, dim, 1)
    path, t = spherical(start, end, 7), torch.linspace(0, 1, 7, dtype=torch.float64)
    torch.testing.assert_close(path[:, 0], start)
    torch.testing.assert_close(path[:, -1], end)
    whole = angle(start, end)[:, None]
    torch.testing.assert_close(angle(path, start[:, None]), t * whole, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(angle(path, end[:, None]), (1 - t) * whole, atol=1e-6, rtol=1e-6)
    lengths = [v.norm(dim=1)[:, None] for v in (start, end)]
    torch.testing.assert_close(path.norm(dim=2), (1 - t) * lengths[0] + t * lengths[1])


def test_between_samples_of_a_normal_the_middle_is_as_long_as_a_sample():
    start, end = vectors(200, 50), vectors(200, 50, 1)
    straight = ((start + end) / 2).norm(dim=1).mean()
    assert straight < 0.75 * math.sqrt(50)
    assert spherical(start, end, 3)[:, 1].norm(dim=1).mean() == pytest.approx(math.sqrt(50), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.0, 2.5, 1 + 1e-6, -1.0, -0.3, 0.0])
def test_parallel_opposite_and_no_vectors_have_a_way_too(factor, dtype):
    start = vectors(5, 4).to(dtype).requires_grad_()
    path = spherical(start, factor * start, 5)
    torch.testing.assert_close(path[:, 0], start)
    torch.testing.assert_close(path[:, -1], factor * start)
    longest = max(1.0, abs(factor)) * start.norm(dim=1, keepdim=True)
    assert (path.norm(dim=2) <= longest * (1 + 1e-5)).all()
    unit = (start / start.norm(dim=1, keepdim=True))[:, None]
    off_the_line = path - (path * unit).sum(2, keepdim=True) * unit
    assert off_the_line.abs().max() < 1e-4
    path.sum().backward()
    assert path.isfinite().all() and start.grad.isfinite().all()
    zero = torch.zeros(2, 4, dtype=dtype)
    assert torch.equal(spherical(zero, zero, 3), torch.zeros(2, 3, 4, dtype=dtype))


def test_an_interpolation_has_both_ends():
    ends = vectors(2, 3), vectors(2, 3, 1)
    torch.testing.assert_close(spherical(*ends, 2), torch.stack(ends, 1))
    with pytest.raises(UserError, match="two ends, not 1"):
        spherical(*ends, 1)


class Doubled(LatentVariables):
    """z is half of x and of the condition; a sample of it is off by the noise."""

    latents = 3

    def encode(self, x, y=None, *, rng=None):
        z = (x - y) / 2
        return z if rng is None else z + rng

    def decode(self, z, y=None):
        return 2 * z + y


class Expecting(Doubled):
    def expected(self, z, y=None):
        return self.decode(z, y) + 0.25


X, Y = vectors(4, 3), torch.full((4, 1), 0.7, dtype=torch.float64)


def test_reconstructions_pass_through_the_latents_and_take_the_condition():
    torch.testing.assert_close(Doubled().reconstruct(X, Y), X)
    torch.testing.assert_close(Doubled().reconstruct(X, Y, rng=5.0), X + 10)
    torch.testing.assert_close(Expecting().reconstruct(X, Y), X)  # the most probable, not the mean


@pytest.mark.parametrize(("family", "off"), [(Doubled, 0.0), (Expecting, 0.25)])
def test_interpolations_show_the_mean_between_the_two(family, off):
    end = vectors(4, 3, 1)
    shown = family().interpolate(X, end, 5, Y)
    torch.testing.assert_close(shown[:, 0], X + off)
    torch.testing.assert_close(shown[:, -1], end + off)
    torch.testing.assert_close((shown - off - Y[:, None]) / 2, spherical((X - Y) / 2, (end - Y) / 2, 5))
