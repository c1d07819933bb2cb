"""Laws of the flow in its own coordinates."""

import pytest
import torch

from lightning_gen.diffusion.denoisers import TrainingSetDenoiser
from lightning_gen.diffusion.paths import Linear, SubVariancePreserving, VarianceExploding, VariancePreserving
from lightning_gen.diffusion.probability_flow import ProbabilityFlow, unit_scale
from lightning_gen.diffusion.schedules import Cosine, FlowMatching

PATHS = [VariancePreserving(), VarianceExploding(), SubVariancePreserving(), Linear()]
EXAMPLES = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.2, -0.8]], dtype=torch.float64)


def points(num, seed=0):
    return torch.randn(num, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("schedule", [Cosine(), FlowMatching()])
def test_it_is_the_flow_of_x_in_t(path, schedule):
    """x = scale u, so dx/dt = dscale/dt u + scale du/dlogsnr dlogsnr/dt: alpha' x0_hat + sigma' eps_hat."""
    level = path.at(schedule, torch.linspace(0.05, 0.95, 7, dtype=torch.float64))
    denoiser, u, scale = TrainingSetDenoiser(EXAMPLES, path), points(7), unit_scale(level)
    own = ProbabilityFlow(denoiser, None)(torch.arange(7), level.logsnr, u)
    stretch = (level.alpha * level.dalpha_dt + level.sigma * level.dsigma_dt) / scale
    found = stretch[:, None] * u + (scale * level.dlogsnr_dt)[:, None] * own
    prediction = denoiser(scale[:, None] * u, level.logsnr)
    expected = level.dalpha_dt[:, None] * prediction.x0 + level.dsigma_dt[:, None] * prediction.eps
    torch.testing.assert_close(found, expected)


def test_it_is_the_same_on_every_path():
    logsnr, u = torch.linspace(-9, 9, 7, dtype=torch.float64), points(7)
    flows = [ProbabilityFlow(TrainingSetDenoiser(EXAMPLES, path), None)(torch.arange(7), logsnr, u) for path in PATHS]
    for other in flows[1:]:
        torch.testing.assert_close(other, flows[0])


def test_each_example_keeps_its_condition():
    denoiser = TrainingSetDenoiser(EXAMPLES, VariancePreserving(), torch.tensor([0, 1, 2]))
    y, u, logsnr = torch.tensor([2, 0, 1, 1]), points(4), torch.zeros(4, dtype=torch.float64)
    whole = ProbabilityFlow(denoiser, y)(torch.arange(4), logsnr, u)
    part = ProbabilityFlow(denoiser, y)(torch.tensor([3, 1]), logsnr[:2], u[[3, 1]])
    torch.testing.assert_close(part, whole[[3, 1]])
    assert (whole - ProbabilityFlow(denoiser, None)(torch.arange(4), logsnr, u)).abs().min() > 1e-3
