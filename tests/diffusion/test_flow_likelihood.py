"""Laws of the probability-flow likelihood, on densities and probabilities that are known exactly."""

import math

import pytest
import torch

from lightning_gen.diffusion.decoders import LevelDecoder, VectorDecoder
from lightning_gen.diffusion.denoisers import GaussianDenoiser, NetworkDenoiser, TrainingSetDenoiser
from lightning_gen.diffusion.flow_likelihood import (
    ExactDivergence,
    GaussianDequantization,
    Hutchinson,
    ProbabilityFlowLikelihood,
    UniformDequantization,
)
from lightning_gen.diffusion.parameterizations import VPrediction
from lightning_gen.diffusion.paths import Linear, SubVariancePreserving, VarianceExploding, VariancePreserving
from lightning_gen.diffusion.schedules import Cosine, FlowMatching, LinearBeta, LinearLogSNR
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource
from lightning_gen.specs import describe, overridden

PATHS = [VariancePreserving(), VarianceExploding(), SubVariancePreserving(), Linear()]
MEAN = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
MIX = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.6, 0.0], [-0.3, 0.2, 0.9]], dtype=torch.float64)
COVARIANCE = MIX @ MIX.T
BIMODAL = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.2, -0.8]], dtype=torch.float64)


class Doubled(VectorDecoder):
    """In float64, so that the data's rounding does not show."""

    def encode(self, x):
        return x.double()


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measure(estimator, denoiser, x, schedule=None, decoder=None, draws=1, rng=None, y=None):
    rng = rng or IndexedSource(3, range(len(x)))
    with torch.no_grad():
        return estimator(denoiser, schedule or Cosine(), decoder or Doubled(), x, y, draws, rng)


def exact(tolerance=1e-8):
    return ProbabilityFlowLikelihood(ExactDivergence(), rtol=tolerance, atol=tolerance)


def gaussian_model(x, schedule, path):
    """log p of x where the prior is carried to t = 0 by the flow m_s + R (x - m_t), R = C_0^(1/2) C_1^(-1/2)."""
    first, last = (path.at(schedule, torch.tensor(t, dtype=torch.float64)) for t in (0.0, 1.0))
    values, vectors = torch.linalg.eigh(COVARIANCE)
    std_first, std_last = ((each.alpha**2 * values + each.sigma**2).sqrt() for each in (first, last))
    noise = last.alpha * MEAN @ vectors + (x - MEAN) @ vectors * first.alpha * std_last / std_first
    prior = torch.distributions.Normal(0.0, path.prior_std(last)).log_prob(noise).sum(1)
    return prior + (std_last / std_first).log().sum() + 3 * first.alpha.log()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("schedule", [Cosine(-4.0, 9.0), LinearBeta(), FlowMatching(logsnr_min=-9.0, logsnr_max=5.0)])
def test_it_is_exact_for_gaussian_data(path, schedule):
    x = MEAN + normals(8, 3) @ MIX.T
    found = measure(exact(), GaussianDenoiser(MEAN, COVARIANCE, path), x, schedule)
    assert found.kind == "density-ode" and found.terms.keys() == {"prior", "divergence"} and found.num_dims == 3
    torch.testing.assert_close(found.log_prob, gaussian_model(x, schedule, path), rtol=0, atol=1e-6)


def test_between_wide_ends_it_is_the_density_of_the_data():
    x = MEAN + normals(8, 3) @ MIX.T
    found = measure(exact(), GaussianDenoiser(MEAN, COVARIANCE, VariancePreserving()), x, LinearLogSNR(-22.0, 22.0))
    own = torch.distributions.MultivariateNormal(MEAN, COVARIANCE).log_prob(x)
    torch.testing.assert_close(found.log_prob, own, rtol=0, atol=1e-4)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_of_a_mixture_it_is_the_density_with_the_noise_of_the_end(path):
    """Of three points: three Gaussians of width sigma_0 / alpha_0."""
    width = math.exp(-0.5 * 2.0)
    x = BIMODAL[torch.arange(30) % 3] + width * normals(30, 2, seed=1)
    found = measure(exact(1e-7), TrainingSetDenoiser(BIMODAL, path), x, LinearLogSNR(-26.0, 2.0))
    one = torch.distributions.Normal(BIMODAL, width).log_prob(x[:, None]).sum(-1)
    torch.testing.assert_close(found.log_prob, one.logsumexp(1) - math.log(3), rtol=0, atol=5e-5)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_hutchinson_has_the_mean_of_the_exact_divergence(distribution):
    """Over draws; and the divergence is all that it changes."""
    x = torch.cat([BIMODAL, 0.5 * BIMODAL]).repeat(64, 1)
    denoiser, schedule = TrainingSetDenoiser(BIMODAL, VariancePreserving()), Cosine(-9.0, 3.0)
    truth = measure(exact(1e-5), denoiser, x[:6], schedule)
    found = measure(ProbabilityFlowLikelihood(Hutchinson(distribution)), denoiser, x, schedule)
    drawn = found.terms["divergence"].reshape(64, 6)
    error = drawn.std(0) / 8
    assert error.min() > 1e-3  # it does estimate
    assert ((drawn.mean(0) - truth.terms["divergence"]).abs() < 4 * error).all()
    prior = truth.terms["prior"].repeat(64)
    torch.testing.assert_close(found.terms["prior"], prior, rtol=0, atol=2e-3)


