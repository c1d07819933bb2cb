"""Laws that every family keeps: what evaluation measures, which data and conditions are taken, what no condition means."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from datamodules.base import DataModule, Examples
from lightning_gen.dae import DenoisingAutoencoder, InverseVariance, LogUniformNoise, NoiseToManifold
from lightning_gen.diffusion import (
    DiffusionSampler,
    Elbo,
    GaussianDiffusion,
    LearnedLinear,
    LearnedUncertainty,
    LearnedVariance,
    Replacement,
)
from lightning_gen.diffusion.classifier_module import NoisyClassifier
from lightning_gen.discrete_diffusion import Absorbing, Ancestral, Bound, DiscreteDiffusion, Infilling, Uniform
from lightning_gen.errors import NoLikelihood, UserError
from lightning_gen.flow import NICE, NormalizingFlow
from lightning_gen.networks import MLP, ClassEmbedding, LinearConditioner, MLPBlock, PlainMLP
from lightning_gen.powers import Denoising, Film, Imputation, LatentVariables
from lightning_gen.random_source import IndexedSource
from lightning_gen.vae import ELBO, IWAE, VAE, Bernoulli, FixedGaussian, HierarchicalVAE, PseudoGibbs

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


MAP = partial(PlainMLP, widths=[8])
ANY_VAE = partial(VAE, encoder=MAP, decoder=MAP, observation=Bernoulli(), latent_dim=2)
HIERARCHY = {"block": partial(MLPBlock, depth=1), "latent_shapes": [3, 2], "widths": [8, 8], "observation": Bernoulli()}
FAMILIES = {
    "diffusion": partial(GaussianDiffusion, network=Net),
    "discrete": partial(DiscreteDiffusion, network=Net, process=Absorbing()),
    "flow": partial(NormalizingFlow, flow=partial(NICE, network=MAP)),
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


# ---- which data and conditions are taken ----------------------------------------------------------------------------

SHORT = {
    "diffusion": (DiffusionSampler(steps=2), Replacement(DiffusionSampler(steps=2), 1)),
    "discrete": (Ancestral(2), Infilling(Ancestral(2))),
    "dae": (NoiseToManifold(2), NoiseToManifold(2)),
    "vae": (None, PseudoGibbs(1)),
    "hierarchy": (None, PseudoGibbs(1)),
    "flow": (None, None),
}
"""A quick sampler and imputer of each."""


def entries(name, module):
    """What takes conditions of data x, by its name: functions of (x, y)."""
    sampler, imputer = SHORT[name]
    mask = torch.arange(4) < 2
    found = {"sample": lambda x, y: module.sample(len(x), y, sampler=sampler), "log_likelihood": module.log_likelihood}
    if isinstance(module, Imputation):
        found["impute"] = lambda x, y: module.impute(x, mask, y, imputer=imputer)
    if isinstance(module, Film):
        found["film"] = lambda x, y: module.film(len(x), 2, y, sampler=sampler)
    if isinstance(module, LatentVariables):
        z = torch.zeros(len(X), module.latents)
        found |= {"encode": module.encode, "decode": lambda x, y: module.decode(z[: len(x)], y)}
        found["expected"] = lambda x, y: module.expected(z[: len(x)], y)
    if isinstance(module, Denoising):
        found["denoise"] = lambda x, y: module.denoise(module.to_floats(x), 1.0, y)
        found["attractors"] = lambda x, y: module.attractors(module.to_floats(x), steps=1, y=y)
        del found["log_likelihood"]
    return found


BAD_CONDITIONS = {
    "that of no label": (torch.full((12,), CLASSES), "0 to 2, not 3 to 3"),
    "counted from one": (1 + torch.arange(12) % CLASSES, "0 to 2, not 1 to 3"),
    "negative": (torch.full((12,), -1), "0 to 2, not -1 to -1"),
    "too few": (torch.zeros(11, dtype=torch.int64), "12 examples, got 11"),
    "one": (torch.tensor(1), "12 examples, got a number"),
    "fractions": (torch.full((12,), 0.5), "int64, not float32"),
    "one-hot": (nn.functional.one_hot(Y), "int64, not int64 .12, 3"),
    "no tensor": ([1] * 12, "not list"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_conditions_that_are_none_of_the_data_are_refused_wherever_they_are_given(name):
    module = conditional(name)
    for entry in entries(name, module).values():
        for y, said in BAD_CONDITIONS.values():
            with pytest.raises(UserError, match=said) as refused:
                entry(X, y)
            assert "\n" not in str(refused.value)
        entry(X, Y)
    for entry in entries(name, made(FAMILIES[name])).values():  # to an unconditional model they are nothing
        entry(X, torch.full((12,), -1))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("classes", [None, CLASSES])
def test_embeddings_are_conditions_too(name, classes):
    torch.manual_seed(0)
    module = FAMILIES[name](SHAPE, LEVELS, classes, conditioner=partial(LinearConditioner, features=2, dim=4))
    module.configure_model()
    for entry in entries(name, module).values():
        entry(X, torch.randn(12, 2))


@pytest.mark.parametrize("name", FAMILIES)
def test_integers_that_are_no_levels_are_refused(name):
    module = conditional(name)
    for entry, call in entries(name, module).items():
        if entry in ("log_likelihood", "impute", "encode"):
            for x in (X + 1, X.float(), X[:, :, 1:]):
                with pytest.raises(UserError, match="the data "):
                    call(x, Y)


VECTORS = {
    "diffusion": lambda: GaussianDiffusion((2,), None, None, partial(MLP, width=8, depth=1)),
    "flow": lambda: NormalizingFlow((2,), None, None, FAMILIES["flow"].keywords["flow"]),
    "vae": lambda: VAE((2,), None, None, encoder=MAP, decoder=MAP, observation=FixedGaussian(), latent_dim=2),
    "dae": lambda: DenoisingAutoencoder((2,), None, None, partial(MLP, width=8, depth=1)),
}


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_vectors_that_are_not_finite_are_refused(name, value):
    module, x = VECTORS[name](), torch.tensor([[0.0, 0.0], [value, 1.0]])
    module.configure_model()
    calls = [lambda: module.log_likelihood(x)] if name != "dae" else []
    if isinstance(module, Imputation):
        calls.append(lambda: module.impute(x, torch.tensor([True, False])))
    for call in calls:
        with pytest.raises(UserError, match="finite"):
            call()


# ---- what no condition means ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_without_labels_are_the_mixture_of_labels_and_nothing_else_is_called_so(name):
    """The likelihood of that mixture is nowhere: it is refused, with a null condition or without one."""
    for settings in (
        [{"label_dropout": 0.0}, {"label_dropout": 0.3}] if name in ("diffusion", "discrete", "dae") else [{}]
    ):
        module = conditional(name, **settings)
        calls, rng = entries(name, module), IndexedSource(0, range(12))
        assert torch.equal(calls["sample"](X, None), calls["sample"](X, module.drawn_labels(12, rng)))
        for entry in calls.keys() - {"sample", "film"}:
            if settings.get("label_dropout") and entry != "log_likelihood":
                calls[entry](X, None)  # the null condition
                continue
            with pytest.raises(UserError, match="this model is conditional.*give y"):
                calls[entry](X, None)
        with pytest.raises((UserError, NoLikelihood)):
            module.log_likelihood(X)
        with pytest.raises(UserError, match="give y"):
            module.training_loss(X)


@pytest.mark.parametrize("name", FAMILIES)
def test_without_classes_to_draw_samples_need_a_trained_null_condition(name):
    torch.manual_seed(0)
    linear = partial(LinearConditioner, features=2, dim=4)
    for dropout in (0.0, 0.3) if name in ("diffusion", "discrete", "dae") else (None,):
        settings = {} if dropout is None else {"label_dropout": dropout}
        module = FAMILIES[name](SHAPE, LEVELS, None, conditioner=linear, **settings)
        module.configure_model()
        if dropout:
            module.sample(2, sampler=SHORT[name][0])
        else:
            with pytest.raises(UserError, match="give y"):
                module.sample(2, sampler=SHORT[name][0])
