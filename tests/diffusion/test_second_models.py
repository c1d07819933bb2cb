"""Laws of guidance by a second model, on Gaussians whose guided score is known in closed form."""

import pytest
import torch
from torch import nn

from lightning_gen import loading
from lightning_gen.diffusion import (
    DDIM,
    Ancestral,
    ClassifierFree,
    Cosine,
    Denoiser,
    DiffusionSampler,
    GaussianDenoiser,
    Heun,
    Linear,
    LinearBeta,
    Prediction,
    VarianceExploding,
    VariancePreserving,
)
from lightning_gen.diffusion.classifier_module import NoisyClassifier
from lightning_gen.diffusion.module import GaussianDiffusion
from lightning_gen.diffusion.second_models import AutoGuidance, ClassifierGuidance
from lightning_gen.errors import UserError
from lightning_gen.networks import MLP, ClassEmbedding
from lightning_gen.random_source import GeneratorSource, IndexedSource

CENTRES = torch.tensor([[-1.0, 0.5], [1.0, 0.5]], dtype=torch.float64)
VARIANCE = 0.3
"""Of each class's data."""


class TwoClasses(Denoiser):
    """Data N(centre of the class, VARIANCE) given the class, both equally probable; without one, the mixture."""

    def __init__(self, path=None):
        self.path, self.asked = path or VariancePreserving(), []

    def log_odds(self, x_t, logsnr):
        """log p(x_t | class), up to what both share, [B, 2]."""
        alpha, sigma = self._scales(x_t, logsnr)
        squares = (x_t[:, None] - alpha[..., None] * CENTRES.to(x_t)).square().sum(-1)
        return -0.5 * squares / (alpha**2 * VARIANCE + sigma**2)

    def __call__(self, x_t, logsnr, y=None):
        self.asked.append(y is not None)
        alpha, sigma = self._scales(x_t, logsnr)
        weights = nn.functional.one_hot(y, 2).to(x_t) if y is not None else self.log_odds(x_t, logsnr).softmax(1)
        eps = sigma * (x_t - alpha * (weights @ CENTRES.to(x_t))) / (alpha**2 * VARIANCE + sigma**2)
        return Prediction((x_t - sigma * eps) / alpha, eps, variance=torch.ones(()) if y is not None else None)


class Unused(nn.Module):
    def forward(self, x, logsnr, cond):
        raise NotImplementedError


class PerfectClassifier(NoisyClassifier):
    """Bayes' rule for `TwoClasses`."""

    def __init__(self, path=None, schedule=None):
        super().__init__((2,), None, 2, lambda *_: Unused(), schedule, path)
        self.rule = TwoClasses(self.path)
        self.configure_model()

    def logits(self, x_t, level):
        return self.rule.log_odds(x_t, level.logsnr)


@pytest.fixture
def opened(monkeypatch):
    """opened(model): any run holds it; returns how often one was opened, and with which weights."""

    def function(model):
        calls = []
        monkeypatch.setattr(loading, "load", lambda run, weights: calls.append((run, weights)) or model)
        return calls

    return function


@pytest.fixture
def x():
    return torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def y():
    return torch.arange(6) % 2


def consistent(prediction, x, logsnr, path=None):
    """Whether x_t = alpha x0 + sigma eps."""
    alpha, sigma = (s[..., None] if s.ndim else s for s in (path or VariancePreserving()).scales(logsnr)[:2])
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x)


LOGSNR = torch.tensor(0.4, dtype=torch.float64)

# ---- classifier -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [VariancePreserving(), VarianceExploding(), Linear()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("theirs", [None, VariancePreserving(), Linear()], ids=["same", "VP", "Linear"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_mixture_under_its_classifier_is_the_class(opened, x, y, path, theirs, scale):
    """At scale 1 it is Bayes' rule, on any two paths; at scale s the score is s times that of the posterior."""
    denoiser = TwoClasses(path)
    opened(PerfectClassifier(theirs or path))
    for logsnr in (torch.tensor(-3.0, dtype=torch.float64), LOGSNR, torch.linspace(-4.0, 4.0, 6, dtype=torch.float64)):
        x_t = x * path.scales(logsnr)[1].reshape(-1, 1)
        free, conditional = denoiser(x_t, logsnr), denoiser(x_t, logsnr, y)
        guided = ClassifierGuidance("run", scale).guide(Unconditional(path), x_t, logsnr, y)
        torch.testing.assert_close(guided.eps, free.eps + scale * (conditional.eps - free.eps))
        consistent(guided, x_t, logsnr, path)