def test_the_mean_over_draws_is_of_as_many_probes():
    x, denoiser = BIMODAL + 0.1, TrainingSetDenoiser(BIMODAL, VariancePreserving())
    estimator, schedule = ProbabilityFlowLikelihood(Hutchinson()), Cosine(-6.0, 3.0)
    one, three = (measure(estimator, denoiser, x, schedule, draws=draws).log_prob for draws in (1, 3))
    rng = IndexedSource(3, range(3))
    singles = []
    for k in range(3):  # the noise of draw k is the source's fork ("draw", k)
        source = type("Forked", (), {"fork": lambda self, *keys, k=k: rng.fork("draw", k)})()
        singles.append(measure(estimator, denoiser, x, schedule, rng=source).log_prob)
    torch.testing.assert_close(singles[0], one)
    torch.testing.assert_close(torch.stack(singles).mean(0), three)
    assert (singles[0] - singles[1]).abs().max() > 1e-4


def test_the_probe_is_drawn_once_a_trajectory():
    drawn = []

    class Watched(Hutchinson):
        def probe(self, u, rng):
            drawn.append(u.shape)
            return super().probe(u, rng)

    estimator = ProbabilityFlowLikelihood(Watched())
    measure(estimator, TrainingSetDenoiser(BIMODAL, VariancePreserving()), BIMODAL, draws=2)
    assert drawn == [BIMODAL.shape] * 2


def test_where_nothing_is_drawn_one_flow_is_enough():
    calls = []

    class Counted(TrainingSetDenoiser):
        def __call__(self, *args):
            calls.append(1)
            return super().__call__(*args)

    denoiser = Counted(BIMODAL, VariancePreserving())
    one = measure(exact(1e-4), denoiser, BIMODAL)
    once = len(calls)
    assert torch.equal(measure(exact(1e-4), denoiser, BIMODAL, draws=16).log_prob, one.log_prob)
    assert len(calls) == 2 * once


