"""The closed forms as models: made by `initialize`, they memorise, or shrink."""

import pytest
import torch

from datamodules import Digits
from lightning_gen.dae import FixedNoise, LinearDAE, NoiseToManifold, OptimalDAE
from lightning_gen.errors import UserError


@pytest.fixture(scope="module")
def train():
    return Digits().split("train")


def made(kind, train, num=None, **kwargs):
    module = kind((1, 8, 8), 17, 10, **kwargs)
    module.configure_model()
    module.initialize(train.x[:num], train.y[:num])
    return module


def test_the_optimal_one_samples_the_training_set(train):
    module = made(OptimalDAE, train, 200, sampler=NoiseToManifold(20), conditional=True)
    y = torch.arange(10).repeat(3)
    x = module.sample(30, y)
    distance, index = torch.cdist(x.flatten(1).float(), train.x[:200].flatten(1).float()).min(1)
    assert distance.max() == 0 and torch.equal(train.y[:200][index], y)
    assert x.dtype == torch.uint8 and len(index.unique()) > 10
    assert module._denoiser.posterior.examples.x.dtype == torch.uint8


def test_the_linear_one_is_the_best_linear_one(train):
    """Its loss is the trace formula: the mean over directions of l sigma^2 / (l + sigma^2), and no scaling lowers it."""
    module = made(LinearDAE, train)
    x, sigma = train.x, 0.5
    clean = module.to_floats(x)
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    answer = module.denoise(noisy, sigma)
    error = (answer - clean).square().mean()
    values = module._denoiser.whole.values
    assert error.item() == pytest.approx((values * sigma**2 / (values + sigma**2)).mean().item(), rel=0.02)
    mean = clean.mean(0)
    for scale in (0.95, 1.05):
        assert (mean + scale * (answer - mean) - clean).square().mean() > error


def test_a_rank_is_a_bottleneck(train):
    module = made(LinearDAE, train, rank=5)
    x = module.to_floats(train.x[:100])
    moved = (module.denoise(x, 1e-3) - module.denoise(torch.zeros(1, 1, 8, 8), 1e-3)).flatten(1)
    assert torch.linalg.matrix_rank(moved, rtol=1e-4) == 5
    for rank in (0, 65):
        with pytest.raises(UserError, match="rank"):
            made(LinearDAE, train, rank=rank)


def test_each_class_is_denoised_as_itself(train):
    module = made(LinearDAE, train, conditional=True)
    x, y = module.to_floats(train.x[:100]), train.y[:100]
    noisy = x + 0.8 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    errors = [(module.denoise(noisy, 0.8, given) - x).square().mean() for given in (y, None, (y + 1) % 10)]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("kind", [OptimalDAE, LinearDAE])
def test_nothing_is_known_before_data_are_seen(kind):
    module = kind((1, 8, 8), 17, 10)
    module.configure_model()
    with pytest.raises(RuntimeError, match="initialize"):
        module.sample(1)


@pytest.mark.parametrize("kind", [OptimalDAE, LinearDAE])
def test_every_level_can_be_asked(kind, train):
    module = made(kind, train, 200, noise=FixedNoise(0.5))
    x = module.to_floats(train.x[:3])
    assert module.attractors(x, sigma=50.0, steps=1).sigma == 50.0
    assert module.score(x, 1e-3).isfinite().all()
    for sigma in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="positive and finite"):
            module.denoise(x, sigma)


@pytest.mark.parametrize("kind", [OptimalDAE, LinearDAE])
def test_a_class_without_examples_is_refused_where_classes_matter(kind, train):
    some = train.y < 3
    for conditional in (False, True):
        module = kind((1, 8, 8), 17, 4, conditional=conditional)
        module.configure_model()
        if not conditional:
            module.initialize(train.x[some], train.y[some])
            continue
        for y in (train.y[some], None):
            with pytest.raises(UserError, match="class 3" if y is not None else "class 0"):
                module.initialize(train.x[some], y)
