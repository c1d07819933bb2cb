"""Steps for a number of network evaluations."""

import pytest

from lightning_gen.diffusion.guidance import ClassifierFree
from lightning_gen.diffusion.samplers import DiffusionSampler
from lightning_gen.diffusion.solvers import DDIM, Heun
from lightning_gen.errors import UserError
from lightning_gen.evaluation.budget import within


class Costly:
    """Two evaluations a step, but for the last, which has one."""

    def __init__(self, steps: int = 3, solver: str = "x") -> None:
        self.steps, self.solver = steps, solver

    @property
    def nfe(self):
        return 2 * self.steps - 1


class Adaptive:
    def __init__(self, tolerance: float = 1e-3) -> None:
        self.tolerance, self.nfe = tolerance, None


@pytest.mark.parametrize("solver", [DDIM(), Heun()])
@pytest.mark.parametrize("guidance", [None, ClassifierFree(2.0)])
@pytest.mark.parametrize("nfe", [4, 11, 100])
def test_one_step_more_would_cost_too_much(solver, guidance, nfe):
    bought = within(DiffusionSampler(solver, steps=50, guidance=guidance), nfe)
    dearer = DiffusionSampler(solver, steps=bought.steps + 1, guidance=guidance)
    assert bought.nfe <= nfe < dearer.nfe
    assert type(bought.solver) is type(solver) and getattr(bought.guidance, "scale", None) == getattr(
        guidance, "scale", None
    )


@pytest.mark.parametrize(("nfe", "steps"), [(1, 1), (2, 1), (3, 2), (10, 5), (11, 6)])
def test_a_last_step_may_cost_less(nfe, steps):
    bought = within(Costly(solver="y"), nfe)
    assert (bought.steps, bought.solver) == (steps, "y")


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        (Adaptive(), "Adaptive has no number of steps"),
        (None, "without a sampler has no"),
        (DiffusionSampler(Heun()), "costs 2.*raise nfe"),
    ],
)
def test_what_cannot_be_bought_is_said(sampler, said):
    with pytest.raises(UserError, match=said):
        within(sampler, 1)
