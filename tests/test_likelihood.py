import math

import pytest
import torch

from lightning_gen.likelihood import Likelihood

KINDS = ["exact", "elbo", "iwae-1", "iwae-5000", "dequantized", "ode", "density", "density-elbo"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_the_contract_is_known(kind):
    assert Likelihood(torch.zeros(2), kind, 1).kind == kind


@pytest.mark.parametrize("kind", ["", "ELBO", "iwae", "iwae-", "iwae-k", "exactly", "elbo ", "density-exact", "bpd"])
def test_unknown_kinds_are_refused(kind):
    with pytest.raises(ValueError, match="unknown likelihood kind"):
        Likelihood(torch.zeros(2), kind, 1)


def test_terms_sum_to_log_prob_without_the_rounding_of_their_dtype():
    # in float32, and in bfloat16 more so, the small term would vanish beside the large one
    terms = {"a": torch.full((3,), 1e4), "b": torch.full((3,), 1e-4), "c": torch.tensor([1.0, 2.0, 3.0]).bfloat16()}
    likelihood = Likelihood.from_terms(terms, "elbo", 4)
    assert likelihood.log_prob.dtype == torch.float64
    assert torch.equal(sum(term.double() for term in terms.values()), likelihood.log_prob)
    assert torch.equal(sum(likelihood.terms.values()), likelihood.log_prob)
    assert likelihood.terms.keys() == terms.keys()


@pytest.mark.parametrize("levels", [2, 17, 256, 65536])
@pytest.mark.parametrize("num_dims", [1, 784])
def test_the_uniform_law_costs_log2_of_its_levels(levels, num_dims):
    uniform = Likelihood(torch.full((5,), -num_dims * math.log(levels), dtype=torch.float64), "exact", num_dims)
    torch.testing.assert_close(uniform.bits_per_dim(), torch.full((5,), math.log2(levels), dtype=torch.float64))


def test_terms_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="term 'prior' has shape"):
        Likelihood(torch.zeros(3), "elbo", 1, {"prior": torch.zeros(())})


def test_terms_that_do_not_sum_to_log_prob_are_refused():
    with pytest.raises(ValueError, match="sum"):
        Likelihood(torch.zeros(3), "elbo", 1, {"prior": torch.ones(3)})


def test_rounding_and_divergence_are_not_refused():
    prior, logdet = torch.tensor([-1e4, 1.0]), torch.tensor([1e4 + 1, 2.0])
    Likelihood(prior + logdet + torch.tensor([1e-3, 1e-6]), "exact", 1, {"prior": prior, "logdet": logdet})
    broken = torch.tensor([math.nan, math.inf, -math.inf])
    Likelihood(broken, "elbo", 1, {"diffusion": broken, "prior": torch.zeros(3)})
    assert Likelihood.from_terms({"a": broken, "b": -broken}, "elbo", 1).log_prob.isnan().all()
