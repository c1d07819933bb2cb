"""Laws of GaussianDiffusion: the loss is the bound it claims to be, for every choice of axes, and the contract holds."""

import math

import pytest
import torch
from torch import nn

from lightning_gen.diffusion import (
    SNR,
    ClassifierFree,
    Cosine,
    DataPrediction,
    DiffusionSampler,
    Elbo,
    FlowMatching,
    GaussianDiffusion,
    Linear,
    LinearBeta,
    LinearLogSNR,
    MinSNR,
    NoisePrediction,
    Sigmoid,
    Simple,
    Uniform,
    VariancePreserving,
    VelocityPrediction,
    VPrediction,
)
from lightning_gen.diffusion.oracles import GaussianOracle, TrainingSetOracle
from lightning_gen.errors import IncompatibleAxes, NonFiniteSamples
from lightning_gen.generative_module import LossDraws
from lightning_gen.networks import MLP, ClassEmbedding
from lightning_gen.random_source import GeneratorSource, IndexedSource

SCHEDULES = [LinearBeta(), Cosine(), Sigmoid(), FlowMatching(), LinearLogSNR()]
PATHS = [VariancePreserving(), Linear()]
TARGETS = [NoisePrediction(), DataPrediction(), VPrediction(), VelocityPrediction()]
WEIGHTINGS = [Simple("noise"), Simple("output"), Elbo(), SNR(), MinSNR()]


class Constant(nn.Module):
    """A network that says the same whatever it is shown."""

    def __init__(self, shape, out_channels, cond_dim=None, value=0.1):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x, logsnr, cond=None):
        return self.value.expand_as(x)


def module(network=Constant, shape=(3,), levels=None, num_classes=None, **axes):
    made = GaussianDiffusion(shape, levels, num_classes, network, **axes)
    made.configure_model()
    return made


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", TARGETS)
def test_elbo_loss_is_the_bound(schedule, path, target):
    """With w = 1 the loss, times the dimensions, is the diffusion term of the likelihood: same network, same noise."""
    ends = type(schedule)(logsnr_min=-6.0, logsnr_max=6.0)
    model = module(schedule=ends, path=path, parameterization=target, weighting=Elbo())
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).repeat(4096, 1)
    rng = GeneratorSource(1)
    with model.drawing(LossDraws(torch.arange(len(x)), len(x), rng, rng)), torch.no_grad():
        loss = model.training_loss(x)["loss"].item() * 3
    bound = -model.log_likelihood(x, draws=1, rng=GeneratorSource(2)).terms["diffusion"].mean().item()
    assert loss == pytest.approx(bound, rel=0.06)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_combination_trains(schedule, path, target, weighting):
    model = module(
        lambda *a: MLP(*a, width=8, depth=1), schedule=schedule, path=path, parameterization=target, weighting=weighting
    )
    loss = model.training_loss(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)))["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_simple_noise_loss_is_half_the_mean_square():
    model = module(parameterization=NoisePrediction(), weighting=Simple("noise"), time_sampler=Uniform())
    eps = GeneratorSource(5).normal((1000, 3))
    with model.drawing(LossDraws(torch.arange(1000), 1000, GeneratorSource(6), GeneratorSource(5))):
        loss = model.training_loss(torch.zeros(1000, 3))["loss"]
    torch.testing.assert_close(loss.detach(), 0.5 * (eps - 0.1).square().mean())


def test_loss_of_a_batch_is_the_mean_over_its_parts():
    """Cut among ranks and micro-batches the global batch has the same times: the parts' mean loss is the whole's."""
    model = module(weighting=Elbo())
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(3))

    def loss(rows):
        own = IndexedSource(0, rows)
        with model.drawing(LossDraws(torch.as_tensor(rows), 64, GeneratorSource(1), own)), torch.no_grad():
            return model.training_loss(x[rows])["loss"].item()

    parts = [loss(list(range(i, i + 16))) for i in range(0, 64, 16)]
    assert sum(parts) / 4 == pytest.approx(loss(list(range(64))), rel=1e-5)


def test_samples_are_in_the_datas_own_domain():
    image = module(lambda *a: Constant(*a), shape=(1, 4, 4), levels=17)
    before = torch.get_rng_state()
    x = image.sample(5)
    assert x.dtype == torch.uint8 and x.shape == (5, 1, 4, 4) and x.max() <= 16
    assert torch.equal(x, image.sample(5))
    assert torch.equal(torch.get_rng_state(), before)
    vector = module()
    assert vector.sample(5).dtype == torch.float32


