"""Laws of GaussianDiffusion: the loss is the bound it claims to be, for every choice of axes, and the contract holds."""

import copy
import math

import pytest
import torch
from torch import nn

from lightning_gen.diffusion import (
    P2,
    SNR,
    Analytic,
    Ancestral,
    AnnealedLangevin,
    ClassifierFree,
    Cosine,
    DataPrediction,
    DiffusionSampler,
    DiscreteLinearBeta,
    DiscretizedGaussian,
    EDMPrediction,
    EDMWeighting,
    Elbo,
    FixedLarge,
    FlowMatching,
    GaussianDiffusion,
    Geometric,
    Karras,
    Laplace,
    LearnedLinear,
    LearnedMonotone,
    LearnedRange,
    LearnedUncertainty,
    LearnedVariance,
    Linear,
    LinearBeta,
    LinearLogSNR,
    LogitNormal,
    LogNormal,
    LossSecondMoment,
    MeanPrediction,
    MinSNR,
    NoisePrediction,
    Replacement,
    ScorePrediction,
    Shifted,
    Sigmoid,
    SigmoidWeighting,
    Simple,
    SNRPlusOne,
    SubVariancePreserving,
    SubVPLinearBeta,
    TrackedVariance,
    TruncatedSNR,
    Uniform,
    VarianceExploding,
    VariancePreserving,
    VariationalBound,
    VelocityPrediction,
    VPrediction,
    ZeroTerminal,
)
from lightning_gen.diffusion.oracles import GaussianOracle, TrainingSetOracle
from lightning_gen.errors import IncompatibleAxes, NonFiniteSamples, UserError
from lightning_gen.generative_module import LossDraws
from lightning_gen.networks import MLP, ClassEmbedding
from lightning_gen.random_source import GeneratorSource, IndexedSource

SCHEDULES = [LinearBeta(), Cosine(), Sigmoid(), FlowMatching(), LinearLogSNR()]
ALL_SCHEDULES = [
    *SCHEDULES,
    Laplace(),
    DiscreteLinearBeta(),
    SubVPLinearBeta(),
    Karras(0.01, 50.0),
    Geometric(0.01, 50.0),
    FlowMatching(shift=3.0),
    Shifted(Cosine(), resolution=64, base=32),
]
PATHS = [VariancePreserving(), Linear(), VarianceExploding(), SubVariancePreserving()]
TARGETS = [
    NoisePrediction(),
    DataPrediction(),
    VPrediction(),
    VelocityPrediction(),
    ScorePrediction(),
    MeanPrediction(50),
    EDMPrediction(),
]
WEIGHTINGS = [
    Simple("noise"),
    Simple("output"),
    Simple("output", under=LogitNormal()),
    Elbo(),
    SNR(),
    TruncatedSNR(),
    SNRPlusOne(),
    MinSNR(),
    P2(),
    SigmoidWeighting(),
    EDMWeighting(),
]
TIMES = [Uniform(), LogNormal(), LossSecondMoment(parts=4, warmup=1)]


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
        loss = model.training_loss(x)["loss"].mean().item() * 3
    bound = -model.log_likelihood(x, draws=1, rng=GeneratorSource(2)).terms["diffusion"].mean().item()
    assert loss == pytest.approx(bound, rel=0.06)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_combination_trains(path, target):
    """All schedules x weightings, the time samplers in turn; what `test_product` finds refused is left out."""
    torch.manual_seed(0)
    network, times, trained = MLP((3,), 3, width=8, depth=1), 0, 0
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    for schedule in ALL_SCHEDULES:
        for weighting in WEIGHTINGS:
            times += 1
            axes = {"schedule": schedule, "path": path, "parameterization": target, "weighting": weighting}
            under = getattr(weighting, "under", None)
            axes["time_sampler"] = under or copy.deepcopy(TIMES[times % len(TIMES)])
            try:
                model = module(lambda *a: network, **axes)
            except IncompatibleAxes:
                continue
            trained += 1
            network.zero_grad()
            loss = model.training_loss(x)["loss"].mean()
            loss.backward()
            assert loss.isfinite(), axes
            assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters()), axes
    assert trained > 0.8 * times


def gradients(model, x, seed=0):
    """Of the loss, with the randomness of a seed."""
    model.zero_grad()
    rng = GeneratorSource(seed)
    with model.drawing(LossDraws(torch.arange(len(x)), len(x), rng, rng)):
        parts = {name: part.mean() for name, part in model.training_loss(x).items()}
    parts["loss"].backward()
    return parts, {name: p.grad for name, p in model.named_parameters()}


