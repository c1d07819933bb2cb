"""Laws of the variational bound, on data whose likelihood is known in closed form."""

import itertools
import math

import pytest
import torch

from lightning_gen import diffusion
from lightning_gen.diffusion.bounds import VariationalBound
from lightning_gen.diffusion.decoders import DiscretizedGaussian, LevelDecoder, NetworkDecoder, VectorDecoder
from lightning_gen.diffusion.denoisers import GaussianDenoiser, TrainingSetDenoiser
from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.diffusion.paths import Linear, SubVariancePreserving, VarianceExploding, VariancePreserving
from lightning_gen.diffusion.reverse_variances import Analytic, FixedLarge, FixedSmall, LearnedRange
from lightning_gen.diffusion.schedules import (
    Cosine,
    DiscreteCosine,
    DiscreteLinearBeta,
    FlowMatching,
    Geometric,
    Karras,
    Laplace,
    LearnedLinear,
    LearnedMonotone,
    LinearBeta,
    LinearLogSNR,
    Shifted,
    Sigmoid,
    SubVPLinearBeta,
    Truncated,
    ZeroTerminal,
)
from lightning_gen.errors import IncompatibleAxes, UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource
from lightning_gen.specs import describe, overridden

S = torch.tensor([0.5, 1.0, 1.7], dtype=torch.float64)  # standard deviations of Gaussian data


