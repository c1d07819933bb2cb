"""What is said below a table is true of that table."""

import math

import pytest

from lightning_gen.comparison.baselines import distinct
from lightning_gen.comparison.explanation import explanation
from lightning_gen.comparison.models import grouped
from lightning_gen.comparison.records import find_records
from lightning_gen.comparison.standing import stand


@pytest.fixture
def said():
    """said(paths, headers=(), **of stand): the paragraphs as one text."""

    def function(paths, headers=(), **how):
        found = find_records(paths)
        how.setdefault("fixed", distinct(found.baselines))
        return "\n".join(explanation(stand(grouped(found.records)[0], **how), headers))

    return function


def test_of_seeds(said, seeds):
    text = said([*seeds("a", [1.0, 1.5, 1.2]), *seeds("b", [4.0, 5.0, 3.0]), *seeds("c", [4.0, 5.0, 3.0])])
    assert "mean of 3 training seeds" in text and "paired over the training seeds that both have" in text
    assert "3 pairs were compared, each at 95 % by itself" in text and "given one noise of evaluation" in text
    assert "point estimate" not in text and "Welch" not in text and "Unequal" not in text


def test_of_seeds_that_are_not_shared(said, evaluated):
    runs = [evaluated(f"{m}-{s}", fd=1.0 + s, seed=s, recipe=m) for m, of in (("a", (0, 1)), ("b", (2, 3))) for s in of]
    text = said(runs)
    assert "Welch's 95 % interval, unpaired" in text and "that both have" not in text and "point estimate" not in text


def test_of_seeds_that_are_partly_shared(said, seeds):
    """The means are in the one order, the shared seeds in the other."""
    text = said([*seeds("a", [5.0, 5.1, 0.0]), *seeds("b", [4.0, 4.2])])
    assert "Unequal training seeds: 0, 1, 2 in a; 0, 1 in b." in text


def test_of_single_runs(said, evaluated):
    text = said([evaluated("a", fd=1.0), evaluated("b", fd=2.0)])
    assert "Ranks are by point estimates (1 pair was compared)" in text and "surely" not in text
    assert "given one noise" not in text
    text = said([evaluated("a", per_example=[1.0, 2.0, 2.5]), evaluated("b", per_example=[2.0, 3.0, 4.5])])
    assert "paired over the examples" in text and "point estimates" not in text and "given one noise" not in text


def test_some_pairs_without_an_interval_are_counted(said, seeds, evaluated):
    text = said([*seeds("a", [1.0, 1.1]), *seeds("b", [2.0, 2.1]), evaluated("c", fd=3.0)])
    assert "3 pairs were compared" in text and "2 are by point estimates" in text


def test_missing_numbers_are_named(said, seeds):
    text = said([*seeds("a", [1.0, math.nan]), *seeds("b", [2.0, 2.1])])
    assert "FD[digits] is missing or not a finite number in a-1" in text
    assert "missing or not" not in said(seeds("c", [1.0, 2.0]))


def test_fixed_rows(said, evaluated):
    closed = evaluated("memorised", fd=0.5)
    run = evaluated("a", fd=1.0)
    fixed = [*find_records([closed]).records, *distinct(find_records([run]).baselines)]
    text = said([run], fixed=fixed)
    assert "memorised is fitted to the training set in closed form" in text
    assert "floor is real data (600 examples of Digits)" in text and "ceiling is noise (600 examples)" in text
    assert "No floor" not in text
    assert "No floor and no ceiling that fits was measured" in said([run], fixed=[])
    assert "No floor" not in said([evaluated("b", bits=1.0)], fixed=[])  # they are of a distance


def test_draws_are_said_of_the_kinds_that_have_them(said, evaluated):
    assert "16 noise draws each;" in said([evaluated("a", bits=1.0), evaluated("b", bits=2.0)])
    exact = evaluated("c", bits=1.0, likelihood_kind="exact", draws=1)
    text = said([evaluated("a", bits=1.0), exact])
    assert "16 noise draws each for elbo, 1 noise draw each for exact" in text


def test_the_speed_is_explained_where_it_is_shown(said, evaluated):
    run = evaluated("a", fd=1.0)
    assert "median training speed" in said([run], ["images/s"]) and "median training speed" not in said([run])


def test_the_verb_agrees(said, evaluated):
    from lightning_gen.comparison.settings import disagreements

    pair = [evaluated("a", fd=1.0, bits=1.0), evaluated("b", fd=2.0, bits=2.0, data="Other")]
    text = said(pair, disagreements=disagreements(find_records(pair).records))
    assert "the samples were measured differently" in text and "the likelihood was measured differently" in text


def test_how_samples_were_drawn_is_named(said, evaluated):
    """Solver, steps, network evaluations, weights and guidance: shared ones once, others with all their values."""

    def sampler(grid, guidance=None):
        solver = {"class_path": "lightning_gen.diffusion.DDIM", "init_args": {"eta": 0.5}}
        arguments = {"solver": solver, "steps": 30, "grid": {"class_path": grid, "init_args": {}}, "guidance": guidance}
        return {"class_path": "lightning_gen.diffusion.DiffusionSampler", "init_args": arguments}

    text = said([evaluated(grid, fd=1.0, sampler=sampler(grid), nfe=30) for grid in ("Even", "Rho")])
    assert (
        "Samples: DiffusionSampler, solver DDIM, solver.eta 0.5, steps 30, grid Even or Rho, guidance none; NFE 30."
        in text
    )
    assert "Weights: ema:0.999." in text
    guided = {"class_path": "lightning_gen.diffusion.ClassifierFree", "init_args": {"scale": 2.0}}
    text = said([evaluated("a", fd=1.0, sampler=sampler("Even", guided), nfe=60)])
    assert "guidance ClassifierFree, guidance.scale 2; NFE 60." in text
