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
    DiscreteDiffusion,
    DiscretizedGaussian,
    Infilling,
    Linear,
    MutualInformation,
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
    found = Infilling(Ancestral(20), resamplings=1)(predictor, process, x, mask, None, GeneratorSource(0))
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
    found = Infilling(Ancestral(200), 2)(Twins(), process, x, torch.tensor([True, False]), None, GeneratorSource(0))
    assert (found[:, 1] == found[:, 0]).double().mean() > 0.9


@pytest.mark.parametrize("seed", [None, 4])
def test_ordered_holes_are_filled_in_their_order(seed, bind, anything):
    """Where all that is known comes before them; other holes are refused, not filled as if nothing were known."""
    process = bind(OrderedAbsorbing(seed), Cosine(), (6,), 4, None)
    predictor, x = anything(process), torch.tensor([[3, 1, 2, 0, 1, 3]]).expand(50, 6)
    for known in range(7):
        mask = process.place < known
        found = Infilling(Ancestral(6))(predictor, process, x, mask, None, GeneratorSource(0))
        assert torch.equal(found[:, mask], x[:, mask]) and (found < 4).all()
    each = (process.place < torch.arange(50)[:, None] % 7).clone()
    Infilling(Ancestral(6))(predictor, process, x, each, None, GeneratorSource(0))
    each[1] = process.place == 3
    with pytest.raises(UserError, match="come after it"):
        Infilling(Ancestral(6))(predictor, process, x, each, None, GeneratorSource(0))


COPIES = 0.9 * torch.eye(4) / 4 + 0.1 * (1 - torch.eye(4)) / 12
"""The joint of two components of four levels that are equal with probability 0.9."""
LIKE = torch.exp(-(torch.arange(12)[:, None] - torch.arange(12)).abs() / 2.0)
"""The same of twelve levels in an order, more probable the nearer, and at one end than at the other."""
LIKE = LIKE * (1 + torch.arange(12)) / (LIKE * (1 + torch.arange(12))).sum()
MODELS = {
    "uniform": (Uniform, Cosine(), 1000, COPIES),
    "gaussian": (DiscretizedGaussian, Linear(), 1000, LIKE),
    "chain": (Absorbing, MutualInformation(), 1000, COPIES),
    "masked": (Absorbing, MutualInformation(), None, COPIES),
    "ordered": (OrderedAbsorbing, MutualInformation(), None, COPIES),
}


@pytest.mark.parametrize(
    "sampler",
    [None, AnyOrder(), Confidence(2, 0.0), Confidence(20)],
    ids=["own", "any_order", "confidence", "confidence_in_20"],
)
@pytest.mark.parametrize("kind", MODELS)
def test_holes_and_samples_have_the_law_of_the_data_or_are_refused(kind, sampler, exact):
    """Every process with every sampler and a perfect network, at the defaults, by enumeration: total variations."""
    process, schedule, steps, p = MODELS[kind]
    module = DiscreteDiffusion((2,), len(p), None, None, process(), schedule, steps)
    module.process.build()
    predictor = exact(module.process, p)
    for chosen in [sampler] if sampler else [module.sampler]:
        try:
            module._check_sampler(chosen)
        except UserError:
            assert sampler is not None and kind in ("uniform", "gaussian", "ordered")
            return
        assert sampler is None or kind in ("chain", "masked")
        imputer = module.imputer if sampler is None else Infilling(chosen).of(module.sampler)
        num = 2000 if module.process.masked else 1000
        drawn = list(chosen.trajectory(predictor, module.process, num, module.device, None, GeneratorSource(0)))[-1]
        found = torch.bincount(drawn[:, 0] * len(p) + drawn[:, 1], minlength=p.numel()) / num
        assert (found - p.flatten()).abs().sum() / 2 < (0.14 if kind == "gaussian" else 0.07)
        x = torch.tensor([[1, 2]]).expand(num, 2)
        for hole in (1, 0) if module.process.masked else (1,):  # a thousand evaluations each of the others
            mask = torch.arange(2) != hole
            if kind == "ordered" and hole == 0:
                with pytest.raises(UserError, match="come after it"):
                    imputer(predictor, module.process, x, mask, None, GeneratorSource(1))
                continue
            filled = imputer(predictor, module.process, x, mask, None, GeneratorSource(1))
            given = p[1] if hole == 1 else p[:, 2]
            found = torch.bincount(filled[:, hole], minlength=len(p)) / num
            assert (found - given / given.sum()).abs().sum() / 2 < {"uniform": 0.05, "gaussian": 0.09}.get(kind, 0.03)


def test_infilling_takes_the_models_sampler_and_resamples():
    sampler, own = Ancestral(7), Confidence(3)
    given = Infilling(None, 4, 2).of(sampler)
    assert given.sampler is sampler and (given.resamplings, given.jump) == (4, 2)
    assert Infilling(own).of(sampler).sampler is own
    for settings in ({"resamplings": 0}, {"jump": 0}):
        with pytest.raises(UserError, match="at least 1"):
            Infilling(**settings)


@pytest.mark.parametrize(("resamplings", "jump"), [(1, 1), (3, 1), (3, 4)])
def test_each_stretch_is_walked_again_from_noise_put_back(resamplings, jump, bind, anything):
    process = bind(Uniform(), Cosine(), (30,), 9, 12)
    predictor, x = anything(process), torch.zeros(300, 30).long()
    Infilling(Ancestral(12), resamplings, jump)(predictor, process, x, torch.ones(30).bool(), None, GeneratorSource(0))
    grid = process.grid(12, "cpu")
    expected = [t for i in range(0, 12, jump) for _ in range(resamplings) for t in grid[i : i + jump]]
    assert [logsnr[0] for _, logsnr in predictor.asked] == [process.logsnr(t) for t in expected]
    for t, (seen, _) in zip(
        expected, predictor.asked
    ):  # what is known is as noised as the level says, also after renoising
        share = process.schedule.alpha(t).item()
        assert (seen == 0).double().mean().item() == pytest.approx(share + (1 - share) / 9, abs=0.025)


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(5, dtype=torch.bool)])
def test_what_is_no_mask_is_refused(mask, bind, anything):
    process = bind(Absorbing(), Cosine(), (3,), 3, 4)
    with pytest.raises(UserError, match="mask"):
        Infilling(Ancestral(4))(anything(process), process, torch.zeros(2, 3), mask, None, GeneratorSource(0))
