"""One model, many targets: predicting x0, the noise, the score, ... is one denoiser in other coordinates (Tweedie)."""

import pytest
import torch

from lightning_gen.diffusion import (
    DDIM,
    Ancestral,
    DataPrediction,
    Denoiser,
    DiffusionSampler,
    EDMPrediction,
    FlowMatching,
    Heun,
    Linear,
    LinearBeta,
    MeanPrediction,
    NetworkDenoiser,
    NoisePrediction,
    ScorePrediction,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    VariationalBound,
    VelocityPrediction,
    VPrediction,
)
from lightning_gen.diffusion.decoders import VectorDecoder
from lightning_gen.networks import MLP
from lightning_gen.random_source import IndexedSource

TARGETS = [
    NoisePrediction(),
    DataPrediction(),
    VPrediction(),
    VelocityPrediction(),
    ScorePrediction(),
    MeanPrediction(50),
    EDMPrediction(0.7),
]
AXES = [
    (LinearBeta(), VariancePreserving()),
    (FlowMatching(), Linear()),
    (LinearBeta(), VarianceExploding()),
    (LinearBeta(), SubVariancePreserving()),
]


class Other(Denoiser):
    """The same model as another: what it says is turned into another target's output, and back."""

    def __init__(self, model: NetworkDenoiser, target):
        self.model, self.target, self.path = model, target, model.path

    def __call__(self, x_t, logsnr, y=None):
        said = self.model(x_t, logsnr, y)
        level = self.path.at(self.model.schedule, self.model.schedule.time(logsnr.double()))
        out = self.target.target(said.x0, said.eps, level)
        return self.target.to_prediction(out, x_t, level)


class Exact(Denoiser):
    """A denoiser that computes in float64, whatever state it is shown: the bound's own are float32."""

    def __init__(self, denoiser):
        self.denoiser, self.path = denoiser, denoiser.path

    def __call__(self, x_t, logsnr, y=None):
        return self.denoiser(x_t.double(), logsnr, y)


class InFloat64(torch.nn.Module):
    """An untrained network with something to say, in float64."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = MLP((3,), 3, width=16, depth=2)
        for parameter in self.network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        self.network.double()

    def forward(self, x, logsnr, cond=None):
        return torch.tanh(self.network(x, logsnr))


class Source(IndexedSource):
    """All noise in float64."""

    def normal(self, shape, dtype=torch.float64):
        return super().normal(shape, torch.float64)


@pytest.mark.parametrize("axes", AXES, ids=lambda axes: type(axes[1]).__name__)
@pytest.mark.parametrize("target", TARGETS, ids=lambda each: type(each).__name__)
@torch.no_grad()
def test_one_model_whatever_it_is_said_to_predict(axes, target):
    """Same x0, same bound, same samples, to float64 rounding over the condition of each target's 2x2 system."""
    schedule, path = axes
    model = NetworkDenoiser(InFloat64(), VPrediction(), schedule, path)
    other = Other(model, target)
    x = Source(3, range(8)).normal((8, 3))
    for value in (-8.0, -1.0, 2.0, 9.0):
        logsnr = torch.tensor(value, dtype=torch.float64)
        torch.testing.assert_close(other(x, logsnr).x0, model(x, logsnr).x0, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(other(x, logsnr).eps, model(x, logsnr).eps, rtol=1e-10, atol=1e-10)
    for sampler in (DiffusionSampler(each, steps=12) for each in (DDIM(), Ancestral(), Heun())):
        drawn = [sampler.sample(each, schedule, (8, 3), None, Source(0, range(8))) for each in (model, other)]
        torch.testing.assert_close(drawn[1], drawn[0], rtol=1e-9, atol=1e-9)
    bounds = [
        VariationalBound(steps)(Exact(each), schedule, VectorDecoder(), x, None, 4, Source(1, range(8))).log_prob
        for each in (model, other)
        for steps in (None, 20)
    ]
    torch.testing.assert_close(bounds[2], bounds[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bounds[3], bounds[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("axes", AXES, ids=lambda axes: type(axes[1]).__name__)
def test_tweedie_joins_them(axes):
    """For closed-form data all three are read off the score: x0 = (x_t + sigma^2 grad log q) / alpha, eps = -sigma grad."""
    from lightning_gen.diffusion import GaussianDenoiser

    schedule, path = axes
    cov = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    mean = torch.tensor([0.3, -1.0], dtype=torch.float64)
    level = path.at(schedule, torch.tensor(0.4, dtype=torch.float64))
    marginal = torch.distributions.MultivariateNormal(
        level.alpha * mean, level.alpha**2 * cov + level.sigma**2 * torch.eye(2, dtype=torch.float64)
    )
    x = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (score,) = torch.autograd.grad(marginal.log_prob(x).sum(), x)
    said = GaussianDenoiser(mean, cov, path)(x.detach(), level.logsnr)
    torch.testing.assert_close(ScorePrediction().target(said.x0, said.eps, level), score)
    torch.testing.assert_close(said.x0, ((x + level.sigma**2 * score) / level.alpha).detach())
    torch.testing.assert_close(said.eps, -level.sigma * score)