class Unconditional(TwoClasses):
    def __call__(self, x_t, logsnr, y=None):
        return super().__call__(x_t, logsnr)


def test_samples_under_the_classifier_are_of_their_class(opened):
    opened(PerfectClassifier())
    y = torch.arange(3000) % 2
    for scale, spread in ((1.0, VARIANCE**0.5), (0.0, None)):
        sampler = DiffusionSampler(Heun(), 30, guidance=ClassifierGuidance("run", scale))
        with torch.no_grad():
            found = sampler.sample(Unconditional(), Cosine(), (3000, 2), y, GeneratorSource(0)).double()
        means = torch.stack([found[y == k].mean(0) for k in (0, 1)])
        if spread is None:
            torch.testing.assert_close(means, CENTRES.mean(0).expand(2, 2), atol=0.12, rtol=0)
        else:
            torch.testing.assert_close(means, CENTRES, atol=0.06, rtol=0)
            assert found[y == 0].std(0).sub(spread).abs().max() < 0.03


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_differentiates_whatever_the_mode_and_leaves_no_trace(opened, mode):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = NoisyClassifier((2,), None, 2, lambda s, c, d: MLP(s, c, d, width=8, depth=1))
        classifier.configure_model()
        nn.init.normal_(classifier.network.output.weight)
    opened(classifier.eval())
    guidance = ClassifierGuidance("run", 2.0)
    with mode():
        x, y = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])
        guided = guidance.wrap(Unconditional())(x, torch.tensor(0.5), y)
        assert (guided.eps - Unconditional()(x, torch.tensor(0.5)).eps).abs().amax(1).min() > 1e-3
        assert not guided.eps.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in classifier.parameters())


# ---- a worse version of the model -----------------------------------------------------------------------------------


def small(path=None, conditioner=None, seed=0, shape=(2,), schedule=None):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        factory = lambda s, c, d: MLP(s, c, d, width=8, depth=1)  # noqa: E731
        module = GaussianDiffusion(shape, None, 2, factory, schedule, path, conditioner=conditioner)
        module.configure_model()
        nn.init.normal_(module.network.output.weight)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 3.3])
def test_autoguidance_by_the_model_itself_is_the_model(opened, x, scale):
    model = small()
    opened(model)
    own = model.denoiser(x.float(), LOGSNR)
    guided = AutoGuidance("run", scale).wrap(model.denoiser)(x.float(), LOGSNR)
    assert torch.equal(guided.x0, own.x0) and torch.equal(guided.eps, own.eps)


@pytest.mark.parametrize("path", [VariancePreserving(), Linear(), VarianceExploding()], ids=lambda p: type(p).__name__)
def test_autoguidance_goes_on_from_bad_through_good(opened, x, path):
    """Of Gaussians it is known: their scores are linear. The bad one may be of another path."""
    good = GaussianDenoiser(
        torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64), VariancePreserving()
    )
    bad_model = small(path)
    bad = GaussianDenoiser(torch.ones(2, dtype=torch.float64), 2 * torch.eye(2, dtype=torch.float64), path)
    type_ = type("Known", (GaussianDiffusion,), {"denoiser": bad})
    bad_model.__class__ = type_
    opened(bad_model)
    on_same = GaussianDenoiser(bad.mean, 2 * torch.eye(2, dtype=torch.float64), VariancePreserving())
    guided = AutoGuidance("run", 2.5).wrap(good)(x, LOGSNR)
    expected = -1.5 * on_same(x, LOGSNR).x0 + 2.5 * good(x, LOGSNR).x0
    torch.testing.assert_close(guided.x0, expected)
    consistent(guided, x, LOGSNR)


