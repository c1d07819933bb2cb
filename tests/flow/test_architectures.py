"""Published flows: exact Jacobians, as many latents as numbers, and the structure that the papers describe."""

import math
from collections import Counter
from functools import partial

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.flow import (
    NICE,
    ActNorm,
    Additive,
    Affine,
    Chain,
    ChannelMask,
    CheckerboardMask,
    Coupling,
    Elementwise,
    Glow,
    InvertibleConv1x1,
    LUConv1x1,
    RationalQuadraticSpline,
    RealNVP,
    Shuffle,
    Split,
    Squeeze,
    Steps,
    VectorMask,
)
from lightning_gen.networks import ConvNet, PlainMLP

CONV, MLP = partial(ConvNet, widths=(6, 6)), partial(PlainMLP, widths=(8,))
SPLINE = RationalQuadraticSpline(4, reach=3.0)
GLOW = partial(Glow, network=CONV, levels=2, steps=2)
FLOWS = {
    "glow-additive-lu": ((1, 4, 4), partial(GLOW, transform=Additive())),
    "glow-affine-lu": ((1, 4, 4), GLOW),
    "glow-spline-lu": ((1, 4, 4), partial(GLOW, transform=SPLINE)),
    "glow-additive-plain": ((2, 4, 4), partial(GLOW, transform=Additive(), mixing=InvertibleConv1x1)),
    "glow-affine-plain": ((1, 4, 4), partial(GLOW, mixing=InvertibleConv1x1)),
    "glow-spline-plain": ((1, 4, 4), partial(GLOW, transform=SPLINE, mixing=InvertibleConv1x1)),
    "glow-one-level": ((1, 2, 6), partial(GLOW, levels=1)),
    "glow-shuffled": ((1, 4, 4), partial(GLOW, mixing=Shuffle, norm=None)),
    "realnvp": ((1, 4, 4), partial(RealNVP, network=CONV, levels=2)),
    "realnvp-spline": ((1, 4, 4), partial(RealNVP, network=CONV, levels=2, transform=SPLINE)),
    "realnvp-three-levels": ((1, 8, 4), partial(RealNVP, network=CONV, levels=3)),
    "realnvp-odd": ((2, 3, 5), partial(RealNVP, network=CONV, levels=1)),
    "nice": ((1, 3, 5), partial(NICE, network=MLP)),
    "nice-affine": ((7,), partial(NICE, network=MLP, transform=Affine(), steps=3)),
    "steps-of-vectors": ((5,), partial(Steps, network=MLP, steps=3)),
    "steps-alternate": ((5,), partial(Steps, network=MLP, steps=2, mask=VectorMask, mixing=LUConv1x1)),
}
BATCH, COND = 2, 3


@pytest.fixture(params=FLOWS)
def name(request):
    return request.param


@pytest.fixture(params=[None, COND], ids=["free", "conditional"])
def cond_dim(request):
    return request.param


@pytest.fixture
def make(name, cond_dim):
    """make(): the flow as it starts, always the same one."""

    def function():
        torch.manual_seed(0)
        shape, factory = FLOWS[name]
        return factory(shape, cond_dim)

    return function


