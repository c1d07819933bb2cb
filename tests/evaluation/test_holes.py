"""Laws of masks, and of filling holes with models of every family that can."""

from functools import partial

import pytest
import torch

from lightning_gen.dae import DenoisingAutoencoder, FixedNoise, Langevin
from lightning_gen.diffusion import Ancestral, DiffusionSampler, GaussianDiffusion, Replacement
from lightning_gen.errors import UserError
from lightning_gen.evaluation.holes import (
    NOTHING,
    Centre,
    Half,
    LeftHalf,
    LowerHalf,
    Random,
    RightHalf,
    UpperHalf,
    filled,
    imputing,
    known_of,
    side_by_side,
)
from lightning_gen.networks import NoiseBlind, PlainMLP
from lightning_gen.vae import VAE, Bernoulli, PseudoGibbs

SEEN = {
    "LowerHalf": (LowerHalf(), "...... ...... ...... ###### ######", "....###"),
    "UpperHalf": (UpperHalf(), "###### ###### ...... ...... ......", "###...."),
    "LeftHalf": (LeftHalf(), "###... ###... ###... ###... ###...", "###...."),
    "RightHalf": (RightHalf(), "...### ...### ...### ...### ...###", "....###"),
    "Half": (Half(axis=1, last=True), "...### ...### ...### ...### ...###", "....###"),
    "Centre": (Centre(0.25), "...... .###.. .###.. ...... ......", "..##..."),
    "Centre of 0.6": (Centre(0.6), "#####. #####. #####. #####. ......", ".####.."),
    "Centre, all": (Centre(1.0), "###### ###### ###### ###### ######", "#######"),
}
"""What is missing (#) of an image of five rows of six, row by row, and of a sequence of seven."""


def drawn(known: torch.Tensor) -> str:
    return "".join(".#"[not value] for value in known.tolist())


@pytest.mark.parametrize("name", SEEN)
def test_the_holes_are_where_they_are_seen(name):
    mask, image, sequence = SEEN[name]
    known = known_of(mask, 2, (3, 5, 6), seed=0)
    assert known.shape == (2, 3, 5, 6)
    for channel in known.flatten(0, 1):
        assert " ".join(drawn(row) for row in channel) == image
    assert [drawn(row) for row in known_of(mask, 2, (7,), seed=0)] == [sequence] * 2


