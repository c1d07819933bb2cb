"""Laws of every observation model: what the rest of the family relies on, whichever was chosen."""

import math

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource
from lightning_gen.vae.observations import (
    Bernoulli,
    CalibratedGaussian,
    Categorical,
    DiscretizedLogistic,
    FixedGaussian,
    LearnedGaussian,
    MixtureOfLogistics,
    base,
)

CASES = {
    "bernoulli": (Bernoulli, (1, 3, 2), 2),
    "bernoulli vector": (Bernoulli, (5,), 2),
    "categorical": (Categorical, (2, 3, 2), 5),
    "categorical sequence": (Categorical, (4,), 300),
    "logistic": (DiscretizedLogistic, (2, 3, 2), 17),
    "logistic, one scale": (lambda: DiscretizedLogistic(shared_scale=True), (4,), 300),
    "mixture": (lambda: MixtureOfLogistics(3), (3, 2, 2), 17),
    "mixture, grey": (lambda: MixtureOfLogistics(4), (1, 3, 2), 256),
    "mixture sequence": (lambda: MixtureOfLogistics(2), (5,), 300),
    "fixed": (lambda: FixedGaussian(0.3), (4,), None),
    "learned": (LearnedGaussian, (4,), None),
    "learned, one std": (lambda: LearnedGaussian(shared_scale=True), (4,), None),
    "calibrated": (CalibratedGaussian, (4,), None),
}
DTYPES = {None: torch.float32, 300: torch.int64}


@pytest.fixture(params=CASES, ids=list(CASES))
def bound(request):
    """(an observation model bound to data, some such data [6, *shape])."""
    make, shape, levels = CASES[request.param]
    observation = make()
    observation.bind(shape, levels)
    generator = torch.Generator().manual_seed(0)
    if levels is None:
        return observation, 2 + torch.randn(6, *shape, generator=generator)
    x = torch.randint(levels, (6, *shape), generator=generator)
    return observation, x.to(DTYPES.get(levels, torch.uint8))


def outputs(observation, rows, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, *observation.out_shape, generator=generator, dtype=torch.float64).to(dtype)


def test_rows_of_several_samples_are_those_of_each(bound, monkeypatch):
    """Row k B + b of `out` belongs to example b, in one piece or in many."""
    observation, x = bound
    out = outputs(observation, 3 * len(x))
    each = torch.cat([observation.log_prob(part, x) for part in out.split(len(x))])
    alone = torch.stack([observation.log_prob(out[i : i + 1], x[i % len(x)][None])[0] for i in range(len(out))])
    found = observation.log_prob(out, x)
    assert found.shape == (3 * len(x),)
    torch.testing.assert_close(found, each)
    torch.testing.assert_close(found, alone)
    mean, mode = observation.mean(out), observation.mode(out)
    monkeypatch.setattr(base, "_CHUNK", 1)
    torch.testing.assert_close(observation.log_prob(out, x), each)
    torch.testing.assert_close(observation.mean(out), mean)
    torch.testing.assert_close(observation.mode(out), mode)


def test_everything_is_in_its_own_domain(bound):
    observation, x = bound
    out = outputs(observation, len(x), torch.bfloat16)
    for said in (observation.sample(out, GeneratorSource(0)), observation.mode(out)):
        assert said.shape == x.shape and said.dtype == x.dtype
        if observation.integers:
            assert said.min().item() >= 0 and said.max().item() < observation.levels
    for said in (observation.mean(out), observation.encode(x)):
        assert said.shape == x.shape and said.dtype == torch.float32
    assert observation.initial(x).shape == observation.out_shape
    assert observation.initial(x).dtype == torch.float32


def test_low_precision_is_the_networks_alone(bound):
    """Whatever was put out in bfloat16, autocast or not, is weighed in float32; float64 stays and agrees."""
    observation, x = bound
    low = outputs(observation, len(x), torch.bfloat16)
    exact = observation.log_prob(low.double(), x)
    assert exact.dtype == torch.float64
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = observation.log_prob(low, x)
            mean = observation.mean(low)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(mean, observation.mean(low.double()), rtol=1e-4, atol=1e-4)


def test_every_output_matters(bound):
    observation, x = bound
    out = outputs(observation, len(x)).requires_grad_()
    observation.log_prob(out, x).sum().backward()
    assert out.grad.isfinite().all()
    reached = (out.grad != 0).any(0)
    if isinstance(observation, Categorical | MixtureOfLogistics):
        assert reached.float().mean() > 0.95  # of 300 probabilities or far components some gradients underflow
    else:
        assert reached.all()


def test_samples_are_keyed_by_their_index_and_leave_the_global_state(bound):
    observation, x = bound
    out = outputs(observation, len(x))
    state = torch.get_rng_state()
    whole = observation.sample(out, IndexedSource(5, range(len(x))))
    part = observation.sample(out[2:4], IndexedSource(5, [2, 3]))
    torch.testing.assert_close(part, whole[2:4], rtol=0, atol=0)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(whole, observation.sample(out, IndexedSource(6, range(len(x)))))


def test_the_start_is_likelier_than_none(bound):
    """The output that does not depend on z and suits the data is better than zeros, on data that are not spread evenly."""
    observation, x = bound
    levels = observation.levels
    generator = torch.Generator().manual_seed(2)
    draw = 0.7 + 0.05 * torch.randn(200, *observation.shape, generator=generator)
    if observation.integers:
        draw = ((levels - 1) * draw + 0.5).floor().clamp(0, levels - 1)
    data = draw.to(x.dtype)
    zeros = observation.log_prob(torch.zeros(len(data), *observation.out_shape), data).mean()
    start = observation.initial(data)
    likelihood = observation.log_prob(start.expand(len(data), *start.shape), data).mean()
    assert likelihood > zeros
    if observation.integers:
        assert likelihood > -math.log(levels) * data[0].numel()
    assert (observation.mean(start[None])[0] - data.float().mean(0)).abs().max() < 0.03 * ((levels or 2) - 1)


def test_a_first_batch_that_is_constant_is_a_start_too(bound):
    observation, x = bound
    same = x[:1].expand_as(x)
    start = observation.initial(same)
    assert start.isfinite().all()
    if not observation.integers:
        same = same + 0.1  # an error of 0 has no finite density
    assert observation.log_prob(start.expand(len(x), *start.shape), same).isfinite().all()


@pytest.mark.parametrize("make", [Bernoulli, Categorical, DiscretizedLogistic, MixtureOfLogistics])
def test_integers_are_asked_for(make):
    with pytest.raises(UserError, match="model.init_args.observation"):
        make().bind((3,), None)


@pytest.mark.parametrize("make", [FixedGaussian, LearnedGaussian, CalibratedGaussian])
def test_a_density_of_integers_is_refused(make):
    with pytest.raises(UserError, match="a density of integers is no likelihood.*DiscretizedLogistic"):
        make().bind((1, 8, 8), 256)


def test_greys_are_refused_as_probabilities():
    with pytest.raises(UserError, match="17 levels.*data.init_args.binarization"):
        Bernoulli().bind((1, 8, 8), 17)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedGaussian(0.0),
        lambda: FixedGaussian(math.nan),
        lambda: CalibratedGaussian(memory=0),
        lambda: MixtureOfLogistics(components=0),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(UserError, match="needs"):
        make()