def test_autoguidance_joins_conditional_models_or_unconditional_ones(opened):
    """A module draws labels for any guidance: a bad model that takes them would be subtracted at labels out of the air."""
    labelled = lambda: small(conditioner=lambda num: ClassEmbedding(num, dim=4))  # noqa: E731
    for bad, good in ((labelled, small), (small, labelled)):
        opened(bad())
        AutoGuidance("runs/bad").check_process(bad())
        with pytest.raises(UserError, match="two conditional models or two unconditional ones") as refused:
            AutoGuidance("runs/bad").check_process(good())
        has, lacks = str(refused.value).split("has a conditioner")
        assert ("runs/bad" in has) == (bad is labelled) and ("runs/bad" in lacks) == (bad is small)


def test_a_classifier_guides_models_with_and_without_labels(opened):
    opened(PerfectClassifier())
    for conditioner in (None, lambda num: ClassEmbedding(num, dim=4)):
        ClassifierGuidance("run").check_process(small(conditioner=conditioner))


# ---- both -----------------------------------------------------------------------------------------------------------


def test_a_second_model_is_opened_once_late_and_quietly(opened, x, y, monkeypatch):
    from lightning_gen.specs import describe

    calls = opened(PerfectClassifier())
    real = loading.load
    monkeypatch.setattr(loading, "load", lambda *args: (torch.rand(3), real(*args))[1])  # as building networks does
    before, described = torch.get_rng_state(), {"run": "runs/c", "scale": 2.0, "weights": "ema:0.9"}
    guidance = ClassifierGuidance(**described)
    assert not calls and describe(guidance)["init_args"] == described
    for _ in range(2):
        guidance.guide(Unconditional(), x, LOGSNR, y)
    assert calls == [("runs/c", "ema:0.9")] and describe(guidance)["init_args"] == described
    assert torch.equal(torch.get_rng_state(), before)
    assert guidance.guide_model is guidance.guide_model and ClassifierFree().guide_model is None


def test_a_run_of_another_kind_is_refused(opened, x, y):
    opened(PerfectClassifier())
    with pytest.raises(UserError, match="AutoGuidance asks a GaussianDiffusion.*give another run"):
        AutoGuidance("run").guide(TwoClasses(), x, LOGSNR, y)
    opened(small())
    with pytest.raises(UserError, match="ClassifierGuidance asks a NoisyClassifier.*give another run"):
        ClassifierGuidance("run").guide(TwoClasses(), x, LOGSNR, y)
    with pytest.raises(UserError, match="needs labels"):
        ClassifierGuidance("run").guide(TwoClasses(), x, LOGSNR, None)


def test_a_second_model_must_know_the_data_and_the_noise_levels(opened):
    opened(PerfectClassifier(schedule=Cosine(-9.0, 9.0)))
    guidance = ClassifierGuidance("run")
    guidance.check_process(small(schedule=Cosine(-9.0, 9.0)))
    guidance.check_process(small(Linear(), schedule=LinearBeta(logsnr_min=-8.0, logsnr_max=8.0)))  # log-SNR joins them
    for schedule in (Cosine(-10.0, 9.0), Cosine(-9.0, 10.0)):
        with pytest.raises(UserError, match="train it on a schedule"):
            guidance.check_process(small(schedule=schedule))
    with pytest.raises(UserError, match="has shape"):
        guidance.check_process(small(shape=(3,), schedule=Cosine(-9.0, 9.0)))


@pytest.mark.parametrize("solver", [Ancestral(), DDIM(), Heun()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    ("kind", "model"), [(ClassifierGuidance, PerfectClassifier), (AutoGuidance, small)], ids=["classifier", "worse"]
)
def test_guided_sample_of_an_index_does_not_depend_on_its_batch(opened, solver, kind, model):
    opened(model())
    sampler = DiffusionSampler(solver, 6, guidance=kind("run", 2.0))

    def draw(indices):
        y = torch.tensor(list(indices)) % 2
        with torch.no_grad():
            return sampler.sample(TwoClasses(), Cosine(), (len(indices), 2), y, IndexedSource(0, indices))

    parts = [range(0, 1), range(1, 2), range(2, 63), range(63, 64)]
    torch.testing.assert_close(torch.cat([draw(part) for part in parts]), draw(range(64)))
