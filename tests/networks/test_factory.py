"""Networks of users' own: what is built or called otherwise is refused in words that show how; bugs stay bugs."""

import pytest
import torch
from torch import nn

from lightning_gen.dae import DenoisingAutoencoder
from lightning_gen.diffusion import GaussianDiffusion, NoisyClassifier
from lightning_gen.discrete_diffusion import Absorbing, DiscreteDiffusion
from lightning_gen.errors import UserError
from lightning_gen.flow import NormalizingFlow
from lightning_gen.flow.architectures import Steps
from lightning_gen.flow.bijections.coupling_masks import VectorMask
from lightning_gen.networks import Bottleneck, NoiseBlind, PlainMLP
from lightning_gen.networks.maps import Map
from lightning_gen.vae import VAE, Bernoulli, HierarchicalVAE


class Few(nn.Module):
    def __init__(self, dim):
        super().__init__()


class Two(nn.Module):
    def __init__(self, shape, out, cond_dim, *rest):
        super().__init__()
        self.layer = self.output = nn.Linear(2, 2)

    def forward(self, x, a, b=None, *, more):
        return self.layer(x)


class Narrow(Two):
    """Called as it should be; gives one number in the place of all: it would be broadcast."""

    def forward(self, x, *rest):
        return x.flatten(1)[:, :1] * self.layer.weight[0, 0]


class Pair(Two):
    def forward(self, x, *rest):
        return x, x


class Short(Map):
    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape)

    def forward(self, x, cond=None):
        return x


class Uncalled(Map):
    def forward(self, x):
        return x


class NoOutput(Map):
    def forward(self, x, cond=None):
        return x


class Shapeless(Map):
    """Ends in another shape than it was built for."""

    def __init__(self, in_shape, out_shape, cond_dim=None):
        super().__init__(in_shape, out_shape, cond_dim)
        self.output = nn.Linear(1, 1)

    def forward(self, x, cond=None):
        return x.flatten(1)[:, :1].float() * self.output.weight[0, 0]


def mlp(*args):
    return PlainMLP(*args, widths=(4,))


NOISY = r"it is built as Net\(shape, out_channels, cond_dim\) and called as net\(x, logsnr, cond\)"
MAP = r"it is built as Net\(in_shape, out_shape, cond_dim\) and called as net\(x, cond\)"
FLOW = r"it is built as Flow\(shape, cond_dim\) and called as flow\(x, cond\)"
FAMILIES = {
    "diffusion": (lambda net: GaussianDiffusion((2,), None, None, net), NOISY),
    "classifier": (lambda net: NoisyClassifier((2,), None, 3, net), NOISY),
    "discrete": (lambda net: DiscreteDiffusion((2,), 2, None, net, Absorbing()), NOISY),
    "dae": (lambda net: DenoisingAutoencoder((2,), None, None, net), NOISY),
    "encoder": (lambda net: VAE((1, 2, 1), 2, None, net, mlp, Bernoulli()), MAP),
    "decoder": (lambda net: VAE((1, 2, 1), 2, None, mlp, net, Bernoulli()), MAP),
    "block": (
        lambda net: HierarchicalVAE((1, 2, 1), 2, None, net, [(2,), (2,)], [4, 4], Bernoulli()),
        r"it is built as Block\(in_shape, out_shape, cond_dim, width\) and called as block\(x, cond\)",
    ),
    "coupling": (
        lambda net: NormalizingFlow((2,), None, None, lambda *a: Steps(*a, net, steps=1, mask=VectorMask)),
        MAP,
    ),
    "flow": (lambda net: NormalizingFlow((2,), None, None, net), FLOW),
    "bottleneck": (
        lambda net: GaussianDiffusion(
            (2,), None, None, lambda *a: NoiseBlind(*a, network=lambda *b: Bottleneck(*b, encoder=net, decoder=mlp))
        ),
        MAP,
    ),
    "conditioner": (
        lambda net: GaussianDiffusion((2,), None, 3, Two, conditioner=lambda: None),
        r"it is built as Conditioner\(num_classes\)",
    ),
}


@pytest.mark.parametrize("net", [Few, Two, Short, Uncalled], ids=lambda net: net.__name__)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_of_another_signature_is_refused_before_the_first_step(family, net):
    if family == "flow" and issubclass(net, Map):
        return  # no bijection, as the command line says of it
    make, shown = FAMILIES[family]
    model = make(net)
    other = "NoiseBlind around it" if shown == NOISY and issubclass(net, Map) else shown
    with pytest.raises(UserError, match=other) as caught:
        model.configure_model()
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("net", [Narrow, Pair], ids=lambda net: net.__name__)
@pytest.mark.parametrize("family", ["diffusion", "classifier", "discrete", "dae"])
def test_an_output_of_another_shape_is_refused_and_not_broadcast(family, net):
    model = FAMILIES[family][0](net)
    model.configure_model()
    x = torch.zeros(4, 2) if family != "discrete" else torch.zeros(4, 2, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"returned .*not a tensor of shape \[4, "):
        model.training_loss(x, torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_map_that_ends_in_another_shape_is_refused_and_not_broadcast(part):
    model = FAMILIES[part][0](Shapeless)
    model.configure_model()
    with pytest.raises(UserError, match=r"Shapeless\(x, cond\) returned shape \[.*not a tensor of shape"):
        model.training_loss(torch.zeros(4, 1, 2, 1, dtype=torch.uint8))


def test_a_map_whose_last_layer_is_not_known_is_refused_where_its_start_is_set():
    with pytest.raises(UserError, match="NoOutput has no attribute 'output'"):
        FAMILIES["coupling"][0](NoOutput).configure_model()


def test_a_bug_in_the_constructor_or_in_forward_is_none_of_these():
    class Broken(nn.Module):
        def __init__(self, shape, out_channels, cond_dim):
            super().__init__()
            self.layer = nn.Linear(2)

    class Fails(Two):
        def forward(self, x, logsnr, cond):
            return self.layer(x, logsnr)

    with pytest.raises(TypeError, match="out_features") as caught:
        FAMILIES["diffusion"][0](Broken).configure_model()
    assert "it is built as Net" in caught.value.__notes__[0]
    model = FAMILIES["diffusion"][0](Fails)
    model.configure_model()
    with pytest.raises(TypeError, match="positional"):
        model.training_loss(torch.zeros(4, 2))
