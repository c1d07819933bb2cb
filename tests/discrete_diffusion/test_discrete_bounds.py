"""Laws of the estimate of the bound, against the bound enumerated."""

import pytest
import torch

from lightning_gen.discrete_diffusion import Absorbing, Cosine, Linear, MutualInformation, Uniform, VariationalBound
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource

ROWS = 3000


@pytest.mark.usefixtures("global_state")
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("draws", [1, 3])
def test_terms_have_the_means_that_are_enumerated(small, exact, draws, anything, exact_bound):
    """Each on its own, within four standard errors."""
    process, predictor = small.process, anything(small.process)
    expected = exact_bound(small, predictor)
    datum = 14  # [1, 1, 2]
    x = torch.tensor([[1, 1, 2]], dtype=torch.uint8).expand(ROWS, 3)
    found = VariationalBound(exact)(predictor, process, x, None, draws, GeneratorSource(draws))
    assert found.terms.keys() == expected.keys() and found.num_dims == 3
    assert found.kind == ("exact" if exact and process.deterministic else "elbo")
    torch.testing.assert_close(sum(found.terms.values()), found.log_prob)
    for name, term in found.terms.items():
        error = term.std().item() / ROWS**0.5
        assert abs(term.mean().item() - expected[name][datum].item()) < 4 * error + 1e-3, (
            name
        )  # what is rarer than 1 in 3000
        assert term.isfinite().all()


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), MutualInformation()])
def test_continuous_time_has_the_mean_of_many_steps(schedule, bind, anything):
    """Told the time or not; nothing is left to reconstruct."""
    limit, chain = (bind(Absorbing(), schedule, (3,), 3, steps) for steps in (None, 2000))
    x = torch.tensor([[1, 1, 2]]).expand(ROWS, 3)
    predictor = anything(limit)
    found, expected = (
        VariationalBound()(predictor, process, x, None, 4, GeneratorSource(0)) for process in (limit, chain)
    )
    error = (found.log_prob.var() + expected.log_prob.var()).sqrt().item() / ROWS**0.5
    assert (found.log_prob.mean() - expected.log_prob.mean()).abs() < 4 * error + 0.02
    assert not found.terms["reconstruction"].any() and found.terms["diffusion"].any()


def test_draws_cover_the_chain_evenly(bind, anything):
    """Twelve draws of a chain of thirteen steps: each later step once, the first always."""
    process = bind(Uniform(), Cosine(), (3,), 3, 13)
    predictor = anything(process)
    VariationalBound()(predictor, process, torch.zeros(5, 3).long(), None, 12, GeneratorSource(0))
    told = process.logsnr(torch.arange(1, 14, dtype=torch.float64) / 13)
    asked = torch.stack([logsnr for _, logsnr in predictor.asked])
    steps = (asked[..., None] - told).abs().argmin(-1) + 1
    assert (steps[::2] == 1).all()
    assert all(sorted(own.tolist()) == list(range(2, 14)) for own in steps[1::2].T)


def test_more_draws_are_less_noisy(bind, anything):
    process = bind(Absorbing(), Cosine(), (3,), 3, None)
    predictor, x = anything(process), torch.tensor([[1, 1, 2]]).expand(2000, 3)
    spread = [
        VariationalBound()(predictor, process, x, None, draws, GeneratorSource(0)).log_prob.std().item()
        for draws in (1, 16)
    ]
    assert spread[1] < spread[0] / 4


def test_a_chain_of_one_step_is_all_reconstruction(bind, anything):
    process = bind(Uniform(), MutualInformation(), (3,), 3, 1)
    x = torch.tensor([[1, 1, 2]])
    for exact in (True, False):
        found = VariationalBound(exact)(anything(process), process, x, None, 2, GeneratorSource(0))
        assert found.terms["diffusion"] == 0 and found.terms["reconstruction"] < 0


@pytest.mark.parametrize("exact", [True, False])
def test_an_example_depends_on_its_index_alone(exact, small, anything):
    process, predictor = small.process, anything(small.process)
    x = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 0], [0, 0, 2], [2, 1, 1]])
    whole = VariationalBound(exact)(predictor, process, x, None, 2, IndexedSource(7, range(5)))
    for i in range(5):
        alone = VariationalBound(exact)(predictor, process, x[i : i + 1], None, 2, IndexedSource(7, [i]))
        torch.testing.assert_close(alone.log_prob, whole.log_prob[i : i + 1], rtol=1e-12, atol=1e-12)


def test_y_reaches_the_network(bind, anything):
    process = bind(Absorbing(), Cosine(), (3,), 3, 4)
    x = torch.tensor([[1, 1, 2]])
    of = [
        VariationalBound()(anything(process), process, x, torch.tensor([k]), 1, GeneratorSource(0)).log_prob.item()
        for k in range(3)
    ]
    assert len(set(of)) == 3


def test_what_cannot_be_summed_is_refused(bind, anything):
    process = bind(Absorbing(), Cosine(), (3,), 3, None)
    with pytest.raises(UserError, match="leave out exact"):
        VariationalBound(exact=True).check(process)
    with pytest.raises(UserError, match="at least one draw"):
        VariationalBound()(anything(process), process, torch.zeros(1, 3), None, 0, GeneratorSource(0))
