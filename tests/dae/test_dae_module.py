"""Laws of DenoisingAutoencoder: training reaches the closed form, and the contract of a family holds."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from lightning_gen.closed_forms import GaussianPosterior
from lightning_gen.dae import (
    DenoisingAutoencoder,
    FixedNoise,
    InverseVariance,
    Langevin,
    LogUniformNoise,
    NoiseToManifold,
    OptimalDenoiser,
    Preconditioned,
    UnitTarget,
)
from lightning_gen.errors import NoLikelihood, NonFiniteSamples, UserError
from lightning_gen.generative_module import LossDraws
from lightning_gen.networks import MLP, ClassEmbedding, NoiseBlind, PlainMLP
from lightning_gen.powers import Denoising, Imputation
from lightning_gen.random_source import GeneratorSource, IndexedSource

LINEAR = partial(NoiseBlind, network=partial(PlainMLP, widths=[]))
SMALL = partial(MLP, width=16, depth=1)


def made(shape=(3,), levels=None, num_classes=None, network=SMALL, seed=0, **kwargs):
    torch.manual_seed(seed)
    module = DenoisingAutoencoder(shape, levels, num_classes, network, **kwargs)
    module.configure_model()
    return module.eval()


def trained(module, x, steps, lr, y=None, decay=True):
    """Full batches of `x`, the noise new in each."""
    optimizer = AdamW(module.parameters(), lr=lr, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01 if decay else 1.0, steps)
    source, rows = GeneratorSource(1), torch.arange(len(x))
    module.train()
    for _ in range(steps):
        with module.drawing(LossDraws(rows, len(x), source, source)):
            loss = module.training_loss(x, y)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return module.eval()


def gaussian_data(num=2000, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator) * torch.tensor([1.5, 0.8, 0.2])
    return torch.randn(num, dim, generator=generator) @ mix.T + torch.tensor([1.0, -0.5, 0.0])


@pytest.mark.parametrize("rank", [None, 1])
def test_a_trained_linear_autoencoder_is_the_closed_form(rank):
    x, sigma = gaussian_data(), 0.7
    network = LINEAR if rank is None else partial(
        NoiseBlind, network=partial(PlainMLP, widths=[rank], activation=nn.Identity)
    )  # fmt: skip
    module = trained(made(network=network, noise=FixedNoise(sigma)), x, 350, 0.1)
    best = GaussianPosterior.fit(x)
    best = best if rank is None else best.truncated(rank)
    at = x[:200] + sigma * torch.randn(200, 3, generator=torch.Generator().manual_seed(2))
    expected = best(at, 1.0, sigma).x0.float()
    # what it loses over the least error there is
    assert (module.denoise(at, sigma) - expected).square().mean() < 0.01 * (expected - x[:200]).square().mean()
    weights = torch.stack([module.denoise(row[None], sigma)[0] for row in torch.eye(3)], 1)
    weights = weights - module.denoise(torch.zeros(1, 3), sigma).T
    shrinkage = best.vectors @ (best.values / (best.values + sigma**2)).diag() @ best.vectors.T
    torch.testing.assert_close(weights, shrinkage.float(), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("noise", "kwargs"),
    [
        (FixedNoise(0.4), {}),
        (LogUniformNoise(0.2, 2.0), {"preconditioning": Preconditioned(1.0), "weighting": UnitTarget(1.0)}),
    ],
)
def test_a_trained_network_approaches_the_optimal_denoiser(noise, kwargs):
    """Of four points in the plane: at the ends of what it was trained on, and between."""
    points = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    module = trained(
        made((2,), network=partial(MLP, width=32, depth=1), noise=noise, **kwargs), points.repeat(64, 1), 300, 0.015
    )
    best = OptimalDenoiser(points)
    generator = torch.Generator().manual_seed(3)
    for u in (0.1, 0.5, 0.9):
        sigma = noise.quantile(torch.tensor([u]))[0]
        x = points.repeat(100, 1) + sigma * torch.randn(400, 2, generator=generator)
        error = (module.denoise(x, sigma) - best(x, sigma)).square().mean()
        assert error < 0.015


def test_the_score_is_tweedies():
    module = made(noise=LogUniformNoise(0.1, 10.0))
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, sigma = torch.randn(4, 3), torch.tensor([0.1, 0.5, 1.0, 3.0])
    torch.testing.assert_close(x + sigma[:, None] ** 2 * module.score(x, sigma), module.denoise(x, sigma))


class Mean(nn.Module):
    """Says 0, whatever it sees."""

    def __init__(self, shape, out_channels, cond_dim=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x, logsnr, cond=None):
        return self.weight * x


def test_the_loss_is_the_weighted_error_of_the_clean_data():
    x = torch.randn(64, 3)
    sigma = 0.5
    parts = made(network=Mean, noise=FixedNoise(sigma), weighting=InverseVariance()).training_loss(x)
    torch.testing.assert_close(parts["mse"], x.square().mean(1))
    torch.testing.assert_close(parts["loss"], x.square().mean(1) / sigma**2)


def test_levels_are_stratified_over_the_global_batch():
    """Whatever part of it a rank has: its rows' own strata."""
    asked = []

    class Asked(Mean):
        def forward(self, x, logsnr, cond=None):
            asked.append(torch.exp(-0.5 * logsnr))
            return super().forward(x, logsnr, cond)

    noise = LogUniformNoise(0.1, 10.0)
    module = made(network=Asked, noise=noise)
    x, rows = torch.randn(8, 3), torch.tensor([5, 0, 3, 4, 1, 2, 7, 6])
    for part in (slice(0, 8), slice(2, 5)):
        with module.drawing(LossDraws(rows[part], 8, GeneratorSource(3), GeneratorSource(4))):
            module.training_loss(x[part])
    strata = (asked[0].log10() + 1) / 2 * 8
    assert strata.floor().long().tolist() == rows.tolist()
    torch.testing.assert_close(asked[1], asked[0][2:5])