def test_a_learned_schedule_is_trained_by_the_bound():
    """The loss is the whole bound per dimension, so that wider ends cost prior and reconstruction nothing for free."""
    model = module(
        shape=(1, 2, 2), levels=17, schedule=LearnedLinear(-4.0, 7.0), weighting=Elbo(), parameterization=VPrediction()
    )
    x = torch.randint(17, (1, 1, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    x = x.expand(20_000, 1, 2, 2)
    parts, grads = gradients(model, x)
    assert set(parts) == {"loss", "diffusion", "prior", "reconstruction"}
    torch.testing.assert_close(parts["loss"], parts["diffusion"] + parts["prior"] + parts["reconstruction"])
    bound = -model.log_likelihood(x, rng=GeneratorSource(1)).log_prob.mean().item() / 4
    assert parts["loss"].item() == pytest.approx(bound, rel=0.02)
    # the gradient at the ends is the bound's: finite differences of it
    for name, step in (("schedule.high", 0.2), ("schedule.raw_span", 0.2)):
        parameter, values = dict(model.named_parameters())[name], []
        for change in (step, -2 * step):
            parameter.data += change
            values.append(gradients(model, x)[0]["loss"].item())
        parameter.data += step
        assert grads[name].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.1, abs=2e-3)


def test_a_learned_shape_follows_the_variance_not_the_mean():
    """Its gradient is that of the mean square of the loss: finite differences with the noise held fixed."""
    schedule = LearnedMonotone(-4.0, 7.0, hidden=4)
    model = module(shape=(3,), levels=17, schedule=schedule, weighting=Elbo(), parameterization=VPrediction())
    x = torch.randint(17, (2000, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    grads = gradients(model, x)[1]["schedule.bias2"]

    def mean_square():
        rng = GeneratorSource(0)
        t = model.time_sampler.sample(len(x), rng, schedule)
        level = model.path.at(schedule, t)
        x0 = model.decoder.encode(x)
        eps = rng.normal(x0.shape)
        target = model.parameterization.target(x0, eps, level)
        error = (target - 0.1).square().mean(1) / model.parameterization.output_gain(level).square()
        return (0.5 * -level.dlogsnr_dt * error).double().square().mean().item()

    for i in range(4):
        values = []
        for change in (0.05, -0.1):
            schedule.bias2.data[i] += change
            values.append(mean_square())
        schedule.bias2.data[i] += 0.05
        assert grads[i].item() == pytest.approx((values[0] - values[1]) / 0.1, rel=0.05)


def test_the_learned_variance_finds_what_is_right():
    """Gaussian data of one pixel, a network that knows the mean: the hybrid loss must lead to Var(x_s | x_t)."""
    s2, steps = 0.3, 10
    schedule, path = LinearBeta(), VariancePreserving()

    class Exact(nn.Module):
        """The right noise, and a share that is learned for each step."""

        def __init__(self, shape, out_channels, cond_dim):
            super().__init__()
            assert out_channels == 2
            self.share = nn.Parameter(torch.zeros(steps))

        def forward(self, x, logsnr, cond=None):
            alpha, sigma, _, _ = path.scales(logsnr)
            eps = (sigma / (alpha**2 * s2 + sigma**2))[:, None] * x
            step = (schedule.time(logsnr.double()) * steps - 1e-3).long().clamp(0, steps - 1)
            return torch.cat([eps, self.share[step][:, None]], 1)

    class OnTheChain(Uniform):
        """Only the chain's own levels."""

        def sample(self, num, rng, schedule):
            return (rng.integers(steps, (num,)) + 1) / steps

    axes = {"schedule": schedule, "path": path, "parameterization": NoisePrediction(), "time_sampler": OnTheChain()}
    model = module(Exact, shape=(1,), variance=LearnedVariance(steps=steps, weight=1.0), **axes)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for i in range(150):
        x = s2**0.5 * torch.randn(4096, 1, generator=torch.Generator().manual_seed(i))
        parts, _ = gradients(model, x, seed=i)
        optimizer.step()
    assert set(parts) == {"loss", "diffusion", "variance"}
    for i in range(2, steps + 1):
        at, to = (path.at(schedule, torch.tensor(t / steps, dtype=torch.float64)) for t in (i, i - 1))
        said = LearnedRange()(model.denoiser(torch.zeros(1, 1), at.logsnr), at, to).item()
        cov = to.alpha * at.alpha * s2 + (at.alpha / to.alpha) * to.sigma**2
        right = to.alpha**2 * s2 + to.sigma**2 - cov**2 / (at.alpha**2 * s2 + at.sigma**2)
        assert said == pytest.approx(right.item(), rel=0.05), i


def test_every_part_of_the_loss_has_one_mean_under_all_times():
    """A time sampler changes the variance alone, of the hybrid loss's second part too."""

    class Both(nn.Module):
        def __init__(self, shape, out_channels, cond_dim):
            super().__init__()
            self.value = nn.Parameter(torch.tensor(0.1))

        def forward(self, x, logsnr, cond=None):
            return torch.cat([x, self.value * logsnr[:, None] * torch.ones_like(x)], 1)

    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(0)).expand(100_000, 3)
    weighting = Simple(under=LogitNormal(std=2.0))
    for part in ("diffusion", "variance"):
        means = []
        for times in (Uniform(), LogNormal(std=2.0), LogitNormal(std=2.0)):
            axes = {"variance": LearnedVariance(steps=50), "time_sampler": times, "weighting": weighting}
            means.append(gradients(module(Both, **axes), x)[0][part].item())
        assert means == pytest.approx([means[0]] * 3, rel=0.05), part


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_what_training_keeps_stays_exact_in_any_precision(dtype):
    """bfloat16 would stop counting at 256."""
    model = module(time_sampler=LossSecondMoment(parts=4), variance=TrackedVariance(bins=4)).to(dtype)
    model.train()
    loss = model.training_loss(torch.randn(600, 3, generator=torch.Generator().manual_seed(0)))["loss"].mean()
    assert loss.isfinite() and model.variance.seen.sum() == 600
    buffers = (model.variance.noise_mse, model.time_sampler.moment)
    assert all(buffer.dtype == torch.float32 for buffer in buffers)


def test_the_variance_does_not_pull_at_the_mean():
    """Nichol & Dhariwal 2021: in the hybrid loss the bound teaches the variance alone."""

    class Both(nn.Module):
        def __init__(self, shape, out_channels, cond_dim):
            super().__init__()
            self.mean, self.rest = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.0))

        def forward(self, x, logsnr, cond=None):
            return torch.cat([self.mean.expand_as(x), self.rest.expand_as(x)], 1)

    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    plain = gradients(module(variance=LearnedVariance(weight=1e-9), network=Both), x)[1]
    hybrid = gradients(module(variance=LearnedVariance(weight=10.0), network=Both), x)[1]
    torch.testing.assert_close(hybrid["network.mean"], plain["network.mean"])
    assert hybrid["network.rest"].abs() > 1e6 * plain["network.rest"].abs() > 0


