"""Multiscale flows: half becomes latents early, with a prior given the other half."""

import math
from functools import partial

import torch

from lightning_gen.flow import Affine, Chain, Elementwise, Split, Squeeze
from lightning_gen.networks import ConvNet

LINEAR = partial(ConvNet, widths=())
X = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_new_one_puts_all_numbers_into_one_vector_those_that_go_on_first():
    z, log_det = Split((4, 2, 2), None, rest=Chain, network=LINEAR).double()(X)
    assert torch.equal(z, torch.cat([X[:, :2].flatten(1), X[:, 2:].flatten(1)], 1))
    assert not log_det.any()


def test_the_first_half_goes_through_the_rest_and_the_second_does_not(shaken):
    split = Split((4, 2, 2), None, rest=partial(Chain, layers=[Squeeze, Elementwise]), network=LINEAR).double()
    shaken(split.rest)
    z, log_det = split(X)
    going, rest = split.rest(X[:, :2])
    assert torch.equal(z[:, :8], going.flatten(1)) and torch.equal(z[:, 8:], X[:, 2:].flatten(1))
    assert torch.equal(log_det, rest) and rest.abs().min() > 1e-2


def test_the_second_half_has_a_gaussian_prior_given_the_first(shaken):
    """With a standard normal base: x_2 ~ N(mean(x_1), scale(x_1)^2), and latents of zero are its mean."""
    split = shaken(Split((4, 2, 2), None, rest=Chain, network=LINEAR, transform=Affine(bound=None)).double())
    z, log_det = split(X)
    shift, log_scale = split.network(X[:, :2]).chunk(2, 1)
    mean, scale = -shift * (-log_scale).exp(), (-log_scale).exp()
    prior = torch.distributions.Normal(mean, scale).log_prob(X[:, 2:]).flatten(1).sum(1)
    base = -0.5 * z[:, 8:].square().sum(1) - 4 * math.log(2 * math.pi)
    torch.testing.assert_close(base + log_det, prior)
    centre = torch.cat([z[:, :8], torch.zeros_like(z[:, 8:])], 1)
    torch.testing.assert_close(split.inverse(centre)[:, 2:], mean)


def test_a_condition_moves_the_prior_and_reaches_the_rest(shaken):
    split = shaken(Split((4, 2, 2), 3, rest=Elementwise, network=LINEAR).double())
    one, other = (split(X, torch.full((3, 3), value, dtype=torch.float64))[0] for value in (0.0, 1.0))
    assert not torch.isclose(one, other).any()


def test_odd_channels_are_all_kept(shaken):
    split = shaken(Split((5, 2, 2), None, rest=Chain, network=LINEAR).double())
    x = torch.randn(2, 5, 2, 2, dtype=torch.float64)
    assert split.out_shape == (20,)
    torch.testing.assert_close(split.inverse(split(x)[0]), x)
