"""The laws that every bijection keeps, on images and vectors, with and without a condition."""

import math
import pickle
from functools import partial

import pytest
import torch

from lightning_gen.flow import (
    ActNorm,
    Additive,
    Affine,
    Chain,
    CheckerboardMask,
    Coupling,
    Elementwise,
    Flatten,
    InvertibleConv1x1,
    Logit,
    LUConv1x1,
    RationalQuadraticSpline,
    Reverse,
    Shuffle,
    Split,
    Squeeze,
    VectorMask,
)
from lightning_gen.networks import ConvNet, PlainMLP

IMAGE, VECTOR, WIDE = (3, 1, 5), (5,), (2, 2, 4)
CONV, MLP = partial(ConvNet, widths=(4, 4)), partial(PlainMLP, widths=(8,))
SPLINE = RationalQuadraticSpline(bins=4, reach=3.0)
TRANSFORMS = {"additive": Additive(), "affine": Affine(), "spline": SPLINE}
MASKS = {
    "channels": (IMAGE, partial(Coupling, network=CONV)),
    "halves": (VECTOR, partial(Coupling, network=MLP)),
    "alternate": (VECTOR, partial(Coupling, network=MLP, mask=VectorMask)),
    "checkerboard": (IMAGE, partial(Coupling, network=CONV, mask=CheckerboardMask)),
}
COUPLINGS = {
    f"{how}-{mask}": (shape, partial(make, transform=transform))
    for how, transform in TRANSFORMS.items()
    for mask, (shape, make) in MASKS.items()
} | {f"flipped-{mask}": (shape, partial(make, flip=True)) for mask, (shape, make) in MASKS.items()}
LAYERS = {
    "actnorm-image": (IMAGE, ActNorm),
    "actnorm-vector": (VECTOR, ActNorm),
    "logit": (IMAGE, partial(Logit, alpha=0.02)),
    "elementwise-image": (IMAGE, Elementwise),
    "elementwise-pixels": (IMAGE, partial(Elementwise, per_channel=False)),
    "elementwise-spline": (VECTOR, partial(Elementwise, transform=SPLINE)),
    "mixing-image": (IMAGE, InvertibleConv1x1),
    "mixing-vector": (VECTOR, InvertibleConv1x1),
    "lu-image": (IMAGE, LUConv1x1),
    "lu-vector": (VECTOR, LUConv1x1),
    "reverse-image": (IMAGE, Reverse),
    "reverse-vector": (VECTOR, Reverse),
    "shuffle-image": (IMAGE, Shuffle),
    "shuffle-vector": (VECTOR, Shuffle),
    "squeeze": (WIDE, Squeeze),
    "flatten": (IMAGE, Flatten),
    "nothing": (IMAGE, Chain),
    "split": (IMAGE, partial(Split, rest=Chain, network=CONV)),
    "split-vector": (VECTOR, partial(Split, rest=Chain, network=MLP)),
} | COUPLINGS
LINEAR = ["mixing-image", "mixing-vector", "lu-image", "lu-vector", "actnorm-image", "actnorm-vector"]
WHOLE = {
    "chain": (WIDE, partial(Chain, layers=[Squeeze, ActNorm, LUConv1x1, partial(Coupling, network=CONV)])),
    "chain-of-vectors": (
        VECTOR,
        partial(Chain, layers=[Shuffle, ActNorm, partial(Coupling, network=MLP, transform=SPLINE)], times=2),
    ),
    "split-on": (
        WIDE,
        partial(Split, network=CONV, rest=partial(Chain, layers=[Squeeze, ActNorm, partial(Coupling, network=CONV)])),
    ),
}
BIJECTIONS = LAYERS | WHOLE
BATCH, COND = 3, 4


@pytest.fixture(params=BIJECTIONS)
def name(request):
    return request.param


@pytest.fixture(params=[None, COND], ids=["free", "conditional"])
def cond_dim(request):
    return request.param


@pytest.fixture
def make(name, cond_dim, shaken):
    """make(): the bijection away from its start, in float32, always the same one."""

    def function():
        torch.manual_seed(0)
        shape, factory = BIJECTIONS[name]
        return shaken(factory(shape, cond_dim), scale=0.3)

    return function


@pytest.fixture
def x(name):
    """Of a unit cube for the logit; else some of it beyond the splines' reach."""
    generator = torch.Generator().manual_seed(2)
    uniform = torch.rand(BATCH, *BIJECTIONS[name][0], generator=generator, dtype=torch.float64)
    return uniform if name == "logit" else 8 * uniform - 4


@pytest.fixture
def cond(cond_dim):
    generator = torch.Generator().manual_seed(3)
    return None if cond_dim is None else torch.randn(BATCH, cond_dim, generator=generator, dtype=torch.float64)


def single(*values):
    return [value if value is None else value.float() for value in values]


def test_log_det_is_that_of_autograds_jacobian(make, x, cond, jacobian_log_det):
    bijection = make().double()
    log_det = bijection(x, cond)[1]
    assert log_det.shape == (BATCH,) and log_det.dtype == torch.float64
    torch.testing.assert_close(log_det, jacobian_log_det(bijection, x, cond), rtol=0, atol=1e-9)


