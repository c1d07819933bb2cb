"""The VAE as a GenerativeModule: its contract, its powers, and that what it reports does not depend on how it was trained."""

import copy
import math

import pytest
import torch

from datamodules.digits import BinaryDigits
from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors import ShippedClassifier
from lightning_gen.networks import ClassEmbedding, PlainMLP
from lightning_gen.random_source import IndexedSource
from lightning_gen.vae import (
    ELBO,
    IWAE,
    VAE,
    Bernoulli,
    CalibratedGaussian,
    FixedGaussian,
    FullCovariance,
    GaussianMixture,
    ImportanceWeightedBound,
    LearnedGaussian,
    PriorSampler,
    VampPrior,
)

SHAPE, CLASSES = (1, 4, 4), 3


def made(shape=SHAPE, levels=2, num_classes=CLASSES, width=16, seed=0, **kwargs) -> VAE:
    torch.manual_seed(seed)
    given = {"observation": Bernoulli(), "latent_dim": 3, **kwargs}
    module = VAE(
        shape,
        levels,
        num_classes,
        encoder=lambda *shapes: PlainMLP(*shapes, widths=[width]),
        decoder=lambda *shapes: PlainMLP(*shapes, widths=[width]),
        **given,
    )
    module.configure_model()
    return module


def bits(num: int, shape=SHAPE) -> torch.Tensor:
    return (torch.rand(num, *shape, generator=torch.Generator().manual_seed(5)) < 0.4).to(torch.uint8)


X = bits(12)
KNOBS = [
    ELBO(beta=0.1),
    ELBO(free_bits=3.0),
    ELBO(warmup_steps=10**6),
    ELBO(samples=4, sampled=True),
    IWAE(5),
    IWAE(5, dreg=True),
]


@pytest.mark.parametrize("objective", KNOBS, ids=lambda o: f"{type(o).__name__}")
def test_no_knob_of_the_loss_moves_the_likelihood(objective):
    """Neither in training mode nor out of it; the loss itself does move."""
    plain, other = made(), made(objective=objective)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters()))
    for module in (plain, other):
        module.train()
    rng = IndexedSource(0, range(len(X)))
    before, after = (m.log_likelihood(X, draws=3, rng=rng) for m in (plain, copy.deepcopy(plain)))
    torch.testing.assert_close(before.log_prob, after.log_prob)
    found = other.log_likelihood(X, draws=3, rng=rng)
    torch.testing.assert_close(found.log_prob, plain.log_likelihood(X, draws=3, rng=rng).log_prob)
    assert found.kind == "elbo" and list(found.terms) == ["reconstruction", "kl"]


def test_reports_do_not_depend_on_the_batch():
    module = made(prior=GaussianMixture(4))
    whole = module.log_likelihood(X, draws=2, rng=IndexedSource(0, range(len(X))))
    part = module.log_likelihood(X[5:], draws=2, rng=IndexedSource(0, range(5, len(X))))
    torch.testing.assert_close(whole.log_prob[5:], part.log_prob)
    drawn = module.sample(20, rng=IndexedSource(1, range(20)))
    assert torch.equal(module.sample(5, rng=IndexedSource(1, range(15, 20))), drawn[15:])


@pytest.mark.parametrize("prior", [None, GaussianMixture(3), VampPrior(4)])
def test_sampling_leaves_the_global_state_alone(prior):
    module = made(prior=prior)
    state = torch.get_rng_state()
    x = module.sample(9)
    module.log_likelihood(x)
    module.impute(x, torch.ones(SHAPE, dtype=torch.bool))
    assert torch.equal(state, torch.get_rng_state())
    assert x.dtype == torch.uint8 and x.shape == (9, *SHAPE) and set(x.unique().tolist()) <= {0, 1}
    assert torch.equal(module.sample(9), x)


def test_latents_of_data_and_back():
    module = made()
    z = module.encode(X)
    assert z.shape == (12, module.latents) and torch.equal(module.reconstruct(X), module.decode(z))
    drawn = [module.encode(X, rng=IndexedSource(s, range(12))) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], z)
    mean = module.expected(z)
    assert mean.is_floating_point() and torch.equal((mean > 0.5).to(torch.uint8), module.decode(z))
    between = module.interpolate(X[:4], X[4:8], 5)
    assert between.shape == (4, 5, *SHAPE)
    torch.testing.assert_close(between[:, 0], module.expected(z[:4]))
    torch.testing.assert_close(between[:, -1], module.expected(z[4:8]))


def test_training_starts_at_the_frequencies_of_the_data():
    module = made(width=64)
    x = bits(400)
    x[:, 0, 0, 0] = 1
    module.initialize(x)
    mean = module.expected(torch.zeros(1, 3))[0]
    torch.testing.assert_close(mean, (x.double().sum(0) + 0.5).div(401).float(), atol=0.05, rtol=0)


def test_pseudo_inputs_are_initialized_and_trained():
    module = made(prior=VampPrior(4))
    module.initialize(X)
    assert (module.prior.inputs - X[:4]).abs().max() < 0.2
    module.training_loss(X)["loss"].mean().backward()
    assert module.prior.inputs.grad.abs().sum() > 0