@pytest.mark.parametrize("shape", [(2, 5, 6), (30,)])
def test_random_holes_are_as_many_as_said_and_a_function_of_seed_and_index(shape):
    mask = Random(0.7)
    known = known_of(mask, 100, shape, seed=3)
    places = known if len(shape) == 1 else known[:, 0].flatten(1)
    assert (known.flatten(1).sum(1) == 9 * known[0].numel() // 30).all()
    if len(shape) == 3:
        assert torch.equal(known[:, 0], known[:, 1])  # a pixel is missing with all its channels
    assert torch.equal(known[:7], known_of(mask, 7, shape, seed=3))
    assert len(places.unique(dim=0)) > 95 and not torch.equal(known, known_of(mask, 100, shape, seed=4))
    # each place as often as another: within five standard deviations of 30 in 100
    assert (places.sum(0) - 30).abs().max() < 5 * (100 * 0.3 * 0.7) ** 0.5


@pytest.mark.parametrize("cls", [Random, Centre])
@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(cls, share):
    with pytest.raises(UserError, match=f"{cls.__name__}'s share"):
        cls(share)


@pytest.mark.parametrize(
    ("mask", "shape", "word"),
    [(LowerHalf(), (1, 1, 8), "LowerHalf leaves nothing"), (Random(0.01), (20,), "Random leaves nothing"),
     (LowerHalf(), (8, 8), r"\(8, 8\)"), (LowerHalf(), (2, 3, 8, 8), "images")],
)  # fmt: skip
def test_data_that_a_mask_does_not_fit_are_refused(mask, shape, word):
    with pytest.raises(UserError, match=word):
        known_of(mask, 3, shape, seed=0)


def test_a_half_along_no_axis_is_refused():
    with pytest.raises(UserError, match="axis"):
        Half(axis=2, last=True)


# ---- filling --------------------------------------------------------------------------------------------------------

SHAPE = (1, 4, 6)
NETWORK = partial(NoiseBlind, network=partial(PlainMLP, widths=[8]))
PLAIN = {"encoder": partial(PlainMLP, widths=[8]), "decoder": partial(PlainMLP, widths=[8])}
SHORT = {
    "diffusion": (GaussianDiffusion, {"network": NETWORK}, Replacement(DiffusionSampler(Ancestral(), steps=3), 2)),
    "vae": (VAE, {**PLAIN, "observation": Bernoulli(), "latent_dim": 3}, PseudoGibbs(3)),
    "dae": (DenoisingAutoencoder, {"network": NETWORK, "noise": FixedNoise(0.5)}, Langevin(levels=2, steps=2)),
}
X = (torch.rand(9, *SHAPE, generator=torch.Generator().manual_seed(1)) < 0.5).to(torch.uint8)
KNOWN = known_of(Random(0.6), 9, SHAPE, seed=0)


def module(name: str):
    family, parts, imputer = SHORT[name]
    torch.manual_seed(0)
    made = family(SHAPE, 2, None, **parts)
    made.configure_model()
    made.eval().imputer = imputer
    return made


@pytest.mark.parametrize("name", SHORT)
def test_fillings_leave_what_is_known_and_do_not_see_what_is_not(name):
    found = filled(module(name), X, KNOWN, None, 3)
    assert found.shape == (9, 3, *SHAPE) and found.dtype == X.dtype
    known = KNOWN[:, None].expand_as(found)
    assert torch.equal(found[known], X[:, None].expand_as(found)[known])
    assert not torch.equal(found[:, 0], found[:, 1])  # the ways differ
    holes_turned = torch.where(KNOWN, X, 1 - X)
    assert torch.equal(filled(module(name), holes_turned, KNOWN, None, 3), found)


@pytest.mark.parametrize("name", SHORT)
def test_fillings_are_functions_of_seed_example_and_way(name):
    found = filled(module(name), X, KNOWN, None, 3, batch_size=256)
    for size in (1, 2, 5, 7):  # fewer than the ways of one example, and more
        assert torch.equal(filled(module(name), X, KNOWN, None, 3, batch_size=size), found)
    assert torch.equal(filled(module(name), X[:4], KNOWN[:4], None, 2), found[:4, :2])
    assert not torch.equal(filled(module(name), X, KNOWN, None, 3, seed=1), found)


@pytest.mark.parametrize("name", SHORT)
def test_a_model_fills_with_its_own_imputer_unless_given_another(name):
    made, short = module(name), SHORT[name][2]
    made.imputer = type(short)()  # of many steps
    given = filled(made, X[:2], KNOWN[:2], imputer=short)
    made.imputer = short
    assert torch.equal(filled(made, X[:2], KNOWN[:2]), given)


def test_each_example_gets_its_condition_whatever_the_batch_and_progress_is_told():
    class Told:
        def impute(self, x, mask, y=None, *, imputer=None, rng=None):
            return torch.where(mask, x, y[:, None, None, None].to(x.dtype))

    told, y = [], torch.arange(9)
    for size in (2, 4, 100):
        found = filled(Told(), X, KNOWN, y, 3, batch_size=size, advance=told.append)
        assert torch.equal(found, torch.where(KNOWN, X, y[:, None, None, None])[:, None].expand_as(found))
        assert sum(told) == 27 and max(told) <= size
        told.clear()


def test_a_model_without_the_power_is_refused():
    with pytest.raises(UserError, match="object cannot fill holes"):
        imputing(object())
    made = module("vae")
    assert imputing(made) is made


def test_rows_have_the_example_its_holes_and_its_fillings_in_order():
    found = torch.stack([X, 1 - X], 1)
    shown = side_by_side(X, KNOWN, found)
    assert shown.shape == (9, 4, *SHAPE) and not shown.is_floating_point()
    assert torch.equal(shown[:, 0], X.long()) and torch.equal(shown[:, 2:], found.long())
    assert (shown[:, 1][~KNOWN] == NOTHING).all() and torch.equal(shown[:, 1][KNOWN], X[KNOWN].long())