def test_agrees_with_torchdiffeq_in_t():
    """The same change of variables in t and x, their integrator, one example at a time."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    path, schedule = VariancePreserving(), LinearBeta(logsnr_min=-7.0, logsnr_max=4.0)
    denoiser, x = TrainingSetDenoiser(BIMODAL, path), BIMODAL[:2] + 0.2 * normals(2, 2)
    first, last = (path.at(schedule, torch.tensor(t, dtype=torch.float64)) for t in (0.0, 1.0))

    def velocity(x_t, level):
        prediction = denoiser(x_t, level.logsnr)
        return level.dalpha_dt * prediction.x0 + level.dsigma_dt * prediction.eps

    def field(t, state):
        level = path.at(schedule, t)
        jacobian = torch.func.jacrev(lambda x_t: velocity(x_t[None], level)[0])(state[0])
        return velocity(state[0][None], level)[0], jacobian.trace()

    for row, found in zip(x, measure(exact(), denoiser, x, schedule).log_prob):
        state = (first.alpha * row, torch.zeros((), dtype=torch.float64))
        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        end, volume = (part[-1] for part in torchdiffeq.odeint(field, state, times, rtol=1e-7, atol=1e-7))
        prior = torch.distributions.Normal(0.0, path.prior_std(last)).log_prob(end).sum()
        assert found.item() == pytest.approx((prior + volume + 2 * first.alpha.log()).item(), abs=1e-5)


# ---- integers -----------------------------------------------------------------------------------------------------


def pixels(levels, probabilities):
    """A denoiser of one pixel whose levels have these probabilities (in percent), and the levels themselves."""
    x = torch.repeat_interleave(torch.arange(levels), torch.tensor(probabilities))
    denoiser = TrainingSetDenoiser(LevelDecoder(levels).encode(x.reshape(-1, 1)).double(), VariancePreserving())
    return denoiser, torch.arange(levels, dtype=torch.uint8).reshape(-1, 1)


@pytest.mark.parametrize("logsnr_max", [2.0, 4.0])
@pytest.mark.parametrize("probabilities", [[70, 30], [10, 20, 30, 40]])
def test_enumerated_probabilities_sum_to_one_and_bounds_lie_below(probabilities, logsnr_max):
    """P(x) = the integral of p_ode(z_0) p(x | z_0), by quadrature over the pixel; the bound's mean is below its logarithm."""
    levels = len(probabilities)
    decoder, schedule = LevelDecoder(levels), LinearLogSNR(-18.0, logsnr_max)
    denoiser, x = pixels(levels, probabilities)
    grid = torch.linspace(-5, 5, 401, dtype=torch.float64)[:, None]
    density = measure(exact(1e-6), denoiser, grid, schedule).log_prob.exp() * (grid[1] - grid[0])
    assert density.sum().item() == pytest.approx(1, abs=1e-3)
    first = denoiser.path.at(schedule, torch.zeros((), dtype=torch.float64))
    given = [decoder.log_prob(one.expand(401, 1), first.alpha * grid, first) for one in x]
    probability = (torch.stack(given).exp() * density).sum(1)
    assert probability.sum().item() == pytest.approx(1, abs=1e-3)

    many = x.repeat(400, 1)
    estimator = ProbabilityFlowLikelihood(ExactDivergence(), rtol=1e-4, atol=1e-4)
    found = measure(estimator, denoiser, many, schedule, decoder)
    assert found.kind == "ode" and found.terms.keys() == {"prior", "divergence", "dequantization"}
    drawn = found.log_prob.reshape(400, levels)
    bound, error = drawn.mean(0), drawn.std(0) / 20
    assert (bound < probability.log() + 4 * error + 1e-3).all() and (bound > probability.log() - 0.35).all()
    # importance sampling with the same draws is unbiased: the log-mean-exp comes to log P(x)
    weights = (drawn - probability.log()).exp()
    assert ((weights.mean(0) - 1).abs() < 4 * weights.std(0) / 20 + 1e-3).all()


def test_gaussian_dequantisation_of_levels_that_cannot_be_confused_is_tight():
    denoiser, x = pixels(2, [70, 30])
    found = measure(exact(1e-6), denoiser, x.repeat(50, 1), LinearLogSNR(-18.0, 6.0), LevelDecoder(2))
    expected = torch.tensor([0.7, 0.3], dtype=torch.float64).log().repeat(50)
    torch.testing.assert_close(found.log_prob, expected, rtol=0, atol=1e-3)


def test_uniform_dequantisation_costs_what_a_flat_density_says():
    """A model whose density is wide over the levels: p(x) is about the density times the bin, and the bound is below."""
    levels, std = 64, 0.4
    variance = torch.full((1, 1), std**2, dtype=torch.float64)
    denoiser = GaussianDenoiser(torch.zeros(1, dtype=torch.float64), variance, VariancePreserving())
    x = torch.arange(levels, dtype=torch.uint8).reshape(-1, 1).repeat(32, 1)
    estimator = ProbabilityFlowLikelihood(ExactDivergence(), UniformDequantization(), rtol=1e-4, atol=1e-4)
    found = measure(estimator, denoiser, x, LinearLogSNR(-18.0, 12.0), LevelDecoder(levels))
    bins = torch.linspace(-1, 1, levels).double()[:, None] + torch.tensor([-1, 1]) / (levels - 1)
    cdf = torch.distributions.Normal(0.0, std).cdf(bins)
    drawn = found.log_prob.reshape(32, levels)
    torch.testing.assert_close(drawn.mean(0), (cdf[:, 1] - cdf[:, 0]).log(), rtol=0, atol=0.06)
    assert drawn.std(0).max() < 0.2
    expected = torch.full_like(found.log_prob, math.log(2 / (levels - 1)))
    torch.testing.assert_close(found.terms["dequantization"], expected)


# ---- a network ----------------------------------------------------------------------------------------------------


