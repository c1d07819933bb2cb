"""Chains, and what they keep for the backward pass."""

from collections import Counter
from functools import partial

import pytest
import torch
from torch import nn

from lightning_gen.flow import (
    NICE,
    ActNorm,
    Chain,
    Coupling,
    Elementwise,
    Flatten,
    Glow,
    LUConv1x1,
    RealNVP,
    Reverse,
    Shuffle,
    Squeeze,
)
from lightning_gen.flow.bijections import chain, checkpoint_steps
from lightning_gen.networks import ConvNet, PlainMLP

CONV, MLP = partial(ConvNet, widths=(16, 16)), partial(PlainMLP, widths=(16,))
COUPLING = partial(Coupling, network=CONV)
FLOWS = {
    "glow": partial(Glow, network=CONV, levels=2, steps=3),
    "realnvp": partial(RealNVP, network=CONV, levels=2),
    "nice": partial(NICE, network=MLP, steps=3),
    "flat": partial(Chain, layers=[ActNorm, COUPLING, Reverse, COUPLING]),
}
X = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=FLOWS)
def name(request):
    return request.param


@pytest.fixture
def make(name, shaken):
    """make(): the flow, of images of two channels, away from its start; always the same one."""

    def function():
        torch.manual_seed(0)
        return shaken(FLOWS[name]((2, 8, 8), None), scale=0.1)

    return function


def test_layers_follow_each_other_and_their_log_dets_add_up(shaken):
    flow = shaken(Chain((2, 8, 8), None, [ActNorm, COUPLING, Squeeze, Elementwise]).double())
    x, total = X.double(), 0.0
    for layer in flow.layers:
        x, log_det = layer(x)
        total = total + log_det
    z, log_det = flow(X.double())
    assert torch.equal(z, x) and torch.equal(log_det, total)
    assert [layer.shape for layer in flow.layers] == [(2, 8, 8)] * 3 + [(8, 4, 4)]
    assert flow.out_shape == (8, 4, 4)


def test_times_makes_each_repetition_with_parameters_of_its_own():
    flow = Chain((2, 8, 8), None, [Squeeze, ActNorm], times=3)
    assert [type(layer) for layer in flow.layers] == [Squeeze, ActNorm] * 3
    assert flow.out_shape == (128, 1, 1)
    assert len({id(p) for p in flow.parameters()}) == 6


def test_without_layers_it_is_the_identity():
    flow = Chain((2, 8, 8))
    z, log_det = flow(X)
    assert torch.equal(z, X) and torch.equal(log_det, torch.zeros(4)) and flow.out_shape == (2, 8, 8)
    assert torch.equal(flow.inverse(z), X)


def test_each_layer_is_initialized_on_what_those_before_it_make(shaken):
    flow = shaken(Chain((2, 8, 8), None, [ActNorm, LUConv1x1, COUPLING, ActNorm]), scale=0.5)
    with torch.no_grad():
        z = flow.initialize(5 * X + 3)
        for count in (1, 4):
            x = 5 * X + 3
            for layer in flow.layers[:count]:
                x, _ = layer(x)
            assert x.mean((0, 2, 3)).abs().max() < 1e-5 and (x.var((0, 2, 3)) - 1).abs().max() < 1e-2
    assert torch.equal(z, x)


def outcome(flow, x):
    """Latents, log-determinants and all gradients."""
    x = x.clone().requires_grad_()
    z, log_det = flow(x)
    loss = z.square().sum() - log_det.sum()
    return [z, log_det, *torch.autograd.grad(loss, [x, *flow.parameters()])]


def kept(flow, x):
    """Bytes that a forward pass keeps for the backward one, besides parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in [*flow.parameters(), *flow.buffers(), x]}
    sizes = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in own:
            sizes[t.untyped_storage().data_ptr()] = (t.untyped_storage().nbytes(), t)  # held: no address comes twice
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = flow(x)
    assert out[0].requires_grad
    return sum(size for size, _ in sizes.values())


def test_keeping_less_changes_neither_values_nor_gradients(make):
    plain, sparing = make(), make()
    checkpoint_steps(sparing)
    for one, other in zip(outcome(plain, X), outcome(sparing, X), strict=True):
        assert torch.equal(one, other)


def test_less_is_kept(name, make):
    plain, sparing = make(), make()
    checkpoint_steps(sparing)
    assert kept(sparing, X) < (0.4 if name in ("glow", "realnvp") else 0.7) * kept(plain, X)


class Counted:
    """Stands for torch's `checkpoint`: what it is called with, and how deep."""

    def __init__(self):
        self.units, self.within = [], 0

    def __call__(self, layer, *args, use_reentrant):
        assert not use_reentrant
        assert not self.within, "a unit in a unit is computed three times"
        self.units.append(layer)
        self.within += 1
        out = layer(*args)
        self.within -= 1
        return out


UNITS = {
    "glow": {Squeeze: 2, Chain: 6, Elementwise: 1},
    "realnvp": {Squeeze: 1, Chain: 10, Elementwise: 1},
    "nice": {Flatten: 1, Chain: 3, Elementwise: 1},
    "flat": {ActNorm: 1, Coupling: 2, Reverse: 1},
}


def test_units_are_steps_and_what_stands_between_them(name, make, monkeypatch):
    counted, flow = Counted(), make()
    monkeypatch.setattr(chain, "checkpoint", counted)
    flow(X)
    assert not counted.units, "not unless asked for"
    checkpoint_steps(flow)
    flow(X)
    assert Counter(map(type, counted.units)) == UNITS[name]
    within = {id(m) for unit in counted.units for m in unit.modules()}
    assert {id(m) for m in flow.modules() if isinstance(m, Coupling)} <= within
    counted.units.clear()
    with torch.no_grad():
        flow(X)
        flow.inverse(flow(X)[0])
    assert not counted.units, "nothing is kept without gradients"


class Dropping(ConvNet):
    def forward(self, x, cond=None):
        return super().forward(nn.functional.dropout(x, 0.5, self.training), cond)


def test_what_is_computed_anew_draws_the_same_numbers(shaken):
    def gradients(sparing):
        torch.manual_seed(0)
        flow = shaken(Chain((2, 8, 8), None, [partial(Coupling, network=Dropping), Shuffle, COUPLING]))
        if sparing:
            checkpoint_steps(flow)
        torch.manual_seed(1)
        return outcome(flow, X)

    for one, other in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(one, other)