@pytest.mark.parametrize("sampler", [NoiseToManifold(4), NoiseToManifold(4, churn=0.3), Langevin(2, 3)])
@pytest.mark.parametrize("levels", [None, 5])
def test_samples_depend_on_seed_and_index_alone(sampler, levels):
    network = partial(NoiseBlind, network=partial(PlainMLP, widths=[8]))
    module = made(levels=levels, network=network, noise=LogUniformNoise(0.1, 5.0), sampler=sampler)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    whole = module.sample(70, rng=IndexedSource(3, range(70)))
    assert torch.equal(torch.get_rng_state(), before)
    parts = [module.sample(35, rng=IndexedSource(3, range(k, k + 35))) for k in (0, 35)]
    if levels is None:
        torch.testing.assert_close(torch.cat(parts), whole)
        assert not torch.allclose(whole, module.sample(70))
    else:
        assert whole.dtype == torch.uint8 and whole.max() < levels and torch.equal(torch.cat(parts), whole)
    other = NoiseToManifold(2, highest=1.0)
    assert not torch.equal(module.sample(70, sampler=other), module.sample(70))


def test_the_label_matters_and_can_be_left_out():
    """Two classes at 1 and -1, noise that hides which: what it says is the label's, or half of each without one."""
    x, y = torch.tensor([[1.0], [-1.0]]).repeat(64, 1), torch.tensor([0, 1]).repeat(64)
    kwargs = dict(
        network=partial(MLP, width=16, depth=1), conditioner=partial(ClassEmbedding, dim=8), label_dropout=0.3
    )
    module = trained(made((1,), None, 2, noise=FixedNoise(5.0), **kwargs), x, 200, 0.01, y)
    noisy = 5 * torch.randn(200, 1, generator=torch.Generator().manual_seed(5))
    for k, mean in ((0, 1.0), (1, -1.0)):
        labels = torch.full((200,), k)
        assert (module.denoise(noisy, 5.0, labels) - mean).abs().mean() < 0.15
        assert (module.sample(200, labels) - mean).abs().mean() < 0.2
        assert (module.attractors(noisy, y=labels, eta=0.5).points - mean).abs().mean() < 0.2
    assert module.denoise(noisy, 5.0).abs().mean() < 0.5
    drawn = module.sample(200)
    assert 60 < (drawn > 0).sum() < 140


