"""A model that is known exactly."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from lightning_gen.vae import FixedGaussian, FullCovariance, PosteriorForm, SingleLayer, StandardNormal
from lightning_gen.vae.gaussians import LOG_STD

DIM, LATENTS, NOISE = 5, 2, 0.4


def unbounded(log_std: torch.Tensor) -> torch.Tensor:
    """What an encoder has to say for that log deviation."""
    return LOG_STD * torch.atanh(log_std / LOG_STD)


def exact_model(posterior: PosteriorForm) -> tuple[SingleLayer, MultivariateNormal]:
    """x = W z + b + NOISE eps, and p(x). The encoder has the exact posterior's mean, and its covariance as far as it can."""
    torch.manual_seed(1)
    weight, offset = torch.randn(DIM, LATENTS).double(), torch.randn(DIM).double()
    decoder = nn.Sequential(nn.Linear(LATENTS, DIM)).double()
    precision = torch.eye(LATENTS).double() + weight.T @ weight / NOISE**2
    to_mean = precision.inverse() @ weight.T / NOISE**2

    class Exact(nn.Module):
        """Tipping and Bishop 1999, eq. 7."""

        def forward(self, x, cond=None):
            mean = (x.double() - offset) @ to_mean.T
            if isinstance(posterior, FullCovariance):
                factor = torch.linalg.cholesky(precision.inverse())
                spread = torch.cat([unbounded(factor.diagonal().log()), factor[1:, 0]])
            else:  # the best of the diagonal ones has the precision's diagonal
                spread = unbounded(-0.5 * precision.diagonal().log())
            return torch.cat([mean, spread.expand(len(x), -1)], 1)

    class Decode(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = decoder

        def forward(self, z, cond=None):
            return self.linear(z)

    with torch.no_grad():
        decoder[0].weight.copy_(weight)
        decoder[0].bias.copy_(offset)
    observation, prior = FixedGaussian(NOISE), StandardNormal()
    observation.bind((DIM,), None)
    prior.bind(LATENTS, (DIM,))
    model = SingleLayer(Exact(), Decode(), posterior, prior, observation, LATENTS)
    return model, MultivariateNormal(offset, weight @ weight.T + NOISE**2 * torch.eye(DIM).double())


@pytest.fixture
def probabilistic_pca():
    return exact_model
