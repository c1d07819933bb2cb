"""Laws of the variational bound, on data whose likelihood is known in closed form."""

import math

import pytest
import torch

from lightning_gen.diffusion import (
    Cosine,
    FlowMatching,
    GaussianDenoiser,
    Linear,
    LinearBeta,
    LinearLogSNR,
    Prediction,
    Sigmoid,
    TrainingSetDenoiser,
    VariancePreserving,
    VariationalBound,
)
from lightning_gen.diffusion.decoders import LevelDecoder, VectorDecoder
from lightning_gen.random_source import GeneratorSource, IndexedSource

S = torch.tensor([0.5, 1.0, 1.7], dtype=torch.float64)  # standard deviations of Gaussian data


def gaussian_data(num, seed=0):
    return (torch.randn(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * S).float()


def expected_log_prob():
    """-H(x) of the data."""
    return -(S.log() + 0.5 * math.log(2 * math.pi * math.e)).sum().item()


def kl_at_the_end(path, logsnr):
    """KL(q(x_1) || p(x_1)) of the data's own marginal at the noisy end: what the mean bound is short by."""
    alpha, sigma, _, _ = path.scales(torch.tensor(logsnr, dtype=torch.float64))
    variance = alpha**2 * S**2 + sigma**2
    return 0.5 * (variance - 1 - variance.log()).sum().item()


@pytest.mark.parametrize("logsnr_min", [-10.0, -3.0])
@pytest.mark.parametrize(
    ("schedule", "path"),
    [
        (Cosine, VariancePreserving()),
        (LinearBeta, VariancePreserving()),
        (Sigmoid, VariancePreserving()),
        (LinearLogSNR, Linear()),
        (FlowMatching, Linear()),
    ],
)
def test_mean_bound_of_gaussian_data_is_tight(schedule, path, logsnr_min):
    """With the perfect denoiser the mean of the continuous ELBO is -H(x) - KL(q(x_1) | prior), for every schedule."""
    x = gaussian_data(4000)
    denoiser = GaussianDenoiser(torch.zeros(3, dtype=torch.float64), torch.diag(S**2), path)
    bound = VariationalBound()(
        denoiser, schedule(logsnr_min=logsnr_min), VectorDecoder(), x, None, 32, GeneratorSource(1)
    )
    assert bound.kind == "density-elbo"
    own = torch.distributions.Normal(torch.zeros(3), S.float()).log_prob(x).sum(1).double()
    error = (bound.log_prob - own).mean().item()  # against each example's own log p: the data's noise cancels
    tolerance = 4 * (bound.log_prob - own).std().item() / math.sqrt(len(x))
    assert error == pytest.approx(-kl_at_the_end(path, logsnr_min), abs=tolerance + 2e-3)
    assert own.mean().item() == pytest.approx(expected_log_prob(), abs=0.1)
    torch.testing.assert_close(torch.stack(list(bound.terms.values())).sum(0), bound.log_prob)


def test_excess_of_the_discrete_bound_falls_as_one_over_steps():
    """Gaussian data in closed form: L_T - L_inf = sum over steps of a Riemann error, halved when T doubles."""
    path, schedule = VariancePreserving(), Cosine(logsnr_min=-8.0, logsnr_max=8.0)
    x = gaussian_data(1024, seed=3)
    denoiser = GaussianDenoiser(torch.zeros(3, dtype=torch.float64), torch.diag(S**2), path)

    def diffusion(steps, draws):
        terms = VariationalBound(steps)(denoiser, schedule, VectorDecoder(), x, None, draws, GeneratorSource(4)).terms
        return -terms["diffusion"].mean().item(), terms["diffusion"].std().item() / math.sqrt(len(x))

    # E |eps - eps_hat|^2 = SNR s^2 / (1 + SNR s^2) makes the exact sums; the code must land on them
    def exact(steps):
        t = torch.arange(0, steps + 1, dtype=torch.float64) / steps
        logsnr = schedule.logsnr(t)
        snr = logsnr[1:, None].exp() * S**2
        return (0.5 * torch.expm1(logsnr[:-1] - logsnr[1:])[:, None] * snr / (1 + snr)).sum().item()

    limit = exact(1_000_000)
    excess = [exact(steps) - limit for steps in (512, 1024, 2048)]
    assert excess[0] / excess[1] == pytest.approx(2, rel=0.1)
    assert excess[1] / excess[2] == pytest.approx(2, rel=0.1)
    for steps in (16, 64):
        mean, error = diffusion(steps, steps * 4)
        assert mean == pytest.approx(exact(steps), abs=4 * error) and error < 0.02 * mean


class Blind:
    """Predicts eps_hat = 0, and records what it was shown."""

    path = VariancePreserving()

    def __init__(self):
        self.seen, self.x_t = [], []

    def __call__(self, x_t, logsnr, y=None):
        self.seen.append(logsnr.clone())
        self.x_t.append(x_t.clone())
        return Prediction(x_t, torch.zeros_like(x_t))

    def noise(self):
        """[draws, B, ...] of data at the origin."""
        sigma = self.path.scales(torch.stack(self.seen).double())[1]
        return torch.stack(self.x_t) / sigma.reshape(*sigma.shape, *[1] * (self.x_t[0].ndim - 1))


def shown(draws, num=5, steps=None, rng=None, schedule=None):
    """What the bound of `num` points at the origin asks, and what it is."""
    blind, schedule = Blind(), schedule or Cosine()
    rng = rng or IndexedSource(8, range(num))
    bound = VariationalBound(steps)(blind, schedule, VectorDecoder(), torch.zeros(num, 3), None, draws, rng)
    return blind, bound


def test_exact_sum_meets_every_step_once():
    """With draws = T no step is missed or doubled: the mean weight is the sum of all weights."""
    blind, schedule, steps = Blind(), Cosine(), 8
    x = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    VariationalBound(steps)(blind, schedule, LevelDecoder(4), x, None, steps, GeneratorSource(0))
    seen = torch.stack(blind.seen).sort(0, descending=True).values
    expected = schedule.logsnr(torch.arange(1, steps + 1, dtype=torch.float64) / steps)
    torch.testing.assert_close(seen, expected[:, None].expand(steps, 5))


def test_bound_of_enumerable_integers_lies_above_their_entropy():
    """One pixel of 4 levels drawn from known probabilities, denoised by Bayes' rule: E[-ELBO] >= H(x), and close to it."""
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    counts = (probabilities * 2000).round().long()
    x = torch.repeat_interleave(torch.arange(4), counts).to(torch.uint8).reshape(-1, 1, 1, 1)
    decoder, path = LevelDecoder(4), VariancePreserving()
    denoiser = TrainingSetDenoiser(decoder.encode(x), path)
    bound = VariationalBound()(denoiser, Cosine(), decoder, x, None, 64, GeneratorSource(5))
    entropy = -(probabilities * probabilities.log()).sum().item()
    mean, error = -bound.log_prob.mean().item(), bound.log_prob.std().item() / math.sqrt(len(x))
    assert bound.kind == "elbo"
    assert entropy - 4 * error < mean < entropy + 0.02 + 4 * error


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("logsnr", [-2.0, 3.0, 7.0, 12.0])
def test_decoder_is_a_distribution_over_levels(levels, logsnr):
    """For any z the probabilities of all levels sum to one, and the decoded level is the most probable."""
    decoder = LevelDecoder(levels)
    level = VariancePreserving().at(LinearLogSNR(logsnr_max=logsnr), torch.zeros((), dtype=torch.float64))
    z = torch.randn(6, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    x = torch.arange(levels, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    for one in z:
        log_prob = decoder.log_prob(x, one.expand(levels, 1, 1, 1), level)
        assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-5)
        decoded = decoder.decode(one[None], level)
        assert log_prob[decoded.item()] >= log_prob.max() - 1e-3


@pytest.mark.parametrize("levels", [2, 17, 256, 1000])
def test_decoding_inverts_encoding(levels):
    decoder = LevelDecoder(levels)
    x = torch.arange(levels, dtype=torch.uint8 if levels <= 256 else torch.int64).reshape(-1, 1)
    x0 = decoder.encode(x)
    assert x0.min() == -1 and x0.max() == 1
    level = VariancePreserving().at(LinearLogSNR(logsnr_max=3.0), torch.zeros((), dtype=torch.float64))
    back = decoder.decode(level.alpha * x0, level)
    assert back.dtype == x.dtype
    torch.testing.assert_close(back, x)


@pytest.mark.parametrize("logsnr", [6.0, 10.0, 14.0])
def test_levels_too_far_to_count_are_left_out_and_do_not_count(logsnr):
    """Against the sum over all levels in float64, for z within the range of the data and far outside of it."""
    level = VariancePreserving().at(LinearLogSNR(logsnr_max=logsnr), torch.zeros((), dtype=torch.float64))
    z = torch.linspace(-1.6, 1.6, 512, dtype=torch.float64).reshape(-1, 1)
    x = torch.randint(256, (512, 1), generator=torch.Generator().manual_seed(1))
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    exponents = -0.5 * level.logsnr.exp() * (z / level.alpha - values).square()
    expected = exponents.gather(1, x)[:, 0] - exponents.logsumexp(1)
    torch.testing.assert_close(LevelDecoder(256).log_prob(x, z, level), expected, rtol=1e-9, atol=1e-9)


def test_chunks_change_nothing(monkeypatch):
    from lightning_gen.diffusion import decoders

    decoder = LevelDecoder(256)
    level = VariancePreserving().at(LinearLogSNR(), torch.zeros(9, dtype=torch.float64))
    x = torch.randint(256, (9, 3, 4, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    z = decoder.encode(x) + 0.01
    whole = decoder.log_prob(x, z, level)
    monkeypatch.setattr(decoders, "_CHUNK", 48 * 2)
    torch.testing.assert_close(decoder.log_prob(x, z, level), whole)


def test_bound_of_an_example_does_not_depend_on_its_batch():
    x = gaussian_data(70, seed=9)
    denoiser = GaussianDenoiser(torch.zeros(3, dtype=torch.float64), torch.diag(S**2), VariancePreserving())

    def measure(index):
        rng = IndexedSource(0, index)
        return VariationalBound()(denoiser, Cosine(), VectorDecoder(), x[index], None, 4, rng).log_prob

    whole = measure(range(70))
    torch.testing.assert_close(torch.cat([measure(range(0, 3)), measure(range(3, 66)), measure(range(66, 70))]), whole)


@pytest.mark.parametrize("make", [lambda num: IndexedSource(8, range(num)), lambda num: GeneratorSource(8)])
@pytest.mark.parametrize("steps", [None, 20])
def test_the_noise_of_a_draw_does_not_depend_on_how_many_there_are(make, steps):
    """Nor on the schedule, nor on what the source gave before; and no two draws or examples share theirs."""
    noise, used = shown(8, steps=steps, rng=make(5))[0].noise(), make(5)
    used.normal((5, 7))
    narrow = LinearLogSNR(-4.0, 6.0)
    for other in (shown(4, steps=steps, rng=make(5)), shown(8, rng=make(5), schedule=narrow), shown(8, rng=used)):
        few = other[0].noise()
        torch.testing.assert_close(few, noise[: len(few)], rtol=1e-4, atol=1e-4)
    distances = torch.cdist(noise.reshape(40, 3), noise.reshape(40, 3)) + torch.eye(40)
    assert distances.min() > 0.01


def test_noise_belongs_to_the_example_and_the_draw():
    whole = shown(3, num=130)[0].noise()
    for rows in (range(0, 1), range(60, 70), range(129, 130)):
        part = shown(3, num=len(rows), rng=IndexedSource(8, rows))[0].noise()
        torch.testing.assert_close(part, whole[:, rows], rtol=1e-4, atol=1e-4)
    assert torch.corrcoef(whole.flatten(1).float()).fill_diagonal_(0).abs().max() < 5 / 390**0.5


@pytest.mark.parametrize("draws", [1, 7, 16])
def test_every_stratum_of_log_snr_holds_one_draw(draws):
    schedule = Sigmoid(logsnr_min=-5.0, logsnr_max=11.0)
    blind, _ = shown(draws, num=300, schedule=schedule)
    position = (11.0 - torch.stack(blind.seen)) / 16.0 * draws
    torch.testing.assert_close(
        position.floor(), torch.arange(float(draws), dtype=torch.float64)[:, None].expand(-1, 300)
    )
    within = position - position.floor()  # one offset an example, uniform over examples
    assert within.std(0, correction=0).max() < 1e-5
    assert abs(within[0].mean() - 0.5) < 4 / math.sqrt(12 * 300)
    assert within[0].min() < 0.05 and within[0].max() > 0.95


@pytest.mark.parametrize(("steps", "draws"), [(None, 1), (None, 9), (6, 6), (50, 4), (3, 7)])
def test_the_profile_is_the_diffusion_term_draw_by_draw(steps, draws):
    schedule = LinearBeta(logsnr_min=-7.0, logsnr_max=9.0)
    blind, bound = shown(draws, steps=steps, schedule=schedule)
    profile = bound.profile
    assert profile.ends == (-7.0, 9.0) and profile.logsnr.shape == (5, draws)
    torch.testing.assert_close(profile.nats(), -bound.terms["diffusion"], rtol=1e-6, atol=0)
    torch.testing.assert_close(profile.logsnr, torch.stack(blind.seen, 1).float())
    half = 0.5 * blind.noise().square().sum(-1).T  # of a denoiser that sees nothing, in the limit of small steps
    steepness = 1.0 if steps is None else torch.expm1(profile.width) / profile.width
    torch.testing.assert_close(profile.density, (half * steepness).float(), rtol=1e-4, atol=1e-4)


def test_the_stretches_of_all_steps_tile_log_snr():
    _, bound = shown(12, steps=12)
    lower, order = bound.profile.logsnr.sort(1)
    upper = lower + bound.profile.width.gather(1, order)
    torch.testing.assert_close(lower[:, 1:], upper[:, :-1])
    torch.testing.assert_close(lower[:, 0], torch.full((5,), -10.0))
    torch.testing.assert_close(upper[:, -1], torch.full((5,), 10.0))
    torch.testing.assert_close(bound.profile.weight, 12 * bound.profile.width)