def test_holes_are_filled_and_the_known_is_untouched():
    """x_1 = x_0 in the data: what is known of one fills the other."""
    x = torch.tensor([[0, 0], [4, 4]], dtype=torch.uint8)
    module = made((2,), 5, network=partial(MLP, width=32, depth=2), noise=LogUniformNoise(0.1, 5.0),
                  preconditioning=Preconditioned(1.0), weighting=UnitTarget(1.0))  # fmt: skip
    trained(module, x.repeat(64, 1), 200, 0.01)
    given, mask = torch.tensor([[0, 2], [4, 1]] * 20, dtype=torch.uint8), torch.tensor([True, False])
    torch.manual_seed(7)
    before = torch.get_rng_state()
    filled = module.impute(given, mask)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(filled[:, 0], given[:, 0]) and (filled[:, 1] == given[:, 0]).double().mean() > 0.9
    assert filled.dtype == torch.uint8
    ignored = given.clone()
    ignored[:, 1] = 3
    assert torch.equal(module.impute(ignored, mask), filled)
    with pytest.raises(UserError, match="0 to 4"):
        module.impute(given.float(), mask)
    with pytest.raises(UserError, match="shape"):
        module.impute(given[:, :1], mask)


def test_it_has_no_likelihood_but_its_powers():
    module = made()
    assert isinstance(module, Denoising) and isinstance(module, Imputation)
    with pytest.raises(NoLikelihood):
        module.log_likelihood(torch.zeros(2, 3))
    assert module.training_loss(torch.zeros(2, 3))["loss"].mean().shape == ()


def test_what_diverges_is_named():
    module = made(network=Mean)
    nn.init.constant_(module.network.weight, torch.nan)
    with pytest.raises(NonFiniteSamples, match="denoising in 50 steps"):
        module.sample(2)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"label_dropout": 1.0}, "label_dropout"),
        ({"sampler": Langevin(highest=3.0)}, "highest"),
        ({"weighting": UnitTarget(0.5), "preconditioning": Preconditioned(0.7)}, "data_std"),
    ],
)
def test_what_has_no_meaning_is_refused_at_construction(wrong, word):
    with pytest.raises(UserError, match=word):
        made(**wrong)


def test_a_sampler_beyond_what_was_trained_is_refused():
    with pytest.raises(UserError, match="highest"):
        made().sample(2, sampler=NoiseToManifold(highest=3.0))


ASKED = {"denoise": {}, "score": {}, "attractors": {"steps": 2}}


@pytest.mark.parametrize("verb", ASKED)
def test_only_floats_at_a_level_that_was_trained_can_be_denoised(verb):
    module = made(noise=LogUniformNoise(0.1, 10.0))
    ask = partial(getattr(module, verb), **ASKED[verb])
    ask(torch.zeros(2, 3), sigma=torch.tensor(0.1))
    for sigma in (0.05, 20.0, 0.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="from 0.1 to 10"):
            ask(torch.zeros(2, 3), sigma=sigma)
    with pytest.raises(UserError, match="to_floats"):
        ask(torch.zeros(2, 3, dtype=torch.uint8), sigma=1.0)


def test_attractors_are_those_of_the_lowest_level_by_default():
    module = made(noise=LogUniformNoise(0.1, 10.0))
    found = module.attractors(torch.ones(2, 3), eta=0.5, steps=3)
    assert found.sigma == 0.1
    assert torch.equal(found.points, module.attractors(torch.ones(2, 3), eta=0.5, steps=3, sigma=0.1).points)
    with pytest.raises(TypeError):
        module.attractors(torch.ones(2, 3), torch.zeros(2))


def test_a_condition_is_asked_for_where_none_was_ever_left_out():
    kwargs = dict(conditioner=partial(ClassEmbedding, dim=8), noise=FixedNoise(1.0))
    x, y, mask = torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([True, False, False])
    short = NoiseToManifold(2)
    for module in (made(num_classes=2, label_dropout=0.0, **kwargs), made(num_classes=2, **kwargs)):
        asked = (
            lambda y, m=module: m.denoise(x, 1.0, y),
            lambda y, m=module: m.attractors(x, steps=1, y=y),
            lambda y, m=module: m.impute(x, mask, y, imputer=short),
        )
        for ask in asked:
            ask(y)
            with pytest.raises(UserError, match="2 examples, got 1"):
                ask(y[:1])
            if module.label_dropout:
                ask(None)
            else:
                with pytest.raises(UserError, match="label_dropout 0"):
                    ask(None)
        module.sample(2, sampler=short)  # draws its labels
        with pytest.raises(UserError, match="3 examples, got 2"):
            module.sample(3, y, sampler=short)