def test_a_model_without_a_variance_is_told_so():
    for variance in (LearnedRange(), Analytic()):
        with pytest.raises(IncompatibleAxes, match="variance"):
            module().sample(2, sampler=DiffusionSampler(Ancestral(variance), steps=3))
    model = module(variance=TrackedVariance())
    assert model.sample(2, sampler=DiffusionSampler(Ancestral(Analytic()), steps=3)).isfinite().all()
    assert model.sample(2, sampler=DiffusionSampler(Ancestral(FixedLarge()), steps=3)).isfinite().all()


def test_what_training_keeps_is_left_alone_by_validation():
    """Time sampler and tracked errors learn from training alone, and travel with the weights."""
    model = module(time_sampler=LossSecondMoment(parts=4), variance=TrackedVariance(bins=4))
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.eval()
    model.training_loss(x)
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())
    model.train()
    model.training_loss(x)
    changed = {k for k, v in model.state_dict().items() if not v.equal(before[k])}
    assert changed == {"time_sampler.moment", "time_sampler.seen", "variance.noise_mse", "variance.seen"}


def test_learned_uncertainty_is_trained_with_the_network():
    model = module(weighting=LearnedUncertainty(Simple(), features=8))
    _, grads = gradients(model, torch.randn(64, 3, generator=torch.Generator().manual_seed(0)))
    assert grads["weighting.weight"].abs().sum() > 0 and grads["network.value"].abs() > 0


def test_simple_noise_loss_is_half_the_mean_square():
    model = module(parameterization=NoisePrediction(), weighting=Simple("noise"), time_sampler=Uniform())
    eps = GeneratorSource(5).normal((1000, 3))
    with model.drawing(LossDraws(torch.arange(1000), 1000, GeneratorSource(6), GeneratorSource(5))):
        loss = model.training_loss(torch.zeros(1000, 3))["loss"].mean()
    torch.testing.assert_close(loss.detach(), 0.5 * (eps - 0.1).square().mean())