def gaussian_data(num, seed=0, std=S):
    return (torch.randn(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * std).float()


def gaussian(path=None, std=S):
    return GaussianDenoiser(torch.zeros(3, dtype=torch.float64), torch.diag(std**2), path or VariancePreserving())


def expected_log_prob():
    """-H(x) of the data."""
    return -(S.log() + 0.5 * math.log(2 * math.pi * math.e)).sum().item()


def kl_at_the_end(path, schedule):
    """KL(q(x_1) || p(x_1)) of the data's own marginal at the noisy end: what the mean bound is short by."""
    last = path.at(schedule, torch.ones((), dtype=torch.float64))
    variance = (last.alpha**2 * S**2 + last.sigma**2) / path.prior_std(last) ** 2
    return 0.5 * (variance - 1 - variance.log()).sum().item()


def lost_at_the_data(schedule):
    """Mean KL(q(x | z_0) || p(x | z_0)): the decoder's variance is that of z_0's noise, the posterior's is smaller."""
    return 0.5 * torch.log1p(math.exp(-float(schedule.logsnr_max)) / S**2).sum().item()


def learned_monotone():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LearnedMonotone(hidden=8)


SCHEDULES = {
    "Cosine": Cosine(),
    "LinearBeta": LinearBeta(),
    "Sigmoid": Sigmoid(),
    "LinearLogSNR": LinearLogSNR(),
    "FlowMatching": FlowMatching(),
    "Laplace": Laplace(),
    "SubVPLinearBeta": SubVPLinearBeta(),
    "Karras": Karras(0.01, 50.0),
    "Geometric": Geometric(0.01, 50.0),
    "DiscreteLinearBeta": DiscreteLinearBeta(),
    "DiscreteCosine": DiscreteCosine(logsnr_min=-16.0),
    "LearnedLinear": LearnedLinear(),
    "LearnedMonotone": learned_monotone(),
    "Truncated": Truncated(Cosine(), -6.0, 6.0),
    "Shifted": Shifted(Cosine(), shift=1.0),
    "ZeroTerminal": ZeroTerminal(Cosine()),
    "short Cosine": Cosine(logsnr_min=-3.0),
    "short LinearBeta": LinearBeta(logsnr_min=-3.0),
    "short FlowMatching": FlowMatching(logsnr_min=-3.0, logsnr_max=4.0),
}
"""Every one, and some that leave much to the prior and to the decoder."""


PATHS = [VariancePreserving(), VarianceExploding(), SubVariancePreserving(), Linear()]


class Moments:
    """A source that draws nothing: of eight examples x = S * X the means of squares and products are those expected.

    The bound of Gaussian data asks no more of x and of the noise. Log-SNR has the middle of each stratum.
    """

    WALSH = torch.tensor([[a, b, c, a * b, b * c, a * b * c] for a, b, c in itertools.product((-1.0, 1.0), repeat=3)])
    X, NOISE = WALSH.split(3, 1)

    def normal(self, shape, dtype=torch.float32):
        return self.NOISE.to(dtype)

    def uniform(self, shape, dtype=torch.float32):
        return torch.full(shape, 0.5, dtype=dtype)

    def fork(self, *name):
        return self


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_mean_bound_of_gaussian_data_is_tight(schedule, path):
    """With the perfect denoiser the mean of the continuous ELBO is -H(x) - KL(q(x_1) | prior), for every schedule and path;
    what a z_0 with noise in it leaves open is lost besides."""
    x = (S * Moments.X).float()
    bound = VariationalBound()(gaussian(path), schedule, VectorDecoder(), x, None, 20, Moments())
    expected = expected_log_prob() - kl_at_the_end(path, schedule) - lost_at_the_data(schedule)
    assert bound.log_prob.mean().item() == pytest.approx(expected, abs=3e-3)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_mean_bound_of_gaussian_data_is_tight_in_draws(path):
    """The same within Monte Carlo error, with a source that draws."""
    x, schedule = gaussian_data(6000), Cosine(logsnr_min=-3.0)
    bound = VariationalBound()(gaussian(path), schedule, VectorDecoder(), x, None, 16, GeneratorSource(1))
    assert bound.kind == "density-elbo"
    own = torch.distributions.Normal(torch.zeros(3), S.float()).log_prob(x).sum(1).double()
    error = (bound.log_prob - own).mean().item()  # against each example's own log p: the data's noise cancels
    tolerance = 4 * (bound.log_prob - own).std().item() / math.sqrt(len(x))
    assert error == pytest.approx(-kl_at_the_end(path, schedule) - lost_at_the_data(schedule), abs=tolerance)
    assert own.mean().item() == pytest.approx(expected_log_prob(), abs=0.1)
    torch.testing.assert_close(torch.stack(list(bound.terms.values())).sum(0), bound.log_prob)


def test_every_schedule_has_its_bound_tested():
    exported = {name for name in diffusion.__all__ if is_schedule(getattr(diffusion, name))}
    assert exported - {type(schedule).__name__ for schedule in SCHEDULES.values()} == {"NoiseSchedule", "DiscreteBeta"}


def is_schedule(thing):
    return isinstance(thing, type) and issubclass(thing, diffusion.NoiseSchedule)


def mean_diffusion(bound, denoiser, x, schedule, draws, seed=4):
    """Mean over the examples of what the diffusion loses, in nats, and its standard error."""
    terms = bound(denoiser, schedule, VectorDecoder(), x, None, draws, GeneratorSource(seed)).terms
    return -terms["diffusion"].mean().item(), terms["diffusion"].std().item() / math.sqrt(len(x))


def exact_loss(steps, schedule, path=None, variance=None, std=S):
    """Of Gaussian data in closed form: the sum over steps of the mean KL between q(z_s | z_t, x) and p(z_s | z_t)."""
    path = path or VariancePreserving()
    level = path.at(schedule, torch.arange(steps + 1, dtype=torch.float64) / steps)
    ahead = torch.expm1(level.logsnr[:-1] - level.logsnr[1:])[:, None]  # 1 / c - 1 of a step with c = 1 - exp(-width)
    snr = level.logsnr[1:, None].exp() * std**2
    noise_mse = snr / (1 + snr)
    if variance is None:
        return (0.5 * ahead * noise_mse).sum().item()
    ratio = level.sigma[:-1, None] ** 2 * ahead / (1 + ahead) / variance(level, ahead, noise_mse)
    return 0.5 * (ratio * ahead * noise_mse + ratio - 1 - ratio.log()).sum().item()


def test_excess_of_the_discrete_bound_falls_as_one_over_steps():
    """L_T - L_inf is a sum over steps of a Riemann error, halved when T doubles."""
    schedule, x = Cosine(logsnr_min=-8.0, logsnr_max=8.0), gaussian_data(1024, seed=3)
    limit = exact_loss(1_000_000, schedule)
    excess = [exact_loss(steps, schedule) - limit for steps in (512, 1024, 2048)]
    assert excess[0] / excess[1] == pytest.approx(2, rel=0.1)
    assert excess[1] / excess[2] == pytest.approx(2, rel=0.1)
    for steps in (16, 64):  # and the code lands on the exact sums
        mean, error = mean_diffusion(VariationalBound(steps), gaussian(), x, schedule, steps * 4)
        assert mean == pytest.approx(exact_loss(steps, schedule), abs=4 * error) and error < 0.02 * mean


# ---- reverse variances, and what is sampled -------------------------------------------------------------------------


def large(level, ahead, noise_mse):
    return level.sigma[1:, None] ** 2 * ahead / (1 + ahead)


def analytic(level, ahead, noise_mse):
    share = ahead / (1 + ahead)
    doubt = torch.exp(-level.logsnr[1:, None]) * noise_mse.mean(1, keepdim=True)
    return level.sigma[:-1, None] ** 2 * share + (level.alpha[:-1, None] * share) ** 2 * doubt


VARIANCES = [(FixedLarge(), large), (Analytic(), analytic)]


@pytest.mark.parametrize("path", [VariancePreserving(), VarianceExploding(), Linear()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("variance", "expected"), VARIANCES, ids=["large", "analytic"])
def test_the_bound_with_another_variance_is_the_sum_of_the_kl_divergences(variance, expected, path):
    schedule, steps, x = Cosine(logsnr_min=-8.0, logsnr_max=8.0), 8, gaussian_data(1500, seed=3)
    mean, error = mean_diffusion(VariationalBound(steps, variance), gaussian(path), x, schedule, 4 * steps)
    assert mean == pytest.approx(exact_loss(steps, schedule, path, expected), abs=4 * error)
    assert abs(mean - exact_loss(steps, schedule, path)) > 20 * error  # and not that of the small one


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_with_the_analytic_variance_few_steps_lose_nothing_on_equal_dimensions(steps):
    """p(z_s | z_t) is then the true posterior: the bound is that of continuous time, whatever the number of steps."""
    schedule, std = Cosine(logsnr_min=-7.0, logsnr_max=7.0), torch.full((3,), 0.8, dtype=torch.float64)
    x, denoiser = gaussian_data(4000, std=std), gaussian(std=std)
    limit = exact_loss(1_000_000, schedule, std=std)
    mean, error = mean_diffusion(VariationalBound(steps, Analytic()), denoiser, x, schedule, 4 * steps)
    assert mean == pytest.approx(limit, abs=4 * error + 1e-3)
    assert exact_loss(steps, schedule, std=std) > limit + 1


def test_of_one_variance_for_all_pixels_the_analytic_is_the_best():
    schedule = Cosine(logsnr_min=-8.0, logsnr_max=8.0)
    for steps in (2, 10, 50):
        best = exact_loss(steps, schedule, variance=analytic)
        assert best < min(exact_loss(steps, schedule), exact_loss(steps, schedule, variance=large))


class Sharing(GaussianDenoiser):
    """One that has learned where the log variance lies."""

    share = 0.0

    def __call__(self, x_t, logsnr, y=None):
        return super().__call__(x_t, logsnr, y)._replace(share=torch.full_like(x_t, self.share))


@pytest.mark.parametrize(("share", "end"), [(0.0, FixedSmall()), (1.0, FixedLarge())])
def test_a_learned_variance_at_its_ends_is_a_fixed_one(share, end):
    schedule, x, sharing = Cosine(), gaussian_data(50), Sharing(torch.zeros(3), torch.diag(S**2), VariancePreserving())
    sharing.share = share
    both = [
        VariationalBound(9, variance)(sharing, schedule, VectorDecoder(), x, None, 9, GeneratorSource(2))
        for variance in (LearnedRange(), end)
    ]
    torch.testing.assert_close(both[0].log_prob, both[1].log_prob, rtol=1e-4, atol=1e-3)
    middle = VariationalBound(9, LearnedRange())
    sharing.share = 0.5
    between = middle(sharing, schedule, VectorDecoder(), x, None, 9, GeneratorSource(2)).log_prob
    assert (between - both[0].log_prob).abs().min() > 0.01
    with pytest.raises(IncompatibleAxes, match="LearnedVariance"):
        middle.check(integers=False, knows=("variance",))
    middle.check(integers=False, knows=("share",))


class SmallButNotByName(FixedSmall):
    """Goes the long way, through the KL divergence of two Gaussians."""


def test_the_simple_form_is_the_kl_divergence():
    x = gaussian_data(40)
    simple, long = (
        VariationalBound(6, v)(gaussian(), Cosine(), VectorDecoder(), x, None, 6, GeneratorSource(2))
        for v in (None, SmallButNotByName())
    )
    torch.testing.assert_close(simple.log_prob, long.log_prob, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(simple.profile.density, long.profile.density, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variance", [FixedSmall(), FixedLarge(), Analytic()], ids=lambda v: type(v).__name__)
def test_the_sampled_bound_agrees_in_mean_and_has_the_larger_variance(variance):
    x, schedule, steps = gaussian_data(2000), Cosine(logsnr_min=-8.0, logsnr_max=8.0), 50
    closed, sampled = (
        VariationalBound(steps, variance, sampled=sampled)(
            gaussian(), schedule, VectorDecoder(), x, None, steps, GeneratorSource(2)
        )
        for sampled in (False, True)
    )
    difference = sampled.log_prob - closed.log_prob  # the same levels and noise: only z_s is drawn besides
    assert abs(difference.mean().item()) < 4 * difference.std().item() / math.sqrt(len(x))
    assert sampled.terms["diffusion"].var() > 1.2 * closed.terms["diffusion"].var()
    torch.testing.assert_close(sampled.profile.nats(), -sampled.terms["diffusion"], rtol=1e-5, atol=1e-4)
    assert torch.equal(sampled.terms["reconstruction"], closed.terms["reconstruction"])


def test_continuous_time_leaves_no_choice():
    for bad in (
        {"sampled": True},
        {"variance": FixedLarge()},
        {"steps": 0},
        {"steps": None, "variance": Analytic(), "sampled": True},
    ):
        with pytest.raises(UserError, match="step"):
            VariationalBound(**bad)
    bound = VariationalBound(7, LearnedRange(), DiscretizedGaussian(LearnedRange(), 7), sampled=True)
    assert describe(overridden(None, describe(bound))) == describe(bound)
    assert overridden(VariationalBound(), {"steps": 3, "sampled": True}).sampled


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
    decoder, path = LevelDecoder(4), VariancePreserving()
    seen = torch.repeat_interleave(torch.arange(4), (probabilities * 10).round().long()).reshape(-1, 1, 1, 1)
    denoiser, x = TrainingSetDenoiser(decoder.encode(seen), path), seen.repeat(200, 1, 1, 1).to(torch.uint8)
    bound = VariationalBound()(denoiser, Cosine(), decoder, x, None, 64, GeneratorSource(5))
    entropy = -(probabilities * probabilities.log()).sum().item()
    mean, error = -bound.log_prob.mean().item(), bound.log_prob.std().item() / math.sqrt(len(x))
    assert bound.kind == "elbo"
    assert entropy - 4 * error < mean < entropy + 0.02 + 4 * error


BOUNDS = [
    VariationalBound(),
    VariationalBound(5),
    VariationalBound(5, FixedLarge()),
    VariationalBound(5, Analytic()),
    VariationalBound(5, Analytic(), sampled=True),
    VariationalBound(None, reconstruction=DiscretizedGaussian()),
    VariationalBound(5, reconstruction=DiscretizedGaussian(FixedSmall(), 5)),
    VariationalBound(5, Analytic(), NetworkDecoder()),
]


@pytest.mark.parametrize("bound", BOUNDS, ids=range(len(BOUNDS)))
@pytest.mark.parametrize(("levels", "num_dims"), [(4, 1), (2, 3), (32, 1)])
@pytest.mark.parametrize("trained", [True, False])
def test_bounds_of_all_there_is_sum_to_less_than_one(bound, levels, num_dims, trained):
    """Each lies below the model's own probability, and these sum to 1: for a perfect denoiser and for one that errs."""
    decoder, path = LevelDecoder(levels), VariancePreserving()
    x = torch.tensor(list(itertools.product(range(levels), repeat=num_dims)), dtype=torch.uint8)
    probability = torch.linspace(1, 3, len(x), dtype=torch.float64)
    probability /= probability.sum()
    seen = torch.repeat_interleave(x, (probability * 512).round().long(), 0)
    denoiser = TrainingSetDenoiser(decoder.encode(seen if trained else seen[:8]).float(), path)
    schedule, repeats = Cosine(logsnr_min=-9.0, logsnr_max=6.0), 1500 // len(x)
    found = bound(denoiser, schedule, decoder, x.repeat(repeats, 1), None, 10, GeneratorSource(3))
    drawn = found.log_prob.reshape(repeats, len(x))
    mean, error = drawn.mean(0), drawn.std(0) / math.sqrt(repeats)
    total, deviation = mean.exp().sum().item(), (mean.exp() * error).square().sum().sqrt().item()
    assert found.kind == "elbo"
    assert total < 1 + 4 * deviation + 1e-3
    if trained:  # then its mean over the data is below minus their entropy, and not far in continuous time
        gap = ((mean - probability.log()) * probability).sum().item()
        slack = 4 * (error * probability).square().sum().sqrt().item()
        assert gap < slack + 0.02 and (gap > -0.3 - slack or bound.steps)


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
