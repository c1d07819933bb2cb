"""Estimators of a flow's likelihood, on one pixel whose probabilities are known by quadrature."""

import math

import numpy as np
import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.flow.bases import StandardNormal
from lightning_gen.flow.bijections import Chain, Elementwise, Logit, RationalQuadraticSpline
from lightning_gen.flow.bounds import ChangeOfVariables, ImportanceWeightedBound
from lightning_gen.flow.dequantization import UniformDequantization, VariationalDequantization
from lightning_gen.flow.flow_model import FlowModel
from lightning_gen.networks import PlainMLP
from lightning_gen.random_source import IndexedSource

LEVELS, EACH = 4, 500


def one_pixel(shaken, variational=False):
    torch.manual_seed(0)
    dequantization = VariationalDequantization(lambda *s: PlainMLP(*s, widths=[8])) if variational else None
    shape = (2,) if variational else (1,)  # couplings have to part something: the second pixel is independent
    dequantization = dequantization or UniformDequantization()
    dequantization.bind(shape, LEVELS)
    flow = shaken(Elementwise(shape, transform=RationalQuadraticSpline(reach=6.0), per_channel=False), 1.0)
    if variational:
        shaken(dequantization, 0.3)
    return FlowModel(flow, StandardNormal(), dequantization, Logit(shape, alpha=0.05))


def every_pixel(dims):
    """Each image of `dims` pixels `EACH` times, int64 [EACH * LEVELS^dims, dims]."""
    return torch.cartesian_prod(*[torch.arange(LEVELS)] * dims).reshape(-1, dims).repeat_interleave(EACH, 0)


def exact(model, dims):
    """log P(x) of each image, by Gauss-Legendre quadrature over the noise in 12 parts of each side. float64."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(8))
    u = ((torch.arange(12)[:, None] + (nodes + 1) / 2) / 12).flatten()
    weight = (weights / 24).repeat(12)
    noise = torch.cartesian_prod(*[u] * dims).reshape(-1, dims)
    weight = torch.cartesian_prod(*[weight] * dims).reshape(-1, dims).prod(1)
    model = FlowModel(model.flow.double(), model.base, None, model.logit)
    found = []
    for x in every_pixel(dims)[::EACH]:
        with torch.no_grad():
            p = sum(model.density((x + noise) / LEVELS, None).values()).exp()
        found.append(float((p * weight).sum().log()) - dims * math.log(LEVELS))
    model.flow.float()
    return torch.tensor(found, dtype=torch.float64)


def measured(estimator, model, dims, draws=1):
    """The likelihood's kind; mean over draws and its standard error, of each image."""
    x = every_pixel(dims)
    with torch.no_grad():
        likelihood = estimator(model, x, None, draws, IndexedSource(0, range(len(x))))
    rows = likelihood.log_prob.unflatten(0, (-1, EACH))
    return likelihood.kind, rows.mean(1), rows.std(1) / EACH**0.5


@pytest.mark.parametrize("variational", [False, True], ids=["uniform", "variational"])
def test_bounds_lie_below_the_probability_and_rise_to_it(variational, shaken):
    model, dims = one_pixel(shaken, variational), 1 + variational
    truth = exact(model, dims)
    kinds, means, errors = zip(
        measured(ChangeOfVariables(), model, dims),
        *(measured(ImportanceWeightedBound(k), model, dims) for k in (1, 4, 32)),
    )
    assert kinds == ("elbo" if variational else "dequantized", "iwae-1", "iwae-4", "iwae-32")
    for mean, error in zip(means, errors):
        assert (mean < truth + 4 * error).all()
    gaps = [float((truth - mean).mean()) for mean in means]
    assert gaps[0] > 0.05  # there is something to tighten
    assert gaps[0] > 2 * gaps[2] > 4 * gaps[3] > 0
    assert gaps[3] < 0.1 * gaps[0]


def test_one_sample_is_the_bound_of_its_draw(shaken):
    model, x = one_pixel(shaken), torch.arange(LEVELS)[:, None]
    with torch.no_grad():
        plain, weighted = (
            estimator(model, x, None, 1, IndexedSource(3, range(LEVELS)))
            for estimator in (ChangeOfVariables(), ImportanceWeightedBound(1))
        )
    torch.testing.assert_close(plain.log_prob, weighted.log_prob)


def test_draws_are_averaged_and_do_not_depend_on_what_is_computed_at_once(shaken):
    model, x = one_pixel(shaken), torch.arange(LEVELS)[:, None]

    def bound(estimator, draws):
        with torch.no_grad():
            return estimator(model, x, None, draws, IndexedSource(3, range(LEVELS)))

    several = bound(ChangeOfVariables(), 6)
    forks = [bound_of(model, x, IndexedSource(3, range(LEVELS)).fork("draw", k)) for k in range(6)]
    torch.testing.assert_close(several.log_prob, torch.stack(forks).mean(0))
    torch.testing.assert_close(sum(several.terms.values()), several.log_prob)
    parts = [bound(ImportanceWeightedBound(7, at_once=n), 2).log_prob for n in (1, 3, 8)]
    torch.testing.assert_close(parts[0], parts[1])
    torch.testing.assert_close(parts[0], parts[2])


def bound_of(model, x, rng):
    with torch.no_grad():
        return sum(term.double() for term in model.terms(x, None, rng).values())


def test_the_density_of_real_vectors_is_exact_and_needs_no_draws():
    model, x = FlowModel(Chain((2,)), StandardNormal()), torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    one, many = (ChangeOfVariables()(model, x, None, n, IndexedSource(n, range(5))) for n in (1, 9))
    assert one.kind == "density" and one.num_dims == 2 and torch.equal(one.log_prob, many.log_prob)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(one.log_prob, normal.double())


def test_what_has_no_meaning_is_refused():
    ChangeOfVariables().check(integers=False)
    ImportanceWeightedBound().check(integers=True)
    with pytest.raises(UserError, match="choose ChangeOfVariables"):
        ImportanceWeightedBound().check(integers=False)
    with pytest.raises(UserError, match="samples"):
        ImportanceWeightedBound(0)
    with pytest.raises(UserError, match="at least one draw, got 0"):
        ChangeOfVariables()(FlowModel(Chain((2,)), StandardNormal()), torch.zeros(1, 2), None, 0, IndexedSource(0, [0]))


def test_a_condition_stands_beside_each_of_its_samples(shaken):
    """IWAE of a batch is that of its examples one by one, each with its own condition."""
    dequantization = UniformDequantization()
    dequantization.bind((1,), LEVELS)
    model = FlowModel(shaken(Elementwise((1,), 3), 0.7), StandardNormal(), dequantization)
    x, cond = torch.arange(LEVELS)[:, None], torch.randn(LEVELS, 3, generator=torch.Generator().manual_seed(0))
    estimator = ImportanceWeightedBound(5, at_once=2)
    with torch.no_grad():
        whole = estimator(model, x, cond, 1, IndexedSource(0, range(LEVELS))).log_prob
        for i in range(LEVELS):
            alone = estimator(model, x[[i]], cond[[i]], 1, IndexedSource(0, [i])).log_prob
            torch.testing.assert_close(alone[0], whole[i])
