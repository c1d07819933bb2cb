import math
from functools import partial

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.optim import GrowingStages, Warmup, WarmupCosine


def rates(schedule, steps: int) -> torch.Tensor:
    """The rate of each step, of an optimizer whose own rate is 0.5."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.5)
    schedule, used = schedule(optimizer), []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return torch.tensor(used, dtype=torch.float64)


def test_warmup_climbs_in_equal_steps_from_above_zero_and_stays():
    used = rates(lambda o: Warmup(o, 4), 12)
    torch.testing.assert_close(used[:5], torch.linspace(0.1, 0.5, 5, dtype=torch.float64))
    assert (used[4:] == 0.5).all()


@pytest.mark.parametrize("schedule", [lambda o: Warmup(o, 0), lambda o: WarmupCosine(o, 10, 0)])
def test_without_warmup_the_first_step_has_the_full_rate(schedule):
    assert rates(schedule, 1) == 0.5


@pytest.mark.parametrize("final", [0.0, 0.2])
@pytest.mark.parametrize("warmup", [0, 5])
def test_the_cosine_falls_from_the_full_rate_to_the_final_one(warmup, final):
    used = rates(lambda o: WarmupCosine(o, 25, warmup, final), 40)
    assert used.argmax() == warmup and used[warmup] == 0.5
    cosine = used[warmup:26]
    assert (cosine.diff() < 0).all() and (used[:warmup].diff() > 0).all() and (used > 0).all() == (final > 0)
    # half a cosine is symmetric about its middle: opposite steps sum to the two ends
    torch.testing.assert_close(cosine + cosine.flip(0), torch.full_like(cosine, 0.5 * (1 + final)))
    # a quarter of the way it has fallen by (1 - sqrt(1/2)) / 2
    quarter = rates(lambda o: WarmupCosine(o, 8, 0, final), 3)[2]
    assert quarter == pytest.approx(0.5 * (1 - (1 - final) * (1 - math.sqrt(0.5)) / 2))
    torch.testing.assert_close(used[25:], torch.full_like(used[25:], 0.5 * final))


@pytest.mark.parametrize("kind, arguments", [(Warmup, (-1,)), (WarmupCosine, (5, 5)), (WarmupCosine, (0,))])
def test_lengths_without_meaning_are_refused(kind, arguments):
    with pytest.raises(UserError, match="warmup_steps"):
        rates(lambda o: kind(o, *arguments), 0)


def test_stages_of_burda():
    """3^i epochs at the rates of the paper, 3,280 epochs in all (Burda et al. 2016, sec. 5.1): here an epoch is one step."""
    used = rates(lambda o: GrowingStages(o, 3280), 3300)
    factors, lengths = (2 * used[:3280]).unique_consecutive(return_counts=True)
    torch.testing.assert_close(factors, torch.tensor([1.0, 0.72, 0.52, 0.37, 0.27, 0.19, 0.14, 0.1]).double())
    assert lengths.tolist() == [3**i for i in range(8)]
    assert (used[3280:] == used[3279]).all()


@pytest.mark.parametrize("kind", [WarmupCosine, partial(GrowingStages, growth=1)])
def test_a_longer_training_goes_on_at_the_rate_of_its_own_schedule(kind):
    """From the first step on, and says so with both numbers; one of the same length, or of a length given, says nothing."""

    def made(total: int | None):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.5)
        return optimizer, kind(optimizer, total)

    def advanced(optimizer, schedule, steps: int) -> list[float]:
        used = []
        for _ in range(steps):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return used

    whole = advanced(*made(20), 20)
    optimizer, schedule = made(10)
    advanced(optimizer, schedule, 10)
    state, rate = schedule.state_dict(), optimizer.param_groups[0]["lr"]
    for total, said in ((20, True), (10, False)):
        optimizer, schedule = made(total)
        optimizer.param_groups[0]["lr"] = rate  # as the optimizer's own state brings it
        schedule.load_state_dict(state)
        assert schedule.total_steps == total and bool(schedule.remarks()) == said
        if said:
            assert optimizer.param_groups[0]["lr"] == whole[10]
            (remark,) = schedule.remarks()
            assert f"{whole[10]:.3g}" in remark and f"{rate:.3g}" in remark and "total_steps 10 to keep" in remark
            assert advanced(optimizer, schedule, 10) == whole[10:]
            assert set(schedule.state_dict()) == set(state)
        else:
            assert optimizer.param_groups[0]["lr"] == rate


@pytest.mark.parametrize("kind", [WarmupCosine, GrowingStages])
def test_a_schedule_of_a_training_without_a_length_keeps_its_height_and_says_so(kind):
    used = rates(lambda o: kind(o), 5)
    assert (used == 0.5).all()
    schedule = kind(torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.5))
    assert "max_steps is -1" in schedule.remarks()[0]
