"""Laws of the samplers, against the model enumerated."""

import itertools
import math

import pytest
import torch

from lightning_gen.discrete_diffusion import (
    Absorbing,
    Ancestral,
    AnyOrder,
    ClassifierFree,
    Confidence,
    Cosine,
    Linear,
    OrderedAbsorbing,
    Predictor,
    Uniform,
)
from lightning_gen.discrete_diffusion.samplers import Known
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource

CPU = torch.device("cpu")
NUM = 6000
SAMPLERS = [Ancestral(3), AnyOrder(), AnyOrder(2), Confidence(3)]
ID = {"ids": lambda sampler: f"{type(sampler).__name__}-{getattr(sampler, 'at_once', '')}"}


def walked(sampler, predictor, process, num=NUM, rng=None, y=None, known=None):
    rng = rng or GeneratorSource(0)
    return list(sampler.trajectory(predictor, process, num, CPU, y, rng, known))


@pytest.mark.usefixtures("global_state")
def test_ancestral_samples_come_as_often_as_enumerated(small, anything, enumerated, count, chi_square):
    """With all steps of the chain and with fewer."""
    process, predictor = small.process, anything(small.process)
    for steps in (1, 2, process.steps):
        states = walked(Ancestral(steps), predictor, process, rng=GeneratorSource(steps))
        assert len(states) == steps + 1
        assert chi_square(count(states[-1], 3), enumerated(process, predictor, steps)) > 1e-4


def test_continuous_time_is_sampled_in_any_number_of_steps(bind, anything, enumerated, count, chi_square):
    process = bind(Absorbing(), Cosine(), (3,), 3, None)
    predictor = anything(process)
    for steps in (1, 5):
        drawn = walked(Ancestral(steps), predictor, process)[-1]
        assert chi_square(count(drawn, 3), enumerated(process, predictor, steps)) > 1e-4


@pytest.mark.usefixtures("global_state")
@pytest.mark.parametrize("sampler", SAMPLERS, **ID)
def test_absorbing_states_are_masks_or_what_the_sample_is(sampler, bind, anything):
    """From x_T, all masks, on; what has been drawn stays."""
    process = bind(Absorbing(), Cosine(), (2, 3, 5), 4, 6)
    states = torch.stack(walked(sampler, anything(process), process, num=20))
    assert (states[0] == 4).all() and (states[-1] < 4).all() and states.dtype == torch.int64
    assert ((states == 4) | (states == states[-1])).all()
    assert ((states[1:] == 4) <= (states[:-1] == 4)).all()


def chained(process, predictor, order, x, log_p):
    """Log-probabilities [N] that the components of x [N, D] come one by one in that order."""
    for k, d in enumerate(order):
        seen = x.clone()
        seen[:, order[k:]] = process.mask
        share = torch.tensor(len(order[k:]) / process.num_dims)
        told = torch.logit(1 - share).clamp(-15, 15).float()
        log_w = predictor(seen.reshape(-1, *process.shape), told.expand(len(x))).flatten(1, -2)
        log_p = log_p + log_w[:, d].gather(1, x[:, d : d + 1])[:, 0]
    return log_p


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1)])
def test_any_order_samples_are_the_mean_of_the_orders(shape, bind, anything, every_state, count, chi_square):
    """Each of D! orders is as probable; the noise level told is that of as many masks."""
    process = bind(Absorbing(), Cosine(), shape, 3, 50)
    predictor = anything(process)
    data = every_state(3, (3,))
    orders = list(itertools.permutations(range(3)))
    p = sum(chained(process, predictor, list(order), data, torch.zeros(27)).exp() for order in orders) / 6
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    sampler = AnyOrder()
    states = walked(sampler, predictor, process)
    assert len(states) == 4 and sampler.nfe is None and sampler.mean_nfe == 3
    assert chi_square(count(states[-1], 3), p) > 1e-4


def test_several_at_once_are_independent_given_the_rest(bind, anything, every_state, count, chi_square):
    process = bind(Absorbing(), Cosine(), (3,), 3, 50)
    predictor, data = anything(process), every_state(3, (3,))
    p = torch.zeros(27, dtype=torch.float64)
    log_w = predictor(torch.full((27, 3), 3), torch.full((27,), -15.0)).gather(-1, data[..., None])[..., 0]
    told = torch.logit(torch.tensor([2 / 3])).expand(27)
    for last in range(3):  # two come at first, each on its own; then one that sees them
        seen = data.clone()
        seen[:, last] = 3
        then = predictor(seen, told).gather(-1, data[..., None])[:, last, 0]
        p += (log_w.sum(1) - log_w[:, last] + then).exp() / 3
    states = walked(AnyOrder(2), predictor, process)
    assert [(x == 3).sum(1).unique().tolist() for x in states] == [[3], [1], [0]]
    assert chi_square(count(states[-1], 3), p) > 1e-4