def test_what_is_shaken_is_not_the_identity(make, name, x, cond):
    """Else the laws here would say nothing."""
    z, log_det = make().double()(x, cond)
    if name not in ("nothing", "flatten"):
        assert (z.flatten(1) - x.flatten(1)).abs().max() > 1e-2
    if any(word in name for word in ("affine", "flipped", "spline", "elementwise", "lu", "mixing", "actnorm", "split")):
        assert log_det.abs().max() > 1e-3


def test_round_trips_both_ways_in_float64(make, x, cond):
    bijection = make().double()
    z, _ = bijection(x, cond)
    torch.testing.assert_close(bijection.inverse(z, cond), x, rtol=0, atol=1e-9)
    latents = 7 * torch.rand(z.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64) - 3.5
    back = bijection.inverse(latents, cond)
    assert back.shape == x.shape
    torch.testing.assert_close(bijection(back, cond)[0], latents, rtol=0, atol=1e-9)


def test_round_trip_in_float32(make, x, cond):
    bijection, (x, cond) = make(), single(x, cond)
    z, log_det = bijection(x, cond)
    assert z.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(bijection.inverse(z, cond), x, rtol=0, atol=1e-4)


def test_out_shape_is_true_and_loses_no_number(make, name, x, cond):
    bijection = make().double()
    assert bijection.shape == BIJECTIONS[name][0]
    assert bijection(x, cond)[0].shape == (BATCH, *bijection.out_shape)
    assert math.prod(bijection.out_shape) == math.prod(bijection.shape)


def test_an_example_does_not_depend_on_the_rest_of_its_batch(make, x, cond):
    bijection = make().double()
    z, log_det = bijection(x, cond)
    own = None if cond is None else cond[1:2]
    alone = bijection(x[1:2], own)
    torch.testing.assert_close(z[1:2], alone[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det[1:2], alone[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(bijection.inverse(z, cond)[1:2], bijection.inverse(z[1:2], own), rtol=0, atol=1e-12)


def test_initialize_gives_what_the_layer_then_makes_of_the_batch(make, x, cond):
    bijection = make().double()
    with torch.no_grad():
        torch.testing.assert_close(bijection.initialize(x, cond), bijection(x, cond)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_one_layer_under_autocast_goes_back_and_knows_its_own_log_det(make, x, cond, jacobian_log_det):
    """Networks inside are in bfloat16, what is transformed is not: the given half, and so the parameters, are the same bits
    in both directions."""
    bijection, (x, cond) = make(), single(x, cond)
    autocast = torch.autocast("cpu", torch.bfloat16)
    forward, inverse = autocast(bijection.forward), autocast(bijection.inverse)
    z, log_det = forward(x, cond)
    back = inverse(z, cond)
    assert z.dtype == log_det.dtype == back.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_det[:1], jacobian_log_det(forward, x[:1], cond), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", LINEAR)
def test_autocast_changes_no_bit_of_what_has_no_network(make, x, cond):
    bijection, (x, cond) = make(), single(x, cond)
    z, log_det = bijection(x, cond)
    with torch.autocast("cpu", torch.bfloat16):
        under = bijection(x, cond)
        assert torch.equal(under[0], z) and torch.equal(under[1], log_det)
        inside = bijection.inverse(z, cond)
    assert torch.equal(inside, bijection.inverse(z, cond))


@pytest.mark.parametrize("name", LAYERS)
def test_one_layer_in_bfloat16_goes_back_with_states_in_float32(make, x, cond, jacobian_log_det):
    """A condition comes in the precision of the weights."""
    bijection = make().bfloat16()
    x, cond = x.float(), cond if cond is None else cond.bfloat16()
    z, log_det = bijection(x, cond)
    back = bijection.inverse(z, cond)
    assert z.dtype == log_det.dtype == back.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_det[:1], jacobian_log_det(bijection, x[:1], cond), rtol=0, atol=2e-4)


def test_it_survives_pickling_and_its_state_is_enough(make, name, cond_dim, x, cond, equal):
    bijection, (x, cond) = make(), single(x, cond)
    z, log_det = bijection(x, cond)
    torch.manual_seed(7)  # another order of a shuffle, another rotation
    shape, factory = BIJECTIONS[name]
    loaded = factory(shape, cond_dim)
    loaded.load_state_dict(bijection.state_dict())
    for copy in (loaded, pickle.loads(pickle.dumps(bijection))):
        assert torch.equal(copy(x, cond)[0], z) and torch.equal(copy(x, cond)[1], log_det)
    before = {key: value.clone() for key, value in bijection.state_dict().items()}
    for training in (True, False):
        bijection.train(training)
        bijection(x, cond)
        bijection.inverse(z, cond)
    assert equal(before, bijection.state_dict())


def test_gradients_reach_the_data_and_all_that_is_learned(make, x, cond):
    bijection = make().double()
    z, log_det = bijection(x.requires_grad_(), cond)
    (z.square().sum() + log_det.square().sum()).backward()
    grads = {key: p.grad for key, p in [*bijection.named_parameters(), ("x", x)]}
    assert not [key for key, grad in grads.items() if grad is None or not grad.isfinite().all() or not grad.any()]


def test_it_can_be_made_without_memory(name, cond_dim):
    shape, factory = BIJECTIONS[name]
    with torch.device("meta"):
        bijection = factory(shape, cond_dim)
    assert all(p.is_meta for p in bijection.parameters())
    assert bijection.out_shape == factory(shape, cond_dim).out_shape
