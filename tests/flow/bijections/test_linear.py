"""Invertible 1x1 convolutions: one matrix at every pixel, whose determinant counts once for each."""

import pytest
import torch

from lightning_gen.flow import InvertibleConv1x1, LUConv1x1

KINDS = [InvertibleConv1x1, LUConv1x1]
X = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_one_is_a_rotation(kind):
    mixing = kind((6, 3, 4)).double()
    weight = mixing.weight()
    torch.testing.assert_close(weight @ weight.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6)
    assert (weight - torch.eye(6)).abs().max() > 0.1
    assert mixing.log_abs_det().abs() < 1e-6
    assert not torch.allclose(weight, kind((6, 3, 4)).double().weight()), "another one is another rotation"


@pytest.mark.parametrize("kind", KINDS)
def test_each_pixel_is_mixed_by_the_weight_alone(kind, shaken):
    mixing = shaken(kind((6, 3, 4)), scale=0.3).double()
    z, log_det = mixing(X)
    torch.testing.assert_close(z, torch.einsum("oc,bchw->bohw", mixing.weight(), X))
    torch.testing.assert_close(log_det, (12 * torch.linalg.slogdet(mixing.weight()).logabsdet).expand(2))
    vectors = kind((6,)).double()
    vectors.load_state_dict(mixing.state_dict())
    torch.testing.assert_close(vectors(X[:, :, 0, 0])[0], z[:, :, 0, 0])
    torch.testing.assert_close(vectors(X[:, :, 0, 0])[1], log_det / 12)


def test_lu_keeps_its_permutation_and_its_signs_and_never_becomes_singular(shaken):
    mixing = LUConv1x1((6,)).double()
    assert {"permutation", "sign"} == set(dict(mixing.named_buffers()))
    sign = torch.linalg.slogdet(mixing.weight()).sign
    for seed in range(5):
        shaken(mixing, scale=0.7, seed=seed)
        found = torch.linalg.slogdet(mixing.weight())
        assert found.sign == sign
        torch.testing.assert_close(found.logabsdet, mixing.log_abs_det())
    assert mixing.permutation.sum(0).eq(1).all() and mixing.permutation.sum(1).eq(1).all()


def test_what_stands_beyond_the_triangles_has_no_say(shaken):
    mixing = LUConv1x1((4,)).double()
    before = mixing.weight().detach()
    with torch.no_grad():
        mixing.lower += torch.ones(4, 4).triu()
        mixing.upper += torch.ones(4, 4).tril()
    assert torch.equal(mixing.weight(), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(48,), (48, 2, 2)])
def test_autocast_and_weights_in_bfloat16_leave_the_map_in_float32(kind, shape, shaken):
    """In bfloat16 the round trip is off by 2e-2."""
    torch.manual_seed(0)
    mixing, x = shaken(kind(shape), scale=0.02), torch.randn(3, *shape)
    z, log_det = mixing(x)
    with torch.autocast("cpu", torch.bfloat16):
        under, under_log_det = mixing(x)
        back = mixing.inverse(z)
    assert torch.equal(under, z) and torch.equal(under_log_det, log_det) and torch.equal(back, mixing.inverse(z))
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)
    rounded = mixing.bfloat16()
    z, log_det = rounded(x)
    assert z.dtype == log_det.dtype == torch.float32 and rounded.weight().dtype == torch.float32
    torch.testing.assert_close(rounded.inverse(z), x, rtol=0, atol=1e-4)
    exact = torch.linalg.slogdet(rounded.weight().double()).logabsdet * (4 if len(shape) == 3 else 1)
    torch.testing.assert_close(log_det.double(), exact.expand(3), rtol=1e-5, atol=1e-4)


@pytest.mark.filterwarnings("ignore:torch.lu is deprecated")
def test_agrees_with_normflows(shaken):
    """Whose inverse runs from the data to the latents."""
    normflows = pytest.importorskip("normflows")
    ours, theirs = shaken(LUConv1x1((6, 3, 4)), scale=0.3).double(), normflows.flows.Invertible1x1Conv(6, use_lu=True)
    theirs = theirs.double()
    theirs.P.copy_(ours.permutation)
    theirs.sign_S.copy_(ours.sign)
    with torch.no_grad():
        for own, given in ((theirs.L, ours.lower), (theirs.U, ours.upper), (theirs.log_S, ours.log_scale)):
            own.copy_(given)
    z, log_det = ours(X)
    expected, expected_log_det = theirs.inverse(X)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(log_det, expected_log_det.expand(2))
    torch.testing.assert_close(ours.inverse(z), theirs(z)[0])


def test_the_plain_one_agrees_with_normflows(shaken):
    normflows = pytest.importorskip("normflows")
    ours, theirs = shaken(InvertibleConv1x1((6, 3, 4))).double(), normflows.flows.Invertible1x1Conv(6).double()
    with torch.no_grad():
        theirs.W.copy_(ours.matrix)
    z, log_det = ours(X)
    expected, expected_log_det = theirs.inverse(X)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(log_det, expected_log_det.expand(2))
    torch.testing.assert_close(ours.inverse(z), theirs(z)[0])