@pytest.mark.parametrize(("at_once", "rounds"), [(1, 30), (4, 8), (7, 5), (30, 1), (100, 1)])
def test_no_step_draws_more_than_it_may(at_once, rounds, bind, anything):
    process = bind(Absorbing(), Cosine(), (2, 3, 5), 4, None)
    sampler = AnyOrder(at_once)
    states = torch.stack(walked(sampler, anything(process), process, num=5))
    masks = (states == 4).flatten(2).sum(2)
    assert len(states) == rounds + 1 and sampler.mean_nfe == rounds
    assert (masks.diff(dim=0) <= -1).all() and (masks.diff(dim=0) >= -at_once).all()


# ---- confidence --------------------------------------------------------------------------------------------------------


class Graded(Predictor):
    """Each component has one probable level, the more so the higher its rank, -log p from 1 to 0.02; nothing else matters."""

    def __init__(self, shape, levels, seed=0):
        generator = torch.Generator().manual_seed(seed)
        dims = math.prod(shape)
        self.rank = torch.rand(dims, generator=generator).argsort().argsort().reshape(shape)
        self.level = torch.randint(levels, shape, generator=generator)
        p = torch.exp(-1 + 0.98 * self.rank.double() / (dims - 1))[..., None]
        one_hot = torch.nn.functional.one_hot(self.level, levels)
        self.log_w, self.calls = torch.where(one_hot == 1, p, (1 - p) / (levels - 1)).log(), 0

    def __call__(self, x_t, logsnr, y=None):
        self.calls += 1
        return self.log_w.expand(len(x_t), *self.log_w.shape)


@pytest.mark.usefixtures("global_state")
@pytest.mark.parametrize("steps", [1, 3, 8, 15, 40])
def test_masks_fall_as_a_cosine(steps, bind):
    """Exactly that many evaluations; at least one mask goes a round while there are any."""
    process, predictor = bind(Absorbing(), Cosine(), (1, 3, 5), 4, None), Graded((1, 3, 5), 4)
    sampler = Confidence(steps, noise=2.0)
    states = torch.stack(walked(sampler, predictor, process, num=6))
    assert len(states) == steps + 1 and predictor.calls == steps == sampler.nfe
    left = 15
    for i in range(1, steps + 1):
        due = math.ceil(15 * math.cos(math.pi / 2 * i / steps) - 1e-12) if i < steps else 0
        left = max(0, min(due, left - 1))
        assert (states[i] == 4).flatten(1).sum(1).tolist() == [left] * 6
    assert left == 0


def test_the_most_confident_come_first_without_noise(bind):
    process, predictor = bind(Absorbing(), Cosine(), (1, 3, 5), 4, None), Graded((1, 3, 5), 4)
    level = predictor.level
    for x in walked(Confidence(6, noise=0.0), Mode(predictor), process, num=4):
        masked = x == 4
        if masked.any() and not masked.all():
            assert (predictor.rank.expand_as(x)[masked].max() < predictor.rank.expand_as(x)[~masked].min()).all()
        assert (x[~masked] == level.expand_as(x)[~masked]).all()


class Mode(Predictor):
    """Says with near certainty what another thinks most probable, less certain where that was: draws hold no surprise."""

    def __init__(self, of):
        self.of = of

    def __call__(self, x_t, logsnr, y=None):
        log_w = self.of(x_t, logsnr, y)
        best, at = log_w.max(-1, keepdim=True)
        rest = torch.full_like(log_w, -60.0).scatter(-1, at, 1e-3 * best)
        return rest


def test_noise_mixes_the_order_and_fades(bind):
    """With much of it the first to come is any; the score of the last round is the confidence alone."""
    process, predictor = bind(Absorbing(), Cosine(), (15,), 4, None), Graded((15,), 4)
    firsts = []
    for noise in (0.0, 1000.0):
        second = walked(Confidence(15, noise), Mode(predictor), process, num=300)[1]
        firsts.append((second != 4).double().mean(0).gather(0, predictor.rank.argsort()))
    assert firsts[0].tolist() == [0] * 14 + [1]
    assert firsts[1].max() < 0.15 and firsts[1].min() > 0.02
    log_p = torch.linspace(-3, 0, 15).expand(2, 15)
    assert torch.equal(Confidence(15, 7.0).scores(log_p, 15, GeneratorSource(0)), log_p)


def test_noise_is_gumbels(bind):
    """Mean 0.5772 and variance pi^2 / 6, times noise and what is left to do."""
    added = Confidence(10, 3.0).scores(torch.zeros(400, 400, dtype=torch.float64), 5, GeneratorSource(0)) / 1.5
    assert added.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert added.var().item() == pytest.approx(math.pi**2 / 6, rel=0.03)


