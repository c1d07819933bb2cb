"""Preconditioning: unit variances in and out, the least error amplified, and the weight that goes with it."""

import pytest
import torch

from lightning_gen.dae import InverseVariance, Plain, Preconditioned, UnitTarget, Unweighted
from lightning_gen.errors import UserError

SIGMA = torch.logspace(-2, 2, 9, dtype=torch.float64)


def test_input_and_target_have_unit_variance_and_the_target_is_uncorrelated_with_the_input():
    """For data of variance d^2: target (x0 - skip x) / out. Its independence of x is what makes `out` least."""
    d = 0.7
    skip, out, into = Preconditioned(d)(SIGMA)
    torch.testing.assert_close(into**2 * (d**2 + SIGMA**2), torch.ones_like(SIGMA))
    torch.testing.assert_close(((1 - skip) ** 2 * d**2 + skip**2 * SIGMA**2) / out**2, torch.ones_like(SIGMA))
    torch.testing.assert_close((1 - skip) * d**2 - skip * SIGMA**2, torch.zeros_like(SIGMA))


def test_the_unit_target_weighs_alike_in_the_networks_output():
    torch.testing.assert_close(UnitTarget(0.7)(SIGMA) * Preconditioned(0.7)(SIGMA).out ** 2, torch.ones_like(SIGMA))
    torch.testing.assert_close(InverseVariance()(SIGMA) * SIGMA**2, torch.ones_like(SIGMA))
    assert (Unweighted()(SIGMA) == 1).all()


def test_plain_is_the_network():
    skip, out, into = Plain()(SIGMA)
    assert (skip == 0).all() and (out == 1).all() and (into == 1).all()


def test_no_deviation_is_refused():
    with pytest.raises(UserError, match="data_std"):
        Preconditioned(0.0)
    for data_std in (0.0, -0.5, float("nan")):
        with pytest.raises(UserError, match="data_std"):
            UnitTarget(data_std)


def test_the_unit_target_of_another_preconditioning_is_refused():
    UnitTarget(0.7).check(Preconditioned(0.7))
    UnitTarget(0.7).check(Plain())
    with pytest.raises(UserError, match="0.5, not 0.7"):
        UnitTarget(0.7).check(Preconditioned(0.5))
