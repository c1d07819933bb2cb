"""A layer that gives what is not finite is named, in training and in what is reported."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from lightning_gen.errors import Diverged
from lightning_gen.flow import NICE, Glow, NormalizingFlow, VariationalDequantization
from lightning_gen.flow.bijections import ActNorm, Chain, Coupling, Elementwise, InvertibleConv1x1, LUConv1x1, Split
from lightning_gen.flow.layer_watch import LayerWatch
from lightning_gen.networks import ConvNet, PlainMLP

SHAPE = (1, 8, 8)
NETWORK = partial(ConvNet, widths=(4,), activation=nn.Tanh)
X = torch.randint(17, (4, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def alone(value):
    return value


def glow(**kwargs) -> NormalizingFlow:
    torch.manual_seed(0)
    flow = partial(Glow, network=NETWORK, levels=2, steps=2)
    module = NormalizingFlow(SHAPE, 17, None, flow, logit=0.05, **kwargs)
    module.configure_model()
    return module


def layers(module, kind):
    return {name: layer for name, layer in module.named_modules() if type(layer) is kind}


WEIGHTS = {
    ActNorm: lambda layer: layer.log_scale,
    LUConv1x1: lambda layer: layer.log_scale,
    Coupling: lambda layer: layer.network.output.bias,
    Split: lambda layer: layer.network.output.bias,
    Elementwise: lambda layer: layer.constant,
}


BAD = [(kind, math.nan) for kind in WEIGHTS] + [(ActNorm, math.inf), (LUConv1x1, -math.inf)]


@pytest.mark.parametrize("kind, bad", BAD, ids=lambda value: getattr(value, "__name__", str(value)))
def test_the_bad_layer_is_named_and_a_mended_one_passes(kind, bad):
    """The last of its kind: what comes before is finite, and what comes after is not what went first."""
    module = glow()
    name, layer = list(layers(module, kind).items())[-1]
    said = f"layer {name} ({kind.__name__}) of the flow gives NaN or infinite values at step 0; "
    kept = WEIGHTS[kind](layer).detach().clone()
    module.training_loss(X)
    module.log_likelihood(X)
    module.watch.check(alone)
    with torch.no_grad():
        WEIGHTS[kind](layer).fill_(bad)
    with pytest.raises(Diverged) as refused:
        module.log_likelihood(X)
    assert str(refused.value).startswith(said)
    module.training_loss(X)
    module.watch.keep(0)
    with pytest.raises(Diverged) as refused:
        module.watch.check(alone)
    assert str(refused.value).startswith(said)
    with torch.no_grad():
        WEIGHTS[kind](layer).copy_(kept)
    module.log_likelihood(X)
    module.training_loss(X)
    module.watch.keep(0)
    module.watch.check(alone)


def test_a_shift_that_no_log_determinant_shows_is_named_too():
    """Also where there is none: NICE."""
    module = glow()
    name, layer = list(layers(module, ActNorm).items())[1]
    nn.init.constant_(layer.shift, math.nan)
    with pytest.raises(Diverged, match=name):
        module.log_likelihood(X)
    nice = NormalizingFlow((4,), None, None, partial(NICE, network=partial(PlainMLP, widths=(4,))))
    nice.configure_model()
    second = list(layers(nice, Coupling).items())[1]
    nn.init.constant_(second[1].network.output.bias, math.nan)
    with pytest.raises(Diverged, match=second[0]):
        nice.log_likelihood(torch.ones(2, 4))


def test_every_draw_is_watched():
    """The first of two has NaN."""
    module = glow()
    layer = next(iter(layers(module, ActNorm).values()))
    passes = []

    def bad_at_first(layer, args, output):
        passes.append(output)
        return (output[0], output[1] * math.nan) if len(passes) == 1 else None

    layer._forward_hooks.clear()
    layer.register_forward_hook(bad_at_first)
    watch = LayerWatch(module)
    module.watch = watch
    with pytest.raises(Diverged, match="ActNorm"):
        module.log_likelihood(X, draws=2)
    assert len(passes) == 2


def test_the_noise_of_variational_dequantization_is_watched_too():
    module = glow(dequantization=VariationalDequantization(NETWORK))
    name, layer = next((n, m) for n, m in layers(module, Coupling).items() if n.startswith("dequantization"))
    nn.init.constant_(layer.network.output.bias, math.nan)
    with pytest.raises(Diverged) as refused:
        module.log_likelihood(X)
    assert f"layer {name} (Coupling)" in str(refused.value)


def test_one_bad_example_is_enough():
    watch, layer = watched(Elementwise((2,)))
    layer(torch.zeros(3, 2))
    watch.keep(1)
    watch.check()
    layer.constant.data[1] = math.nan
    layer(torch.zeros(3, 2))
    watch.keep(2)
    with pytest.raises(Diverged):
        watch.check()


class Root(Elementwise):
    """NaN for examples whose first number is negative."""

    def forward(self, x, cond=None):
        return x, x[:, 0].sqrt()


def watched(*layers):
    module = layers[0] if len(layers) == 1 else nn.ModuleList(layers)
    return LayerWatch(module), module


def test_the_first_bad_step_and_its_first_layer_are_named_once():
    flow = Chain((2,), None, [Root, partial(InvertibleConv1x1), Root])
    nn.init.eye_(flow.layers[1].matrix)
    watch = LayerWatch(flow)
    watch.check(alone)
    good, bad = torch.ones(2, 2), torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    for step, x in [(5, good), (6, bad), (7, good), (8, bad)]:
        flow(x)
        watch.keep(step)
    with pytest.raises(Diverged, match=r"layer layers.0 \(Root\) of the flow gives NaN or infinite values at step 6;"):
        watch.check(alone)
    flow(good)
    watch.keep(9)
    watch.check(alone)


def test_a_rank_stops_for_what_another_has_seen():
    """And names the same step and layer: on the other rank the second layer went first, a step earlier."""
    asked = []

    flow = Chain((2,), None, [Root, Root])
    watch = LayerWatch(flow)
    for step, x in [(1, torch.ones(1, 2)), (2, -torch.ones(1, 2))]:
        flow(x)
        watch.keep(step)

    def largest(own):
        asked.append(own)
        return torch.maximum(own, -torch.ones_like(own))  # there step 1, and layer 1 of it

    with pytest.raises(Diverged, match=r"layer layers.1 \(Root\) of the flow gives NaN or infinite values at step 1;"):
        watch.check(largest)
    assert [value.item() for value in asked] == [-2, -math.inf]


def test_a_rank_that_kept_nothing_takes_part():
    watch, asked = LayerWatch(Chain((2,), None, [Root])), []

    def largest(own):
        asked.append(own)
        return own

    watch.check(largest)
    assert len(asked) == 1


def test_no_graph_is_kept_alive():
    flow = Elementwise((2,))
    watch = LayerWatch(flow)
    flow(torch.ones(1, 2))
    assert not any(value.requires_grad for value in watch._seen.values())


def test_validation_remembers_nothing():
    module = glow().eval()
    module.training_loss(X)
    assert not module.watch._kept


@pytest.mark.parametrize("checkpoint_gradients", [False, True])
def test_training_stops_at_the_step_with_the_layers_name(checkpoint_gradients, trainer):
    from datamodules import Digits

    module = glow(checkpoint_gradients=checkpoint_gradients)
    name, layer = next(iter(layers(module, Split).items()))
    honest = module.training_loss

    def loss(x, y=None):
        if module.trainer.global_step == 3:
            nn.init.constant_(layer.network.output.bias, math.nan)
        return honest(x, y)

    module.training_loss = loss
    with pytest.raises(Diverged) as refused:
        trainer(10, log_every_n_steps=2).fit(module, Digits(batch_size=16))
    assert f"layer {name} (Split) of the flow gives NaN or infinite values at step 4;" in str(refused.value)