def test_samples_that_are_not_finite_are_refused():
    """As integers they would be black images, and be measured as such."""
    model = module(lambda *a: Constant(*a, value=math.nan), shape=(1, 4, 4), levels=17)
    with pytest.raises(NonFiniteSamples, match="DDIM"):
        model.sample(2)


def test_guidance_is_checked_where_it_is_passed():
    sampler = DiffusionSampler(steps=2, guidance=ClassifierFree())
    with pytest.raises(IncompatibleAxes, match="conditioner"):
        module().sample(2, sampler=sampler)
    with pytest.raises(IncompatibleAxes, match="label_dropout"):
        conditional(label_dropout=0.0).sample(2, sampler=sampler)


def test_likelihood_kind_and_terms():
    image = module(shape=(1, 4, 4), levels=17)
    x = torch.randint(17, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    likelihood = image.log_likelihood(x, draws=4)
    assert likelihood.kind == "elbo" and likelihood.num_dims == 16
    assert set(likelihood.terms) == {"prior", "diffusion", "reconstruction"}
    torch.testing.assert_close(sum(likelihood.terms.values()), likelihood.log_prob)
    assert module().log_likelihood(torch.zeros(2, 3)).kind == "density-elbo"


def test_loss_knobs_do_not_touch_the_likelihood():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    values = [
        module(weighting=w, time_sampler=t).log_likelihood(x, draws=4, rng=GeneratorSource(0)).log_prob
        for w, t in ((Elbo(), Uniform()), (MinSNR(), None), (Simple("output"), None))
    ]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)
    torch.testing.assert_close(values[0], values[2], rtol=0, atol=0)


class Conditional(nn.Module):
    """Says its condition's first feature."""

    def __init__(self, shape, out_channels, cond_dim):
        super().__init__()
        assert cond_dim == 6

    def forward(self, x, logsnr, cond):
        return cond[:, :1].expand_as(x)


def conditional(**axes):
    return module(Conditional, num_classes=3, conditioner=lambda n: ClassEmbedding(n, dim=6), **axes)


def test_condition_reaches_the_network_and_is_dropped_at_the_rate_asked():
    model = conditional(label_dropout=0.3)
    y = torch.randint(3, (4000,), generator=torch.Generator().manual_seed(0))
    seen = []
    model.network.forward = lambda x, logsnr, cond: (seen.append(cond), torch.zeros_like(x))[1]
    model.training_loss(torch.zeros(4000, 3), y)
    null = model.conditioner.null(1, "cpu")
    dropped = (seen[0] == null).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 4000))
    torch.testing.assert_close(seen[0][~dropped], model.conditioner(y)[~dropped])


def test_unconditional_sampling_of_a_conditional_model_draws_labels():
    """p(x) is the mixture over labels: y = None must not mean the null condition."""
    model = conditional()
    labels = []
    forward = model.conditioner.forward
    model.conditioner.forward = lambda y, drop=None: (labels.append(y), forward(y, drop))[1]
    model.sample(30)
    assert set(labels[0].tolist()) == {0, 1, 2}


def test_meaningless_choices_are_refused_at_construction():
    with pytest.raises(IncompatibleAxes, match="NoisePrediction"):
        module(schedule=Cosine(logsnr_min=-30.0), parameterization=NoisePrediction())
    with pytest.raises(IncompatibleAxes, match="conditioner"):
        module(sampler=DiffusionSampler(guidance=ClassifierFree()))
    with pytest.raises(IncompatibleAxes, match="label_dropout"):
        conditional(label_dropout=0.0, sampler=DiffusionSampler(guidance=ClassifierFree()))


def test_oracles_are_models():
    x = torch.randint(17, (40, 1, 3, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    memory = TrainingSetOracle((1, 3, 3), 17, None)
    memory.initialize(x)
    drawn = memory.sample(10).flatten(1).float()
    assert torch.cdist(drawn, x.flatten(1).float()).min(1).values.max() == 0
    gaussian = GaussianOracle((1, 3, 3), 17, None)
    gaussian.initialize(x)
    # a linear denoiser's error depends on the data's second moments alone: 1/2 log((1 + SNR_max l) / (1 + SNR_min l))
    spectrum = torch.linalg.eigvalsh(torch.cov(gaussian.decoder.encode(x).flatten(1).T.double(), correction=0))
    exact = 0.5 * (torch.log1p(math.exp(10) * spectrum) - torch.log1p(math.exp(-10) * spectrum)).sum().item()
    measured = -gaussian.log_likelihood(x.repeat(8, 1, 1, 1), draws=16).terms["diffusion"].mean().item()
    assert measured == pytest.approx(exact, rel=0.02)
