"""Tables of betas: exact at the paper's steps, smooth between them."""

import math

import pytest
import torch

from lightning_gen.diffusion import UniformTime
from lightning_gen.diffusion.schedules import DiscreteBeta, DiscreteCosine, DiscreteLinearBeta
from lightning_gen.errors import UserError


def grid(steps):
    """t of x_1 .. x_T."""
    return torch.linspace(0, 1, steps, dtype=torch.float64)


@pytest.mark.parametrize("steps", [3, 10, 1000])
def test_linear_is_ddpms_product_at_every_step(steps):
    end = min(20 / steps, 0.9)
    alpha2 = torch.cumprod(1 - torch.linspace(1e-4, end, steps, dtype=torch.float64), 0)
    logsnr = DiscreteLinearBeta(steps, beta_max=end).logsnr(grid(steps))
    torch.testing.assert_close(logsnr, (alpha2 / (1 - alpha2)).log(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [50, 4000])
def test_cosine_is_iddpms_product_at_every_step(steps):
    def f(i):
        return math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = torch.tensor([min(1 - f(i) / f(i - 1), 0.999) for i in range(1, steps + 1)], dtype=torch.float64)
    alpha2 = torch.cumprod(1 - betas, 0)
    logsnr = DiscreteCosine(steps).logsnr(grid(steps))
    torch.testing.assert_close(logsnr, (alpha2 / (1 - alpha2)).log(), rtol=0, atol=1e-9)
    assert logsnr[-2].item() == pytest.approx(math.log(f(steps - 1) / f(0)), abs=1e-3)  # only the last step is limited


@pytest.mark.parametrize(("kind", "name"), [(DiscreteLinearBeta, "linear"), (DiscreteCosine, "squaredcos_cap_v2")])
def test_agrees_with_diffusers(kind, name):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule=name).alphas_cumprod.double()
    torch.testing.assert_close(torch.sigmoid(kind(1000).logsnr(grid(1000))), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [DiscreteLinearBeta, lambda: DiscreteLinearBeta(50, 1e-3, 0.4), DiscreteCosine])
def test_slope_is_continuous_and_close_to_the_tables(make):
    schedule = make()
    steps = schedule.steps
    inner = grid(steps)[1:-1]
    before, after = schedule.dlogsnr_dt(inner - 1e-9), schedule.dlogsnr_dt(inner + 1e-9)
    torch.testing.assert_close(before, after, rtol=1e-3, atol=0)
    # no wiggles: halfway between two knots the slope of -log alpha^2 is within half of its mean there
    centre = (grid(steps)[1:] + grid(steps)[:-1]) / 2
    fall = -torch.nn.functional.logsigmoid(schedule.logsnr(grid(steps))).diff()
    beta = -schedule.dlogsnr_dt(centre) * torch.sigmoid(-schedule.logsnr(centre)) / (steps - 1)
    ratio = beta / fall
    assert ratio.min() > 0.5 and ratio.max() < 1.5


def test_between_the_steps_of_the_linear_table_beta_is_linear():
    """Where I = -log alpha^2 is nearly a parabola its cubic is one: dI/du moves evenly through each interval."""
    schedule = DiscreteLinearBeta(1000)
    t = torch.linspace(0, 1, 999 * 4 + 1, dtype=torch.float64)
    rate = -schedule.dlogsnr_dt(t) * torch.sigmoid(-schedule.logsnr(t))
    bend = rate.diff().diff().abs()
    assert bend.max() < 2e-3 * rate.diff().abs().max()


def test_the_grid_of_a_sampler_is_the_papers_chain():
    """T - 1 uniform steps between t = 0 and 1 stop at x_T .. x_1 and nowhere else."""
    schedule = DiscreteLinearBeta(40, 1e-3, 0.3)
    alpha2 = torch.cumprod(1 - torch.linspace(1e-3, 0.3, 40, dtype=torch.float64), 0)
    reached = torch.sigmoid(schedule.logsnr(UniformTime().times(39, schedule).double()))
    torch.testing.assert_close(reached.sort(descending=True).values, alpha2, rtol=1e-6, atol=0)


def test_the_table_stays_exact_when_the_module_changes_dtype():
    schedule, t = DiscreteLinearBeta(), torch.linspace(0, 1, 77, dtype=torch.float64)
    before = schedule.logsnr(t)
    torch.testing.assert_close(torch.nn.Sequential(schedule).bfloat16()[0].logsnr(t), before, rtol=0, atol=0)
    assert schedule.to("meta").logsnr(t.to("meta")).device.type == "meta"  # and follows it to another device


def test_a_new_table_is_one_method():
    class Constant(DiscreteBeta):
        def betas(self):
            return torch.full((self.steps,), 0.1, dtype=torch.float64)

    alpha2 = 0.9 ** torch.arange(1, 31, dtype=torch.float64)
    torch.testing.assert_close(Constant(30).logsnr(grid(30)), torch.logit(alpha2), rtol=0, atol=1e-10)
    # I is a line: so it is between the knots
    half = Constant(30).logsnr((grid(30)[1:] + grid(30)[:-1]) / 2)
    torch.testing.assert_close(half, torch.logit((alpha2[1:] * alpha2[:-1]).sqrt()), rtol=0, atol=1e-10)


def test_a_table_that_jumps_is_still_monotone_in_between():
    class Jumping(DiscreteBeta):
        def betas(self):
            return torch.tensor([1e-3, 0.7, 1e-4], dtype=torch.float64).repeat(self.steps)[: self.steps]

    schedule = Jumping(20)
    t = torch.linspace(0, 1, 5001, dtype=torch.float64)
    assert (schedule.logsnr(t).diff() < 0).all() and (schedule.dlogsnr_dt(t) < 0).all()
    torch.testing.assert_close(schedule.time(schedule.logsnr(t)), t, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiscreteLinearBeta(steps=2), "3 steps or more"),
        (lambda: DiscreteLinearBeta(beta_max=1.0), "beta_max < 1"),
        (lambda: DiscreteCosine(offset=-1.0), "offset >= 0"),
        (lambda: DiscreteLinearBeta(logsnr_max=9.5), r"reaches log-SNR -10.12 to 9.21, not the -10.1\d+ to 9.5"),
        (lambda: DiscreteLinearBeta(logsnr_min=-11.0), "reaches log-SNR -10.12 to 9.21"),
        (lambda: DiscreteLinearBeta(logsnr_min=5.0, logsnr_max=4.0), "logsnr_min < logsnr_max"),
    ],
)
def test_tables_and_ends_that_cannot_be_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
