"""Laws of infilling, against conditionals enumerated."""

import itertools

import pytest
import torch

from lightning_gen.discrete_diffusion import (
    Absorbing,
    Ancestral,
    AnyOrder,
    Confidence,
    Cosine,
    Infilling,
    OrderedAbsorbing,
    Predictor,
    Uniform,
)
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource

NUM = 6000
ABSORBING = [Ancestral(5), Ancestral(12), AnyOrder(), AnyOrder(4), Confidence(4)]


@pytest.mark.parametrize("x", [torch.tensor([[2, 9, 1, 9]]), torch.tensor([[0, 9, 0, 9]])])
def test_any_order_fills_holes_as_the_chain_rule_does(x, bind, anything, every_state, count, chi_square):
    """Given two of four components the holes come in either order, one at a time."""
    process = bind(Absorbing(), Cosine(), (4,), 3, 40)
    predictor, mask, holes = anything(process), torch.tensor([True, False, True, False]), (1, 3)
    filled = x.repeat(9, 1)
    filled[:, holes] = every_state(3, (2,))
    p = torch.zeros(9, dtype=torch.float64)
    for first, second in itertools.permutations(holes):
        both, one = filled.clone(), filled.clone()
        both[:, holes], one[:, second] = 3, 3
        log_p = torch.zeros(9, dtype=torch.float64)
        for d, seen, share in ((first, both, 0.5), (second, one, 0.25)):
            log_w = predictor(seen, torch.logit(torch.tensor([1 - share])).expand(9))
            log_p += log_w[:, d].gather(1, filled[:, d : d + 1])[:, 0]
        p += log_p.exp() / 2
    found = Infilling(AnyOrder())(predictor, process, x.expand(NUM, 4), mask, None, GeneratorSource(0))
    assert chi_square(count(found[:, holes], 3), p) > 1e-4


def test_ancestral_steps_fill_holes_as_the_chain_does(bind, anything, every_state, together, count, chi_square):
    """The chain over the holes' states alone, the rest never masked, and the network told of as many masks as there are."""
    process = bind(Absorbing(), Cosine(), (4,), 3, 6)
    predictor, mask, holes = anything(process), torch.tensor([True, False, True, False]), (1, 3)
    states = torch.tensor([[2, 0, 1, 0]]).repeat(16, 1)
    states[:, holes] = every_state(4, (2,))
    p = torch.zeros(16, dtype=torch.float64)
    p[-1] = 1
    for t, s in itertools.pairwise(process.grid(3, "cpu")):
        onward = process.log_reverse(states, predictor(states, process.logsnr_of(states, t)), s, t).exp()
        p = p[p > 0] @ together(onward[:, holes])[p > 0]
    x = torch.tensor([[2, 0, 1, 0]]).expand(NUM, 4)
    found = Infilling(Ancestral(3))(predictor, process, x, mask, None, GeneratorSource(0))
    assert chi_square(count(found[:, holes], 4), p) > 1e-4


@pytest.mark.usefixtures("global_state")
@pytest.mark.parametrize("sampler", ABSORBING)
def test_what_is_known_stays_and_is_seen_from_the_first(sampler, bind, anything):
    """Whatever stands in the holes of x; images are not transposed."""
    process = bind(Absorbing(), Cosine(), (2, 3, 5), 9, 12)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(9, (6, 2, 3, 5), generator=generator, dtype=torch.uint8)
    mask = torch.rand(6, 2, 3, 5, generator=generator) < 0.5
    mask[0], mask[1] = True, False
    predictor = anything(process)
    found = Infilling(sampler)(predictor, process, x, mask, None, IndexedSource(0, range(6)))
    assert found.dtype == torch.uint8 and found.max() < 9
    assert torch.equal(found[mask], x[mask])
    for seen, _ in predictor.asked:
        assert torch.equal(seen[mask], x.long()[mask])
    assert (predictor.asked[0][0][~mask] == 9).all()
    other = torch.where(mask, x, 255 - x)
    again = Infilling(sampler)(predictor, process, other, mask, None, IndexedSource(0, range(6)))
    assert torch.equal(found, again)


def test_each_row_has_holes_of_its_own_and_depends_on_its_index(bind, anything):
    process = bind(Absorbing(), Cosine(), (2, 3, 5), 9, 12)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(9, (5, 2, 3, 5), generator=generator)
    mask = torch.rand(5, 2, 3, 5, generator=generator) < torch.linspace(0.1, 0.9, 5).reshape(5, 1, 1, 1)
    predictor = anything(process)
    for sampler in ABSORBING:
        whole = Infilling(sampler)(predictor, process, x, mask, None, IndexedSource(2, range(5)))
        for i in range(5):
            rng = IndexedSource(2, [i])
            alone = Infilling(sampler)(predictor, process, x[i : i + 1], mask[i : i + 1], None, rng)
            assert torch.equal(alone[0], whole[i])


def test_noise_is_put_around_the_holes_of_other_processes(bind, anything):
    """As much as the rest then has, and none at the end."""
    process = bind(Uniform(), Cosine(), (30,), 9, 20)
    predictor = anything(process)
    x, mask = torch.zeros(200, 30).long(), torch.arange(30) < 20
    found = Infilling(Ancestral(20))(predictor, process, x, mask, None, GeneratorSource(0))
    assert not found[:, :20].any()
    for i, (seen, _) in enumerate(predictor.asked):
        share = process.schedule.alpha(torch.tensor(1 - i / 20, dtype=torch.float64)).item()
        kept = share + (1 - share) / 9
        error = (kept * (1 - kept) / 4000) ** 0.5
        assert (seen[:, :20] == 0).double().mean().item() == pytest.approx(kept, abs=5 * error + 1e-9)


def test_known_components_pull_the_holes_of_uniform_noise_too(bind):
    """Two components that are always equal: the hole becomes what its neighbour is."""

    class Twins(Predictor):
        def __call__(self, x_t, logsnr, y=None):
            told = torch.sigmoid(logsnr.double())[:, None, None]
            other = torch.nn.functional.one_hot(x_t.flip(1), 4).double()
            return (told * other + (1 - told) / 4).log()

    process = bind(Uniform(), Cosine(), (2,), 4, 200)
    x = torch.arange(4).repeat(100)[:, None].repeat(1, 2)
    found = Infilling(Ancestral(200))(Twins(), process, x, torch.tensor([True, False]), None, GeneratorSource(0))
    assert (found[:, 1] == found[:, 0]).double().mean() > 0.9


@pytest.mark.parametrize("seed", [None, 4])
def test_ordered_holes_are_filled_in_their_order(seed, bind, anything):
    process = bind(OrderedAbsorbing(seed), Cosine(), (6,), 4, None)
    predictor = anything(process)
    x, mask = torch.tensor([[3, 1, 2, 0, 1, 3]]).expand(50, 6), torch.tensor([True, False, True, False, False, True])
    found = Infilling(Ancestral(6))(predictor, process, x, mask, None, GeneratorSource(0))
    assert torch.equal(found[:, mask], x[:, mask]) and (found < 4).all()


def test_a_whole_sampler_is_the_default_and_its_cost_is_told():
    assert Infilling().nfe == 100 and Infilling(Confidence(7)).nfe == 7 and Infilling(AnyOrder()).nfe is None


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(5, dtype=torch.bool)])
def test_what_is_no_mask_is_refused(mask, bind, anything):
    process = bind(Absorbing(), Cosine(), (3,), 3, 4)
    with pytest.raises(UserError, match="mask"):
        Infilling(Ancestral(4))(anything(process), process, torch.zeros(2, 3), mask, None, GeneratorSource(0))
