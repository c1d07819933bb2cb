"""Flows that are no longer the identity they start as, and noise that a test chooses."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lightning_gen.flow import NICE, Glow, NormalizingFlow, RealNVP
from lightning_gen.networks import PlainMLP
from lightning_gen.networks.plain_conv import ConvNet
from lightning_gen.random_source import RandomSource


class Given(RandomSource):
    """A source whose uniform draws are given, all of them at every draw."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def uniform(self, shape, dtype=torch.float32) -> Tensor:
        return self.values.expand(tuple(shape))

    def normal(self, shape, dtype=torch.float32) -> Tensor:
        raise AssertionError("only uniform draws are given")

    def integers(self, high, shape) -> Tensor:
        raise AssertionError("only uniform draws are given")

    def fork(self, *keys) -> "Given":
        return self


@pytest.fixture
def given_noise():
    """given_noise(values): a source whose uniform draws are these."""
    return Given


@pytest.fixture
def shaken():
    """shaken(module, scale=0.2, seed=0): the module, noise of that size added to each of its parameters."""

    def function(module: nn.Module, scale: float = 0.2, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        return module

    return function


@pytest.fixture
def kolmogorov_smirnov():
    """kolmogorov_smirnov(sorted CDF values of N draws): sqrt(N) times the largest distance; above 1.95 once in 1000."""

    def function(cdf: Tensor) -> float:
        cdf, num = cdf.detach().double().sort().values, len(cdf)
        steps = torch.arange(num + 1, dtype=torch.float64) / num
        return num**0.5 * float(torch.maximum(steps[1:] - cdf, cdf - steps[:-1]).max())

    return function


@pytest.fixture
def jacobian_log_det():
    """jacobian_log_det(bijection, x, cond=None): log |det dz/dx| [B], from autograd's Jacobian of each example."""

    def function(bijection: Callable[..., tuple[Tensor, Tensor]], x: Tensor, cond: Tensor | None = None) -> Tensor:
        def log_det(i: int) -> Tensor:
            own = None if cond is None else cond[i : i + 1]
            jacobian = torch.autograd.functional.jacobian(
                lambda v: bijection(v[None], own)[0].flatten(), x[i], vectorize=True
            )
            return torch.linalg.slogdet(jacobian.flatten(1)).logabsdet

        return torch.stack([log_det(i) for i in range(len(x))])

    return function


_CONV, _MLP = partial(ConvNet, widths=(8,), activation=nn.Tanh), partial(PlainMLP, widths=[16])
_FLOWS = {
    "Glow": partial(Glow, network=_CONV, levels=2, steps=2),
    "RealNVP": partial(RealNVP, network=_CONV, levels=2),
    "NICE": partial(NICE, network=_MLP),
}


@pytest.fixture
def made(shaken):
    """made(flow, shape, levels, num_classes, scale, **kwargs): a module whose parameters are `scale` from
    their start; with None it is not built yet.

    The flow by its name among three small ones, or what makes it. Of digits in 3 classes unless told.
    """

    def function(flow="Glow", shape=(1, 8, 8), levels=17, num_classes=3, scale=0.1, **kwargs) -> NormalizingFlow:
        torch.manual_seed(0)
        module = NormalizingFlow(shape, levels, num_classes, _FLOWS.get(flow, flow), **kwargs)
        if scale is None:
            return module
        module.configure_model()
        return shaken(module, scale)

    return function
