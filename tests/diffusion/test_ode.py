"""Laws of the adaptive integrator: order, tolerance, and that every example is integrated as if it were alone."""

import math

import pytest
import torch

from lightning_gen.diffusion.ode import DormandPrince, TooManyEvaluations
from lightning_gen.errors import UserError


def logistic(rows, time, state):
    """y' = y (1 - y) 2t: not autonomous, not linear."""
    y = state[0]
    return (y * (1 - y) * (2 * time).reshape(-1, *[1] * (y.ndim - 1)),)


def logistic_solution(y, time):
    return 1 / (1 + (1 / y - 1) * math.exp(-(time**2)))


START = torch.tensor([[0.1], [0.02], [0.7]], dtype=torch.float64)


def slope(evaluations, errors):
    """Of log error against log evaluations."""
    x, y = torch.tensor(evaluations).double().log(), torch.tensor(errors).double().log()
    return (((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()).item()


def test_the_error_falls_with_the_fifth_power_of_the_evaluations():
    """On a circle, where nothing damps or amplifies what was missed before; at points that are interpolated too."""
    times = torch.linspace(0, 20, 8, dtype=torch.float64)
    circle = torch.stack([times.cos(), times.sin()], 1)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    errors, evaluations = [], []
    for exponent in range(7, 11):
        solver = DormandPrince(10.0**-exponent, 10.0**-exponent)
        (states,), count = solver.solve(lambda rows, time, state: (state[0] @ turn,), (circle[:1],), times.tolist())
        error = (states[:, 0] - circle).abs()
        errors.append((error[-1].max().item(), error[:-1].max().item()))
        evaluations.append(count.item())
    for column in zip(*errors):
        assert slope(evaluations, column) == pytest.approx(-5, abs=0.15)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_the_tolerance_is_met(tolerance):
    (states,), _ = DormandPrince(tolerance, tolerance).solve(logistic, (START,), [0.0, 3.0])
    assert (states[-1] - logistic_solution(START, 3.0)).abs().max() < 10 * tolerance


def oscillators(rows, time, state):
    """Van der Pol's, of 64 stiffnesses: their steps differ by an order of magnitude."""
    position, velocity = state[0].unbind(1)
    stiffness = torch.linspace(0.1, 20, 64, dtype=torch.float64)[rows]
    return (torch.stack([velocity, stiffness * (1 - position**2) * velocity - position], 1),)


def test_an_example_does_not_depend_on_its_batch():
    """Beyond the last bits, in which vectorised functions differ from scalar ones; nor do its evaluations."""
    solver = DormandPrince(1e-6, 1e-6)
    start = torch.stack([torch.linspace(0.5, 2.0, 64), torch.linspace(-1.0, 1.0, 64)], 1).double()
    (whole,), evaluations = solver.solve(oscillators, (start,), [0.0, 2.0, 5.0])
    assert evaluations.max() > 4 * evaluations.min()
    for i in (0, 17, 63):
        alone = solver.solve(
            lambda rows, *rest, i=i: oscillators(rows + i, *rest), (start[i : i + 1],), [0.0, 2.0, 5.0]
        )
        torch.testing.assert_close(alone.states[0][:, 0], whole[:, i], rtol=1e-12, atol=1e-12)
        assert alone.evaluations.item() == evaluations[i]


def test_examples_that_have_arrived_are_not_evaluated():
    asked = torch.zeros(64, dtype=torch.int64)

    def counted(rows, *rest):
        asked[rows] += 1
        return oscillators(rows, *rest)

    _, evaluations = DormandPrince().solve(counted, (torch.ones(64, 2, dtype=torch.float64),), [0.0, 3.0])
    assert torch.equal(asked, evaluations)


def test_there_and_back():
    solver = DormandPrince(1e-9, 1e-9)
    there = solver.solve(logistic, (START,), [0.0, 2.0]).states[0][-1]
    back = solver.solve(logistic, (there,), [2.0, 0.0]).states[0][-1]
    torch.testing.assert_close(back, START, rtol=1e-6, atol=1e-8)
    assert (there - START).abs().min() > 0.1


def test_points_in_between_change_neither_the_steps_nor_the_end():
    solver, many = DormandPrince(1e-4, 1e-4), torch.linspace(0, 3, 100).tolist()
    few, all_of_them = (solver.solve(logistic, (START,), times) for times in ([0.0, 3.0], many))
    torch.testing.assert_close(all_of_them.states[0][-1], few.states[0][-1], rtol=1e-13, atol=0)
    assert torch.equal(few.evaluations, all_of_them.evaluations)
    exact = torch.stack([logistic_solution(START, time) for time in many])
    assert (all_of_them.states[0] - exact).abs().max() < 1e-3


def test_parts_of_a_state_keep_their_shapes_and_none_hides_behind_a_larger_one():
    """A part of one number beside one of a thousand: a norm over all would allow it a thirtyfold error."""

    def field(rows, time, state):
        still, moving = state
        assert still.shape == (len(rows), 10, 100) and moving.shape == (len(rows),)
        return torch.zeros_like(still), moving * torch.cos(5 * time) * 5

    solver, start = DormandPrince(1e-6, 1e-6), (torch.ones(2, 10, 100).double(), torch.tensor([1.0, 3.0]).double())
    (still, moving), evaluations = solver.solve(field, start, [0.0, 4.0])
    assert torch.equal(still[-1], start[0]) and moving.shape == (2, 2)
    torch.testing.assert_close(moving[-1], start[1] * math.exp(math.sin(20.0)), rtol=1e-5, atol=0)
    alone = solver.solve(
        lambda rows, time, state: field(rows, time, (start[0][rows], *state))[1:], start[1:], [0.0, 4.0]
    )
    assert torch.equal(alone.evaluations, evaluations)


def test_agrees_with_torchdiffeq():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    times = torch.linspace(0, 5, 6, dtype=torch.float64)
    start = torch.tensor([[1.0, 0.3], [-0.5, 2.0]], dtype=torch.float64)
    theirs = torchdiffeq.odeint(
        lambda t, y: oscillators(torch.arange(2), t.expand(2), (y,))[0], start, times, rtol=1e-10, atol=1e-10
    )
    ours = DormandPrince(1e-10, 1e-10).solve(oscillators, (start,), times.tolist()).states[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_an_example_whose_field_is_not_finite_is_nan_and_harms_no_other():
    def broken(rows, time, state):
        (slope,) = logistic(rows, time, state)
        slope[(rows == 1) & (time > 0.5)] = math.nan
        slope[rows == 2] = math.inf
        return (slope,)

    solver = DormandPrince(1e-8, 1e-8)
    (states,), _ = solver.solve(broken, (START,), [0.0, 0.1, 2.0])
    (sound,), _ = solver.solve(logistic, (START,), [0.0, 0.1, 2.0])
    assert torch.equal(states[:, 0], sound[:, 0])
    assert states[:2, 1].isfinite().all() and states[2, 1].isnan() and states[1:, 2].isnan().all()


def test_what_cannot_be_met_is_said():
    with pytest.raises(TooManyEvaluations, match="has not come to the end in 100 evaluations: raise") as refusal:
        DormandPrince(1e-12, 1e-12, max_evaluations=100).solve(logistic, (START,), [0.0, 3.0])
    assert isinstance(refusal.value, UserError)
    for bad in ({"rtol": 0.0}, {"rtol": 1.0}, {"atol": 0.0}, {"atol": -1e-3}, {"max_evaluations": 7}):
        with pytest.raises(UserError, match="adaptive solver needs"):
            DormandPrince(**bad)


def test_nothing_to_do():
    (states,), evaluations = DormandPrince().solve(logistic, (START[:0],), [0.0, 1.0])
    assert states.shape == (2, 0, 1) and len(evaluations) == 0
    (states,), evaluations = DormandPrince().solve(lambda r, t, s: (0 * s[0],), (START,), [0.0, 1.0])
    assert torch.equal(states[1], START) and evaluations.max() < 60
