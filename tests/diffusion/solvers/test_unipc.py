"""UniPC: its orders, and that the corrector costs nothing."""

import pytest
import torch

from lightning_gen.diffusion.paths import VariancePreserving
from lightning_gen.diffusion.schedules import Cosine
from lightning_gen.diffusion.solvers import DPMSolverPP, UniPC
from lightning_gen.errors import UserError


@pytest.mark.parametrize(("order", "variant"), [(1, "bh2"), (2, "bh1"), (2, "bh2"), (3, "bh2")])
def test_order_is_one_above_the_predictors(gaussian, axes, order, variant):
    assert gaussian.order(UniPC(order, variant), axes) == pytest.approx(order + 1, abs=0.2)


def test_the_last_x_is_the_predictors(gaussian, tools):
    """In one step nothing is corrected; from the second on, the corrector shows."""
    path = VariancePreserving()
    for steps, same in ((1, True), (2, False)):
        levels = tools.levels(Cosine(), path, steps)
        x = gaussian.draw(levels[0], 4)
        ends = [tools.integrate(s, gaussian.denoiser(path), levels, x) for s in (UniPC(2), DPMSolverPP(2))]
        assert torch.allclose(*ends) == same


@pytest.mark.parametrize("bad", [{"order": 0}, {"variant": "bh3"}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(UserError, match="UniPC"):
        UniPC(**bad)