@pytest.fixture
def x(name):
    return torch.randn(BATCH, *FLOWS[name][0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def cond(cond_dim):
    generator = torch.Generator().manual_seed(2)
    return None if cond_dim is None else torch.randn(BATCH, cond_dim, generator=generator, dtype=torch.float64)


def test_the_log_det_of_the_whole_is_that_of_autograds_jacobian(make, shaken, x, cond, jacobian_log_det):
    flow = shaken(make(), scale=0.1).double()
    log_det = flow(x, cond)[1]
    assert log_det.abs().min() > 1e-2
    torch.testing.assert_close(log_det, jacobian_log_det(flow, x, cond), rtol=0, atol=1e-9)


def test_round_trips_through_as_many_latents_as_numbers(make, shaken, x, cond):
    flow = shaken(make(), scale=0.1)
    z, _ = flow.double()(x, cond)
    assert z.shape == (BATCH, *flow.out_shape) and z.numel() == x.numel()
    torch.testing.assert_close(flow.inverse(z, cond), x, rtol=0, atol=1e-9)
    latents = torch.randn(z.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(flow(flow.inverse(latents, cond), cond)[0], latents, rtol=0, atol=1e-9)
    single = [None if value is None else value.float() for value in (x, cond)]
    flow.float()
    torch.testing.assert_close(flow.inverse(flow(*single)[0], single[1]), single[0], rtol=0, atol=1e-4)


def test_it_starts_as_a_rotation_whatever_the_condition(make, x, cond):
    """Couplings, priors and scales are the identity, mixing turns: lengths and volumes stay."""
    z, log_det = make().double()(x, cond)
    torch.testing.assert_close(z.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-6, atol=0)
    assert log_det.abs().max() < 1e-5


def test_the_condition_reaches_latents_of_every_level(name, shaken, x):
    shape, factory = FLOWS[name]
    flow = shaken(factory(shape, COND), scale=0.1).double()
    one, other = (flow(x, torch.full((BATCH, COND), value, dtype=torch.float64))[0] for value in (0.0, 1.0))
    untouched = {"steps-of-vectors": 0.5, "steps-alternate": 0.5, "glow-shuffled": 0.1}.get(name, 0.0)
    assert torch.isclose(one, other).double().mean() <= untouched


def test_initialize_sets_every_actnorm_and_nothing_else(make, shaken, x, cond):
    flow = shaken(make(), scale=0.1).double()
    before = {key: value.clone() for key, value in flow.state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(flow.initialize(x, cond), flow(x, cond)[0], rtol=0, atol=1e-9)
    norms = [key for key, module in flow.named_modules() if isinstance(module, ActNorm)]
    changed = {key for key, value in flow.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"{norm}.{name}" for norm in norms for name in ("shift", "log_scale")}


def count(flow):
    return Counter(type(m) for m in flow.modules())


@pytest.mark.parametrize(("levels", "steps"), [(1, 1), (2, 3), (3, 2)])
def test_glow_has_its_steps_at_each_level(levels, steps):
    flow = Glow((1, 8, 8), None, CONV, levels=levels, steps=steps)
    found = count(flow)
    assert found[Coupling] == found[ActNorm] == found[LUConv1x1] == levels * steps
    assert (found[Squeeze], found[Split], found[Elementwise]) == (levels, levels - 1, 1)
    masks = {(type(m.mask), m.mask.flip) for m in flow.modules() if isinstance(m, Coupling)}
    assert masks == {(ChannelMask, False)}, "mixing brings the other half there"
    order = [type(m) for m in flow.modules() if isinstance(m, (ActNorm, LUConv1x1, Coupling))]
    assert order == [ActNorm, LUConv1x1, Coupling] * (levels * steps)
    shapes = [m.out_shape for m in flow.modules() if isinstance(m, Squeeze)]
    assert shapes == [(2 ** (level + 2), 8 >> level + 1, 8 >> level + 1) for level in range(levels)]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_realnvp_has_three_and_three_couplings_at_a_level_and_four_at_the_last(levels):
    flow = RealNVP((1, 8, 8), None, CONV, levels=levels)
    masks = [(type(m.mask), m.mask.flip) for m in flow.modules() if isinstance(m, Coupling)]
    level = [(kind, turn) for kind in (CheckerboardMask, ChannelMask) for turn in (False, True, False)]
    assert masks == level * (levels - 1) + [(CheckerboardMask, turn) for turn in (False, True) * 2]
    assert count(flow)[ActNorm] == len(masks)
    assert (count(flow)[Squeeze], count(flow)[Split], count(flow)[Elementwise]) == (levels - 1, levels - 1, 1)


def test_nice_takes_turns_and_only_its_last_layer_changes_volumes(shaken):
    flow = shaken(NICE((2, 3), None, MLP, steps=4)).double()
    masks = [(type(m.mask), m.mask.flip) for m in flow.modules() if isinstance(m, Coupling)]
    assert masks == [(VectorMask, turn) for turn in (False, True) * 2]
    one, other = flow(torch.randn(2, 2, 3, dtype=torch.float64))[1]
    assert torch.equal(one, other) and one.abs() > 1e-3
    (scales,) = (m for m in flow.modules() if isinstance(m, Elementwise))
    torch.testing.assert_close(one, scales.constant[1].sum())


@pytest.mark.parametrize("mask", [VectorMask, ChannelMask])
def test_couplings_without_mixing_take_turns_so_that_all_components_change(shaken, mask):
    x = torch.randn(3, 5, dtype=torch.float64)
    changed = []
    for steps in (1, 2):
        flow = shaken(Steps((5,), None, MLP, steps=steps, mask=mask, norm=None).double())
        changed.append(~torch.isclose(flow(x)[0], x).all(0))
    assert changed[0].any() and not changed[0].all()
    assert changed[1].all()


def test_the_prior_of_what_is_split_off_is_one_convolution_or_what_is_asked_for():
    (split,) = (m for m in Glow((1, 4, 4), None, CONV, levels=2).modules() if isinstance(m, Split))
    assert len(split.network.hidden) == 0
    flow = RealNVP((1, 4, 4), None, CONV, levels=2, prior_network=partial(ConvNet, widths=(7,)))
    (split,) = (m for m in flow.modules() if isinstance(m, Split))
    assert [layer.out_channels for layer in split.network.hidden] == [7]


def test_the_latents_of_all_levels_are_one_vector():
    for flow in (Glow((3, 8, 8), None, CONV, levels=3, steps=1), RealNVP((3, 8, 8), None, CONV, levels=3)):
        assert flow.out_shape == (math.prod((3, 8, 8)),)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Glow((1, 4, 4), None, CONV, levels=0), "needs a level or more, not 0"),
        (lambda: RealNVP((1, 4, 4), None, CONV, levels=0), "needs a level or more, not 0"),
        (lambda: RealNVP((4,), None, CONV), "RealNVP is for images"),
        (lambda: Glow((4,), None, CONV), "Glow is for images"),
        (lambda: Glow((1, 4, 4), None, CONV, steps=0, levels=1), "needs a step or more, not 0"),
        (lambda: NICE((4,), None, MLP, steps=0), "needs a step or more, not 0"),
        (
            lambda: Glow((1, 28, 28), None, CONV, levels=3, steps=1),
            r"\(4, 7, 7\) cannot be halved: choose fewer levels",
        ),
        (lambda: RealNVP((1, 7, 7), None, CONV, levels=2), r"\(1, 7, 7\) cannot be halved: choose fewer levels"),
        (lambda: NICE((1,), None, MLP), "VectorMask needs two channels"),
        (lambda: Steps((1, 4, 4), None, CONV), "ChannelMask needs two channels"),
    ],
)
def test_what_has_no_meaning_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_steps_without_norm_and_mixing_are_couplings_alone():
    flow = Steps((4,), None, MLP, steps=2, norm=None)
    assert count(flow)[Coupling] == 2 and count(flow)[Chain] == 2
