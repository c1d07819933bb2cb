"""Couplings: one half stays as it is and says how the other changes."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from lightning_gen.flow import Additive, Affine, CheckerboardMask, Coupling, RationalQuadraticSpline
from lightning_gen.networks import ConvNet, PlainMLP

CONV, MLP = partial(ConvNet, widths=(8, 8)), partial(PlainMLP, widths=(16,))
X = torch.randn(4, 4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("transform", [None, Additive(), Affine(bound=None), RationalQuadraticSpline(5)])
@pytest.mark.parametrize("cond_dim", [None, 3])
def test_a_new_one_is_the_identity_whatever_the_condition(transform, cond_dim):
    coupling = Coupling((4, 3, 2), cond_dim, CONV, transform=transform).double()
    z, log_det = coupling(X, None if cond_dim is None else torch.randn(4, 3, dtype=torch.float64))
    torch.testing.assert_close(z, X, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det, torch.zeros_like(log_det), rtol=0, atol=1e-12)


def test_the_given_half_stays_bit_for_bit_and_the_other_depends_on_it(shaken):
    coupling = shaken(Coupling((4, 3, 2), None, CONV).double(), scale=0.5)
    z, _ = coupling(X)
    assert torch.equal(z[:, :2], X[:, :2]) and not torch.isclose(z[:, 2:], X[:, 2:]).any()
    moved = X.clone()
    moved[:, :2] += 1
    assert not torch.isclose(coupling(moved)[0][:, 2:], z[:, 2:]).any()


@pytest.mark.parametrize("mask", [None, CheckerboardMask])
def test_the_condition_changes_what_becomes_of_the_active_half_only(shaken, mask):
    chosen = {} if mask is None else {"mask": mask}
    coupling = shaken(Coupling((4, 3, 2), 3, CONV, **chosen).double(), scale=0.5)
    one, other = (torch.full((4, 3), value, dtype=torch.float64) for value in (0.0, 1.0))
    differs = ~torch.isclose(coupling(X, one)[0], coupling(X, other)[0])
    active = coupling.mask.merge(torch.zeros_like(X), torch.ones_like(coupling.mask.split(X)[1])).bool()
    assert torch.equal(differs, active)


class Own(nn.Module):
    """A network whose precision is its own, and seen."""

    def __init__(self, in_shape, out_shape, cond_dim):
        super().__init__()
        self.output = nn.Linear(in_shape[0], out_shape[0])
        self.seen = []

    def forward(self, x, cond=None):
        self.seen.append(x.dtype)
        return self.output(x)


def test_a_network_of_low_precision_takes_its_own_and_leaves_the_states_theirs(shaken):
    coupling = shaken(Coupling((4,), None, Own), scale=0.5)
    coupling.network.bfloat16()
    x = X[:, :, 0, 0].float()
    z, log_det = coupling(x)
    assert coupling.network.seen == [torch.bfloat16]
    assert z.dtype == log_det.dtype == torch.float32
    params = coupling.network(x[:, :2].bfloat16()).float()  # shifts, then log-scales
    expected, log_scale = Affine().forward(x[:, 2:], params.unflatten(1, (2, 2)))
    assert torch.equal(z[:, 2:], expected) and torch.equal(log_det, log_scale.sum(1))


def test_an_affine_coupling_agrees_with_normflows(shaken):
    """Whose networks give shift and scale in turns; the scale is not bounded."""
    normflows = pytest.importorskip("normflows")
    ours = shaken(Coupling((4, 3, 2), None, CONV, transform=Affine(bound=None)).double(), scale=0.5)

    class Interleaved(nn.Module):
        def forward(self, x):
            return ours.network(x).unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)

    theirs = normflows.flows.AffineCoupling(Interleaved(), scale_map="exp")
    z, log_det = ours(X)
    expected, expected_log_det = theirs([X[:, :2], X[:, 2:]])
    torch.testing.assert_close(z, torch.cat(expected, 1))
    torch.testing.assert_close(log_det, expected_log_det)
    torch.testing.assert_close(ours.inverse(z), torch.cat(theirs.inverse([z[:, :2], z[:, 2:]])[0], 1))


def test_an_affine_coupling_agrees_with_zuko(shaken):
    """Whose scale is bounded softly, in another way: it is given what that bound makes ours of."""
    transforms = pytest.importorskip("zuko.transforms")
    ours = shaken(Coupling((5,), None, MLP).double(), scale=0.3)
    x = X.flatten(1)[:, :5]

    def meta(given):
        shift, raw = ours.network(given).unflatten(1, (2, 3)).unbind(1)
        log_scale = 3 * torch.tanh(raw / 3)
        return transforms.MonotonicAffineTransform(shift, log_scale / (1 - (log_scale / 50).abs()), slope=math.exp(-50))

    theirs = transforms.CouplingTransform(meta, torch.tensor([True, True, False, False, False]))
    z, log_det = ours(x)
    expected, expected_log_det = theirs.call_and_ladj(x)
    torch.testing.assert_close(z, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_det, expected_log_det.sum(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.inverse(z), theirs.inv(z), rtol=1e-6, atol=1e-6)