def test_a_conditional_model_asks_for_labels_and_uses_them():
    module = made(conditioner=lambda n: ClassEmbedding(n, 8))
    y = torch.zeros(len(X), dtype=torch.long)
    rng = IndexedSource(0, range(len(X)))
    zero, one = (module.log_likelihood(X, y + k, rng=rng).log_prob for k in (0, 1))
    assert not torch.isclose(zero, one).any()
    with pytest.raises(UserError, match="give y"):
        module.log_likelihood(X)
    # labels that nobody gives are drawn, by index
    assert torch.equal(
        module.sample(8, rng=IndexedSource(3, range(8)))[4:], module.sample(4, rng=IndexedSource(3, range(4, 8)))
    )
    with pytest.raises(UserError, match="GaussianMixture"):
        made(conditioner=lambda n: ClassEmbedding(n, 8), prior=VampPrior(3))


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UserError, match="binarization"):
        made(levels=256)
    with pytest.raises(UserError, match="latent_dim"):
        made(latent_dim=0)
    with pytest.raises(UserError, match="max_dim"):
        made(latent_dim=100, posterior=FullCovariance())
    with pytest.raises(UserError, match="per_dimension"):
        made(objective=ELBO(per_dimension=True), posterior=FullCovariance())
    with pytest.raises(UserError, match="shape"):
        made().log_likelihood(X[:, :, :2])


def test_calibration_follows_training_and_nothing_else():
    module = made(shape=(5,), levels=None, num_classes=None, observation=CalibratedGaussian())
    x = 3 * torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    before = module.log_likelihood(x).log_prob
    module.eval().training_loss(x)
    torch.testing.assert_close(module.log_likelihood(x).log_prob, before)
    module.train().training_loss(x)
    assert float(module.observation.mse) > 4
    assert (module.log_likelihood(x).log_prob.mean() - before.mean()) > 1


def test_mode_and_temperature():
    module = made(observation=LearnedGaussian(), shape=(2,), levels=None, num_classes=None)
    rng = IndexedSource(0, range(500))
    cold = module.sample(500, sampler=PriorSampler(0.0, mode=True), rng=rng)
    assert cold.std(0).max() < 1e-6
    assert module.sample(500, sampler=PriorSampler(1.0, mode=True), rng=rng).std(0).min() > 1e-3
    with pytest.raises(UserError, match="temperature"):
        PriorSampler(-1.0)


def test_imputation_keeps_what_is_known_and_does_not_see_the_rest():
    module = made()
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[:, :2] = 1
    other = torch.where(mask.bool(), X, 1 - X)
    filled, again = module.impute(X, mask), module.impute(other, mask)
    assert torch.equal(filled, again) and torch.equal(filled[:, :, :2], X[:, :, :2])
    assert not torch.equal(filled[:, :, 2:], X[:, :, 2:])
    alone = module.impute(X[6:], mask, rng=IndexedSource(0, range(6, 12)))
    assert torch.equal(alone, filled[6:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_any_precision(dtype):
    module = made(objective=IWAE(3)).to(dtype)
    module.training_loss(X)["loss"].mean().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in module.parameters())
    assert torch.isfinite(module.log_likelihood(X, estimator=ImportanceWeightedBound(10)).log_prob).all()


def trained(
    module: VAE, x: torch.Tensor, y: torch.Tensor | None, steps: int, batch: int = 100, lr: float = 3e-3
) -> VAE:
    """A plain loop: what a Trainer does is tested elsewhere."""
    torch.manual_seed(0)
    module.initialize(x[:batch], None if y is None else y[:batch])
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,))
        optimizer.zero_grad()
        module.training_loss(x[rows], None if y is None else y[rows])["loss"].mean().backward()
        optimizer.step()
        schedule.step()
    return module.eval()


def test_a_trained_linear_model_reaches_the_best_evidence_there_is():
    """Probabilistic PCA of known noise: the maximum of log p has a closed form (Tipping and Bishop 1999, eq. 7), and its
    posterior is a Gaussian."""
    torch.manual_seed(2)
    dim, latents, num, noise = 4, 1, 1000, 0.7
    x = torch.randn(num, latents) @ torch.randn(latents, dim) + noise * torch.randn(num, dim) + 0.5
    values = torch.linalg.eigvalsh(torch.cov(x.T.double(), correction=0)).flip(0)
    fitted = torch.cat([values[:latents], torch.full((dim - latents,), noise**2, dtype=torch.float64)])
    best = -0.5 * (dim * math.log(2 * math.pi) + fitted.log().sum() + (values / fitted).sum())
    module = VAE(
        (dim,),
        None,
        None,
        encoder=lambda *shapes: PlainMLP(*shapes, widths=[]),
        decoder=lambda *shapes: PlainMLP(*shapes, widths=[]),
        observation=FixedGaussian(noise),
        latent_dim=latents,
    )
    torch.manual_seed(0)
    module.configure_model()
    trained(module, x, None, 600, batch=500, lr=0.1)
    rng = IndexedSource(0, range(num))
    elbo = module.log_likelihood(x, draws=20, rng=rng).log_prob.mean()
    iwae = module.log_likelihood(x, estimator=ImportanceWeightedBound(50), rng=rng).log_prob.mean()
    assert elbo < iwae + 0.01 < best + 0.02
    assert best - elbo < 0.02


def test_samples_of_a_conditional_model_carry_their_label():
    """By the shipped classifier, which has never seen them."""
    data = BinaryDigits()
    train = data.split("train")
    module = made((1, 8, 8), 2, 10, width=128, latent_dim=8, conditioner=lambda n: ClassEmbedding(n, 16))
    trained(module, train.x, train.y, 400, lr=5e-3)
    y = torch.arange(10).repeat(20)
    x = module.sample(200, y, sampler=PriorSampler(mode=True))
    _, logits = ShippedClassifier("digits").features_and_logits(x, 2)
    right = logits.argmax(1) == y
    assert float(right.float().mean()) > 0.75
    assert float((logits.argmax(1) == y.roll(3)).float().mean()) < 0.2
