"""Noise levels: their quantiles are those of the distributions named, and what a model does not know is refused."""

import math

import pytest
import torch
from torch.distributions import LogNormal

from lightning_gen.dae import FixedNoise, LogNormalNoise, LogUniformNoise
from lightning_gen.errors import UserError

U = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000


def test_quantiles():
    assert set(FixedNoise(0.3).quantile(U).tolist()) == {torch.tensor(0.3).item()}
    sigma = LogUniformNoise(0.01, 100.0).quantile(U)
    torch.testing.assert_close(sigma.log10(), (4 * U - 2).float(), atol=1e-5, rtol=1e-5)
    sigma = LogNormalNoise(-1.0, 1.5).quantile(U).double()
    torch.testing.assert_close(LogNormal(-1.0, 1.5).cdf(sigma), U, atol=1e-5, rtol=0)
    assert LogNormalNoise().quantile(torch.zeros(1)).isfinite().all()


@pytest.mark.parametrize("noise", [FixedNoise(0.3), LogUniformNoise(0.02, 5.0), LogNormalNoise()])
def test_levels_fall_by_one_ratio(noise):
    levels = torch.tensor(noise.levels(7), dtype=torch.float64)
    assert levels[0].item() == pytest.approx(noise.highest) and levels[-1].item() == pytest.approx(noise.lowest)
    ratios = levels[1:] / levels[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand(6))
    assert noise.levels(1) == [noise.highest]


def test_only_what_was_trained_can_be_asked():
    noise = LogUniformNoise(0.1, 10.0)
    part = noise.within(1.0, None)
    assert (part.highest, part.lowest) == (1.0, 0.1)
    assert noise.within(2.0, 2.0).levels(2) == pytest.approx([2.0, 2.0])
    for highest, lowest in ((20.0, None), (None, 0.01), (0.2, 0.5), (0.0, None), (None, 0.0)):
        with pytest.raises(UserError, match="from 0.1 to 10"):
            noise.within(highest, lowest)
    noise.check(torch.tensor([0.1, 2.0, 10.0]).double())  # floats that lie a little outside
    for sigma in (0.09, 11.0, 0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UserError, match="from 0.1 to 10: sigma"):
            noise.check(torch.tensor([1.0, sigma]))


@pytest.mark.parametrize(
    "wrong", [lambda: FixedNoise(0.0), lambda: FixedNoise(math.inf), lambda: LogUniformNoise(2.0, 1.0),
              lambda: LogUniformNoise(0.0, 1.0), lambda: LogNormalNoise(0.0, 0.0)]
)  # fmt: skip
def test_what_is_no_noise_is_refused(wrong):
    with pytest.raises(UserError):
        wrong()