def test_loss_of_a_batch_is_the_mean_over_its_parts():
    """Cut among ranks and micro-batches the global batch has the same times: the parts' mean loss is the whole's."""
    model = module(weighting=Elbo())
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(3))

    def loss(rows):
        own = IndexedSource(0, rows)
        with model.drawing(LossDraws(torch.as_tensor(rows), 64, GeneratorSource(1), own)), torch.no_grad():
            return model.training_loss(x[rows])["loss"].mean().item()

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
    for target in (NoisePrediction(), ScorePrediction()):
        with pytest.raises(IncompatibleAxes, match=type(target).__name__):
            module(schedule=ZeroTerminal(Cosine()), parameterization=target)
    with pytest.raises(IncompatibleAxes, match="Simple gives the error of x0 at t = 1"):
        module(schedule=ZeroTerminal(Cosine()), parameterization=VPrediction())
    module(schedule=ZeroTerminal(Cosine()), parameterization=VPrediction(), weighting=Simple("output"))
    with pytest.raises(IncompatibleAxes, match="Elbo"):
        module(levels=17, schedule=LearnedLinear(), weighting=Simple())
    with pytest.raises(IncompatibleAxes, match="LogNormal"):
        module(levels=17, schedule=LearnedLinear(), weighting=Elbo(), time_sampler=LogNormal())
    with pytest.raises(IncompatibleAxes, match="levels"):
        module(schedule=LearnedLinear(), weighting=Elbo())
    for axes in ({"parameterization": MeanPrediction()}, {"variance": LearnedVariance()}):
        with pytest.raises(IncompatibleAxes, match="chain"):
            module(levels=17, schedule=LearnedLinear(), weighting=Elbo(), **axes)
    with pytest.raises(IncompatibleAxes, match="under=LogitNormal"):
        module(time_sampler=LogitNormal(), weighting=Elbo())
    with pytest.raises(IncompatibleAxes, match="chase"):
        module(time_sampler=LossSecondMoment(), weighting=LearnedUncertainty())
    with pytest.raises(UserError, match="plain"):
        Simple(under=LossSecondMoment())
    for variance in (LearnedRange(), Analytic()):
        with pytest.raises(IncompatibleAxes, match="variance="):
            module(sampler=DiffusionSampler(Ancestral(variance)))
        with pytest.raises(IncompatibleAxes, match="variance="):
            module(bound=VariationalBound(5, variance))
    with pytest.raises(IncompatibleAxes, match="bins"):
        module(bound=VariationalBound(reconstruction=DiscretizedGaussian()))
    with pytest.raises(UserError, match="diverge"):
        module(schedule=Karras(), path=VarianceExploding(), sampler=DiffusionSampler(AnnealedLangevin()))
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


def test_conditional_oracles_know_their_classes():
    """Class means far apart: given y, what is drawn is of that class, also where guidance asks for more of it."""
    y = torch.arange(60) % 2
    x = (
        2 * y[:, None, None, None] * 7 + torch.randint(3, (60, 1, 3, 3), generator=torch.Generator().manual_seed(0))
    ).to(torch.uint8)
    for kind in (GaussianOracle, TrainingSetOracle):
        oracle = kind((1, 3, 3), 17, 2, conditional=True)
        oracle.initialize(x, y)
        for guidance in (None, ClassifierFree(2.0)):
            drawn = oracle.sample(10, y[:10], sampler=DiffusionSampler(steps=30, guidance=guidance)).float()
            assert ((drawn.mean((1, 2, 3)) > 8).long() == y[:10]).all()
        own, other = (oracle.log_likelihood(x, label, draws=8).log_prob.mean() for label in (y, 1 - y))
        assert own > other
        with pytest.raises(IncompatibleAxes):
            plain = kind((1, 3, 3), 17, 2)
            plain.initialize(x, y)
            plain.sample(2, sampler=DiffusionSampler(guidance=ClassifierFree()))


def test_imputing_keeps_what_is_known_and_refuses_foreign_data():
    image = module(lambda *a: Constant(*a), shape=(1, 4, 4), levels=17)
    x = torch.randint(17, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mask = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5
    sampler = DiffusionSampler(Ancestral(), steps=5)
    filled = image.impute(x, mask, imputer=Replacement(sampler, resamplings=2))
    assert filled.dtype == torch.uint8 and filled[:, mask].equal(x[:, mask]) and not filled.equal(x)
    assert filled.equal(image.impute(torch.where(mask, x, 0), mask, imputer=Replacement(sampler, resamplings=2)))
    for foreign in (x[:, :, :3], x.float(), x + 100):
        with pytest.raises(UserError, match="data"):
            image.impute(foreign, mask)


def test_a_film_ends_with_the_sample():
    image = module(lambda *a: Constant(*a), shape=(1, 4, 4), levels=17, sampler=DiffusionSampler(steps=6))
    film = image.film(3, 4)
    assert film.shape == (3, 4, 1, 4, 4) and film[:, -1].equal(image.sample(3))
