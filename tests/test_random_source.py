"""What index i gets depends on (seed, i, how many draws came before) alone; nobody touches the global state."""

import pytest
import torch

from lightning_gen.random_source import GeneratorSource, IndexedSource, derive_seed

DRAWS = {
    "normal": lambda rng, num: rng.normal((num, 3, 2)),
    "normal of scalars": lambda rng, num: rng.normal((num,)),
    "normal in float64": lambda rng, num: rng.normal((num, 5), dtype=torch.float64),
    "uniform": lambda rng, num: rng.uniform((num, 2)),
    "integers": lambda rng, num: rng.integers(1000, (num, 4)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_row_depends_on_its_index_alone(name):
    draw = DRAWS[name]
    whole = IndexedSource(7, range(200))
    first, second = draw(whole, 200), draw(whole, 200)
    assert not torch.equal(first, second)
    # single rows, both sides of a block's border, batches of uneven size, shuffled, and a row that comes twice
    for indices in ([0], [63], [64], [63, 64], [130, 5, 64, 5, 63, 199], range(60, 70), torch.randperm(200)):
        rng = IndexedSource(7, indices)
        rows = torch.as_tensor(list(indices))
        assert torch.equal(draw(rng, len(rows)), first[rows])
        assert torch.equal(draw(rng, len(rows)), second[rows])


@pytest.mark.parametrize("name", DRAWS)
def test_different_indices_and_different_seeds_get_different_rows(name):
    draw = DRAWS[name]
    rows = draw(IndexedSource(7, range(256)), 256).reshape(256, -1)
    if name != "integers":
        assert len(rows.unique(dim=0)) == 256
    assert not torch.equal(rows[:64], rows[64:128])
    assert not torch.equal(rows, draw(IndexedSource(8, range(256)), 256).reshape(256, -1))


@pytest.mark.parametrize("make", [lambda: IndexedSource(3, range(40)), lambda: GeneratorSource(3)])
def test_forks_are_independent_and_draw_nothing_from_their_parent(make):
    parent, undisturbed = make(), make()
    parent.fork("a").normal((40, 100))
    parent.fork("b", 2).integers(5, (40,))
    assert torch.equal(parent.normal((40, 100)), undisturbed.normal((40, 100)))
    # a fork is named: made again, also after its parent has drawn, it says the same
    assert torch.equal(parent.fork("a").normal((40, 100)), make().fork("a").normal((40, 100)))
    sources = [make(), make().fork(), make().fork("a"), make().fork("b"), make().fork("a", "b"), make().fork(0)]
    sources += [make().fork("a").fork("b"), make().fork("0"), make().fork("ab")]
    draws = torch.stack([s.normal((40, 100)).flatten() for s in sources])
    correlation = torch.corrcoef(draws) - torch.eye(len(draws))
    assert correlation.abs().max() < 5 / 4000**0.5


def test_a_fork_serves_the_same_rows_of_any_batch():
    whole = IndexedSource(1, range(100)).fork("x").normal((100, 2))
    assert torch.equal(IndexedSource(1, [64, 3]).fork("x").normal((2, 2)), whole[[64, 3]])


def test_the_global_state_is_left_alone_and_does_not_matter():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a = [IndexedSource(1, range(70)), GeneratorSource(1)]
    drawn = [draw(rng.fork("f"), 70) for rng in a for draw in DRAWS.values()]
    drawn += [draw(rng, 70) for rng in a for draw in DRAWS.values()]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    b = [IndexedSource(1, range(70)), GeneratorSource(1)]
    again = [draw(rng.fork("f"), 70) for rng in b for draw in DRAWS.values()]
    again += [draw(rng, 70) for rng in b for draw in DRAWS.values()]
    assert all(map(torch.equal, drawn, again))


def test_without_a_seed_the_source_is_the_global_state():
    torch.manual_seed(4)
    expected = torch.randn(5, 2)
    torch.manual_seed(4)
    assert torch.equal(GeneratorSource().fork("any").normal((5, 2)), expected)


def test_seeds_depend_on_every_key_on_their_types_and_on_their_order():
    keys = [(1,), ("1",), (1, 2), (2, 1), (12,), ("1", "2"), ("12",), (1, "2"), (0, 1, 2), (-1,), (), ("",), ("a", 1)]
    seeds = [derive_seed(*key) for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # seeds of neighbouring keys share no pattern: half of the bits differ
    flips = [(derive_seed(0, k) ^ derive_seed(0, k + 1)).bit_count() for k in range(1000)]
    assert abs(sum(flips) / 1000 - 31.5) < 0.6


def test_the_distributions_are_what_they_are_called():
    rng = IndexedSource(0, range(1000))
    z = rng.normal((1000, 1000), dtype=torch.float64).flatten()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(z.pow(power).mean() - moment) < 4.5 * (variance / 1e6) ** 0.5
    u = rng.uniform((1000, 1000), dtype=torch.float64).flatten()
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 1 / 2) < 4.5 * (1 / 12e6) ** 0.5 and abs(u.square().mean() - 1 / 3) < 4.5 * (4 / 45e6) ** 0.5
    counts = rng.integers(7, (1000, 100)).flatten().bincount(minlength=7)
    assert len(counts) == 7 and ((counts - 1e5 / 7).abs() < 4.5 * (1e5 * 6 / 49) ** 0.5).all()


def test_rows_are_not_correlated_with_each_other():
    z = IndexedSource(0, range(192)).normal((192, 4000))
    assert (torch.corrcoef(z) - torch.eye(192)).abs().max() < 5.5 / 4000**0.5


@pytest.mark.parametrize("indices", [[-1], [[0, 1]]])
def test_indices_must_be_a_vector_of_natural_numbers(indices):
    with pytest.raises(ValueError, match="vector of non-negative"):
        IndexedSource(0, torch.tensor(indices))


def test_a_draw_for_another_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="serves 3 indices"):
        IndexedSource(0, range(3)).normal((4, 2))
