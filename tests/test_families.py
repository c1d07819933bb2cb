"""Laws that every family keeps: what evaluation measures, which data and conditions are taken, what no condition means."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from datamodules.base import DataModule, Examples
from lightning_gen.dae import DenoisingAutoencoder, InverseVariance, LogUniformNoise
from lightning_gen.diffusion import Elbo, GaussianDiffusion, LearnedLinear, LearnedUncertainty, LearnedVariance
from lightning_gen.diffusion.classifier_module import NoisyClassifier
from lightning_gen.discrete_diffusion import Absorbing, Bound, DiscreteDiffusion, Uniform
from lightning_gen.flow import NICE, NormalizingFlow
from lightning_gen.networks import ClassEmbedding, MLPBlock, PlainMLP
from lightning_gen.vae import ELBO, IWAE, VAE, Bernoulli, HierarchicalVAE

SHAPE, LEVELS, CLASSES = (1, 4, 4), 2, 3
X = torch.randint(LEVELS, (12, *SHAPE), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
Y = torch.arange(12) % CLASSES


class Labelled(DataModule):
    shape, levels, num_classes = SHAPE, LEVELS, CLASSES

    def load(self) -> dict[str, Examples]:
        return dict.fromkeys(("train", "val", "test"), Examples(X, Y))


class Net(nn.Module):
    """Two linear maps of an image, moved by the noise level and the condition."""

    def __init__(self, shape, out_channels, cond_dim=None):
        super().__init__()
        self.out_shape = (out_channels, *shape[1:])
        self.into = nn.Linear(math.prod(shape) + 1 + (cond_dim or 0), 16)
        self.out = nn.Linear(16, math.prod(self.out_shape))

    def forward(self, x, logsnr, cond=None):
        told = [x.flatten(1), logsnr[:, None] / 10, *([] if cond is None else [cond])]
        return self.out(torch.tanh(self.into(torch.cat(told, 1)))).unflatten(1, self.out_shape)


class Classifier(Net):
    def __init__(self, shape, num_classes, cond_dim=None):
        super().__init__((*shape,), 1, None)
        self.out, self.out_shape = nn.Linear(16, num_classes), (num_classes,)


MLP = partial(PlainMLP, widths=[8])
ANY_VAE = partial(VAE, encoder=MLP, decoder=MLP, observation=Bernoulli(), latent_dim=2)
HIERARCHY = {"block": partial(MLPBlock, depth=1), "latent_shapes": [3, 2], "widths": [8, 8], "observation": Bernoulli()}
FAMILIES = {
    "diffusion": partial(GaussianDiffusion, network=Net),
    "discrete": partial(DiscreteDiffusion, network=Net, process=Absorbing()),
    "flow": partial(NormalizingFlow, flow=partial(NICE, network=MLP)),
    "vae": ANY_VAE,
    "hierarchy": partial(HierarchicalVAE, **HIERARCHY),
    "dae": partial(DenoisingAutoencoder, network=Net, noise=LogUniformNoise(0.1, 3.0), weighting=InverseVariance()),
}
"""One conditional model of each family, and below other losses of theirs."""

LOSSES = {
    "learned variance": partial(
        GaussianDiffusion, network=Net, variance=LearnedVariance(), weighting=LearnedUncertainty()
    ),
    "learned schedule": partial(GaussianDiffusion, network=Net, schedule=LearnedLinear(), weighting=Elbo()),
    "noisy classifier": partial(NoisyClassifier, network=Classifier),
    "cross-entropy": partial(DiscreteDiffusion, network=Net, process=Uniform(), steps=9, objective=Bound(0.1)),
    "free bits": partial(ANY_VAE, objective=ELBO(free_bits=0.1, per_dimension=True)),
    "importance-weighted": partial(ANY_VAE, objective=IWAE(3)),
}


def made(make, **kwargs):
    torch.manual_seed(0)
    module = make(SHAPE, LEVELS, CLASSES, **kwargs)
    module.configure_model()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return module.eval()


def conditional(name, **kwargs):
    return made(FAMILIES[name], conditioner=partial(ClassEmbedding, dim=4), **kwargs)


# ---- what evaluation measures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FAMILIES, *LOSSES])
def test_losses_of_evaluation_are_per_example(name, trainer):
    """Neither their means nor their standard errors depend on how the split is cut into batches."""
    module, found = conditional(name) if name in FAMILIES else made(LOSSES[name]), []
    for size in (1, 5, 12):
        trainer(1, val_every=1).validate(module, Labelled(eval_batch_size=size), verbose=False)
        found.append(module.measured)
    for other in found:
        assert other.keys() == found[0].keys()
        for key, pair in other.items():
            assert pair == pytest.approx(found[0][key], rel=1e-4, abs=1e-6), key
    assert found[0]["loss"][1] > 0


def test_the_loss_of_a_flow_of_vectors_has_the_standard_error_of_its_likelihood(trainer, data):
    module = NormalizingFlow((2,), None, None, FAMILIES["flow"].keywords["flow"])
    trainer(1, val_every=1).validate(module, data(eval_batch_size=4), verbose=False)
    (loss, error), (log_prob, same) = (module.measured[name] for name in ("loss", "log_prob_nats"))
    assert (loss, error) == pytest.approx((-log_prob, same), rel=1e-5)


def test_the_mean_of_a_batch_claims_no_standard_error(trainer, model, data):
    """A user's own family may return scalars."""
    module = model()
    for size in (3, 100):
        trainer(1, val_every=1).validate(module, data(eval_batch_size=size), verbose=False)
        assert math.isfinite(module.measured["loss"][0]) and math.isnan(module.measured["loss"][1])
        assert module.measured["log_prob_nats"][1] > 0


@pytest.mark.parametrize("name", [*FAMILIES, *LOSSES])
def test_the_loss_of_a_step_is_the_mean_over_its_examples(name, trainer):
    """What is logged is the mean of what `training_loss` gives, one number an example."""
    module, steps = conditional(name) if name in FAMILIES else made(LOSSES[name]), []
    honest = module.training_loss

    def loss(x, y=None):
        steps.append(honest(x, y))
        assert all(part.shape == (len(x),) for part in steps[-1].values())
        return steps[-1]

    module.training_loss = loss
    module.train()
    used = trainer(1)
    used.fit(module, Labelled(batch_size=12))
    assert {key: float(value) for key, value in used.callback_metrics.items()} == pytest.approx(
        {f"train/{key}": part.mean().item() for key, part in steps[0].items()}
    )
