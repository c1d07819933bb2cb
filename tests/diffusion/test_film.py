"""The film of a trajectory: what is shown is the state on a path of unit variance, and the sample at the end."""

import pytest
import torch

from lightning_gen.diffusion import (
    DDIM,
    Cosine,
    DiffusionSampler,
    GaussianDenoiser,
    Linear,
    VarianceExploding,
    VariancePreserving,
)
from lightning_gen.diffusion.decoders import LevelDecoder, VectorDecoder
from lightning_gen.diffusion.film import film
from lightning_gen.diffusion.samplers import Visited
from lightning_gen.errors import NonFiniteSamples, UserError
from lightning_gen.random_source import GeneratorSource

PATHS = [VariancePreserving(), VarianceExploding(), Linear()]


def trajectory(path, steps=12, num=400):
    denoiser = GaussianDenoiser(torch.full((2,), 0.3), 0.04 * torch.eye(2), path)
    return list(DiffusionSampler(DDIM(), steps).trajectory(denoiser, Cosine(), (num, 2), None, GeneratorSource(0)))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("decoder", [VectorDecoder(), LevelDecoder(17)], ids=["vectors", "integers"])
def test_it_ends_with_the_sample_and_begins_with_noise_of_unit_variance(path, decoder):
    points = trajectory(path)
    frames = film(iter(points), 5, decoder)
    sample = decoder.decode(*points[-1])
    assert frames.shape == (400, 5, 2) and frames.dtype == sample.dtype
    assert torch.equal(frames[:, -1], sample)
    if decoder.integers:
        assert frames[:, 0].unique().numel() == 17  # the noise is seen, and not black and white alone
    else:
        assert frames[:, 0].std().item() == pytest.approx(1, abs=0.05)
    spreads = frames.float().std(0).mean(1)
    assert (spreads.diff() < 0).all()


def test_on_the_variance_preserving_path_it_is_the_trajectory_at_equal_distances():
    points = trajectory(VariancePreserving(), steps=12)
    frames = film(points, 5, VectorDecoder())
    for k, i in enumerate((0, 3, 6, 9)):
        torch.testing.assert_close(frames[:, k], points[i].x)


def test_there_are_no_more_frames_than_points():
    points = trajectory(VariancePreserving(), steps=3)
    assert film(points, 9, VectorDecoder()).shape[1] == 4
    with pytest.raises(UserError, match="two frames"):
        film(points, 1, VectorDecoder())


def test_a_trajectory_that_runs_off_is_not_shown():
    points = trajectory(VariancePreserving(), steps=3)
    points[1] = Visited(points[1].x * torch.nan, points[1].level)
    with pytest.raises(NonFiniteSamples):
        film(points, 4, LevelDecoder(17))