def network_denoiser(conditioner=None):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
            for p in self.parameters():
                torch.nn.init.normal_(p, std=0.4, generator=torch.Generator().manual_seed(p.numel()))

        def forward(self, x, logsnr, cond):
            return self.layers(torch.cat([x, logsnr[:, None] / 10], 1)) + (0 if cond is None else cond)

    return NetworkDenoiser(Network(), VPrediction(), Cosine(), VariancePreserving(), conditioner)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_finds_its_gradients_where_there_are_none_and_leaves_none(mode):
    class Table(torch.nn.Embedding):
        def forward(self, y, drop):
            return super().forward(y)

    denoiser = network_denoiser(Table(2, 3))
    with mode():
        x, y = normals(5, 3).float(), torch.tensor([0, 1, 0, 1, 1])
        estimator = ProbabilityFlowLikelihood(rtol=1e-4, atol=1e-4)
        found = estimator(denoiser, Cosine(), VectorDecoder(), x, y, 1, GeneratorSource(0))
    assert found.log_prob.isfinite().all() and not found.log_prob.requires_grad
    assert all(p.grad is None for p in denoiser.network.parameters())
    with mode():
        others = estimator(denoiser, Cosine(), VectorDecoder(), x, 1 - y, 1, GeneratorSource(0))
    assert (found.log_prob - others.log_prob).abs().min() > 1e-3


def test_of_a_network_the_two_divergences_agree():
    x = normals(4, 3).float().repeat(100, 1)
    denoiser = network_denoiser()
    truth = measure(exact(1e-4), denoiser, x[:4], decoder=VectorDecoder()).log_prob
    estimator = ProbabilityFlowLikelihood(rtol=1e-4, atol=1e-4)
    drawn = measure(estimator, denoiser, x, decoder=VectorDecoder()).log_prob.reshape(100, 4)
    assert ((drawn.mean(0) - truth).abs() < 4 * drawn.std(0) / 10 + 1e-3).all()


@pytest.mark.parametrize("dequantization", [GaussianDequantization(), UniformDequantization()])
def test_an_example_does_not_depend_on_its_batch(dequantization):
    denoiser = network_denoiser()
    x = torch.randint(8, (70, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    estimator = ProbabilityFlowLikelihood(dequantization=dequantization)

    def of(rows):
        return measure(estimator, denoiser, x[rows], decoder=LevelDecoder(8), rng=IndexedSource(3, rows)).log_prob

    parts = torch.cat([of(range(0, 1)), of(range(1, 65)), of(range(65, 70))])
    torch.testing.assert_close(parts, of(range(70)), rtol=0, atol=1e-4)


def test_densities_of_points_of_the_plane_integrate_to_one():
    """The divergence of few dimensions is exact by default: the exponential of an estimate would be too high."""
    covariance = torch.tensor([[1.0, 0.95], [0.95, 1.0]], dtype=torch.float64)
    denoiser = GaussianDenoiser(torch.zeros(2, dtype=torch.float64), covariance, VariancePreserving())
    side = torch.linspace(-4, 4, 41, dtype=torch.float64)
    x = torch.cartesian_prod(side, side)
    found = measure(ProbabilityFlowLikelihood(rtol=1e-4, atol=1e-4), denoiser, x)
    assert found.log_prob.exp().sum().item() * 0.2**2 == pytest.approx(1, abs=2e-2)
    assert isinstance(ProbabilityFlowLikelihood().divergence.for_dims(4), Hutchinson)
    assert Hutchinson().for_dims(2).random  # where it is asked for


def test_settings_are_primitives_and_bad_ones_are_refused():
    estimator = ProbabilityFlowLikelihood(Hutchinson("gaussian"), UniformDequantization(), rtol=1e-3)
    spec = describe(estimator)
    assert describe(overridden(None, spec)) == spec and spec["init_args"]["rtol"] == 1e-3
    changed = overridden(ProbabilityFlowLikelihood(), {"divergence": {"distribution": "gaussian"}, "atol": 1e-2})
    assert changed.divergence.distribution == "gaussian" and changed.atol == 1e-2
    for bad in (
        lambda: Hutchinson("cauchy"),
        lambda: ProbabilityFlowLikelihood(rtol=-1.0),
        lambda: measure(estimator, TrainingSetDenoiser(BIMODAL, VariancePreserving()), BIMODAL, draws=0),
    ):
        with pytest.raises(UserError):
            bad()
