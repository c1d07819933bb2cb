"""Going back and forth between latents and data, where the conditional law is known."""

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource
from lightning_gen.vae import FullCovariance, PseudoGibbs


@torch.no_grad()
def test_with_the_exact_posterior_holes_are_filled_by_their_conditional_law(probabilistic_pca):
    """Of a Gaussian it is known: mean and covariance of the missing given the rest."""
    model, law = probabilistic_pca(FullCovariance())
    known = torch.tensor([True, False, True, False, True])
    x = law.sample((1,))
    inside, across = law.covariance_matrix[known][:, known], law.covariance_matrix[~known][:, known]
    weights = across @ inside.inverse()
    mean = law.mean[~known] + weights @ (x[0] - law.mean)[known]
    covariance = law.covariance_matrix[~known][:, ~known] - weights @ across.T
    num = 20_000
    filled = PseudoGibbs(steps=40)(model, x.float().expand(num, -1), known.expand(num, -1), None, GeneratorSource(0))
    assert (filled[:, known] == x[:, known].float()).all()
    found = filled[:, ~known].double()
    assert ((found.mean(0) - mean).abs() < 5 * (covariance.diagonal() / num).sqrt() + 1e-3).all()
    torch.testing.assert_close(torch.cov(found.T), covariance, atol=0.05 * float(covariance.max()), rtol=0)


def test_no_steps_are_refused():
    with pytest.raises(UserError, match="at least one step"):
        PseudoGibbs(steps=0)