# ---- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("global_state")
@pytest.mark.parametrize("sampler", SAMPLERS, **ID)
@pytest.mark.parametrize("shape", [(7,), (2, 3, 5)])
def test_a_sample_depends_on_its_index_alone(sampler, shape, bind, anything):
    process = bind(Absorbing(), Cosine(), shape, 5, 12)
    predictor = anything(process)
    whole = walked(sampler, predictor, process, 5, IndexedSource(3, range(5)))[-1]
    again = walked(sampler, predictor, process, 5, IndexedSource(3, range(5)))[-1]
    other = walked(sampler, predictor, process, 5, IndexedSource(4, range(5)))[-1]
    assert torch.equal(whole, again) and not torch.equal(whole, other)
    assert whole.flatten(1).unique(dim=0).shape[0] == 5
    for i in range(5):
        alone = walked(sampler, predictor, process, 1, IndexedSource(3, [i]))[-1]
        assert torch.equal(alone[0], whole[i])


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "ordered"])
def test_a_sample_of_any_process_depends_on_its_index_alone(kind, make_chain, anything):
    process = make_chain(kind, "linear", shape=(3,), levels=3, steps=3).process
    predictor = anything(process)
    whole = walked(Ancestral(3), predictor, process, 5, IndexedSource(3, range(5)))[-1]
    for i in range(5):
        assert torch.equal(walked(Ancestral(3), predictor, process, 1, IndexedSource(3, [i]))[-1][0], whole[i])


@pytest.mark.parametrize("sampler", [Ancestral(3, None, 0.5), AnyOrder(1, None, 0.5)], **ID)
def test_a_temperature_is_that_of_another_network(sampler, bind, anything, chi_square, count):
    """w^(1 / temperature), normalised."""
    process = bind(Absorbing(), Cosine(), (3,), 3, 3)
    predictor = anything(process)

    class Colder(Predictor):
        def __call__(self, x_t, logsnr, y=None):
            return (2 * predictor(x_t, logsnr, y)).log_softmax(-1)

    plain = type(sampler)(sampler.steps if isinstance(sampler, Ancestral) else 1)
    found, expected, warm = (
        walked(s, p, process)[-1] for s, p in ((sampler, predictor), (plain, Colder()), (plain, predictor))
    )
    assert torch.equal(found, expected) and not torch.equal(found, warm)


def test_guidance_wraps_the_network_and_is_paid_for(bind, anything):
    process = bind(Absorbing(), Cosine(), (3,), 3, 4)
    predictor, y = anything(process), torch.tensor([0, 1, 2])

    class Guided(Predictor):
        def __call__(self, x_t, logsnr, y=None):
            free, told = predictor(x_t, logsnr, None), predictor(x_t, logsnr, y)
            return (2 * told - free).log_softmax(-1)

    sampler = Ancestral(4, ClassifierFree(2.0))
    found = walked(sampler, predictor, process, 3, IndexedSource(0, range(3)), y)[-1]
    expected = walked(Ancestral(4), Guided(), process, 3, IndexedSource(0, range(3)), y)[-1]
    assert torch.equal(found, expected)
    assert (
        sampler.nfe == 8
        and Ancestral(4, ClassifierFree(1.0)).nfe == 4
        and Confidence(4, 1.0, ClassifierFree()).nfe == 8
    )
    paid = AnyOrder(1, ClassifierFree(2.0))
    walked(paid, predictor, process, 3, None, y)
    assert paid.mean_nfe == 6


@pytest.mark.parametrize("sampler", SAMPLERS[1:], **ID)
def test_unmasking_needs_masks_that_may_go_in_any_order(sampler, bind):
    for process, steps in ((Uniform(), 4), (OrderedAbsorbing(), None)):
        with pytest.raises(UserError, match="choose Ancestral"):
            sampler.check(bind(process, Cosine(), (3,), 3, steps))


@pytest.mark.parametrize("sampler", SAMPLERS[1:], **ID)
def test_unmasking_asks_at_noise_levels_of_training_alone(sampler, bind, anything):
    """A chain of few steps knows neither the level at which all are masked nor that of a single mask."""
    process = bind(Absorbing(), Linear(0.5, 6.0), (2, 3, 5), 4, 5)
    predictor = anything(process)
    walked(sampler, predictor, process, num=5)
    asked = torch.cat([logsnr for _, logsnr in predictor.asked])
    first, last = process.logsnr(torch.tensor([0.2, 1.0], dtype=torch.float64))
    assert asked.max() <= first and asked.min() == last


def test_what_is_no_sampler_is_refused(bind):
    with pytest.raises(UserError, match="fewer steps"):
        Ancestral(5).check(bind(Uniform(), Cosine(), (3,), 3, 4))
    for make in (lambda: Ancestral(0), lambda: Confidence(0), lambda: Confidence(2, -1.0), lambda: AnyOrder(0)):
        with pytest.raises(UserError, match="at least"):
            make()
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UserError, match="temperature"):
            Ancestral(3, None, temperature)


def test_what_is_known_is_put_where_the_mask_is(bind):
    process = bind(Uniform(), Cosine(), (2, 2), 9, 4)
    mask = torch.tensor([[[True, False], [False, True]]])
    known = Known(torch.full((1, 2, 2), 7), mask)
    put = known.put(process, torch.zeros(1, 2, 2).long(), torch.zeros(1, dtype=torch.float64), GeneratorSource(0))
    assert put.tolist() == [[[7, 0], [0, 7]]]
