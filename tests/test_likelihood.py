import io
import math
import weakref

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.likelihood import ImportanceWeighted, Likelihood, Profile, importance_weighted
from lightning_gen.random_source import IndexedSource

KINDS = ["exact", "elbo", "iwae-1", "iwae-5000", "dequantized", "ode", "density", "density-elbo", "density-iwae-5",
         "density-ode"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_the_contract_is_known(kind):
    assert Likelihood(torch.zeros(2), kind, 1).kind == kind


@pytest.mark.parametrize("kind", ["", "ELBO", "iwae", "iwae-", "iwae-k", "exactly", "elbo ", "density-exact", "bpd"])
def test_unknown_kinds_are_refused(kind):
    with pytest.raises(ValueError, match="unknown likelihood kind"):
        Likelihood(torch.zeros(2), kind, 1)


def test_terms_sum_to_log_prob_without_the_rounding_of_their_dtype():
    # in float32, and in bfloat16 more so, the small term would vanish beside the large one
    terms = {"a": torch.full((3,), 1e4), "b": torch.full((3,), 1e-4), "c": torch.tensor([1.0, 2.0, 3.0]).bfloat16()}
    likelihood = Likelihood.from_terms(terms, "elbo", 4)
    assert likelihood.log_prob.dtype == torch.float64
    assert torch.equal(sum(term.double() for term in terms.values()), likelihood.log_prob)
    assert torch.equal(sum(likelihood.terms.values()), likelihood.log_prob)
    assert likelihood.terms.keys() == terms.keys()


@pytest.mark.parametrize("levels", [2, 17, 256, 65536])
@pytest.mark.parametrize("num_dims", [1, 784])
def test_the_uniform_law_costs_log2_of_its_levels(levels, num_dims):
    uniform = Likelihood(torch.full((5,), -num_dims * math.log(levels), dtype=torch.float64), "exact", num_dims)
    torch.testing.assert_close(uniform.bits_per_dim(), torch.full((5,), math.log2(levels), dtype=torch.float64))


def test_terms_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="term 'prior' has shape"):
        Likelihood(torch.zeros(3), "elbo", 1, {"prior": torch.zeros(())})


def test_terms_that_do_not_sum_to_log_prob_are_refused():
    with pytest.raises(ValueError, match="sum"):
        Likelihood(torch.zeros(3), "elbo", 1, {"prior": torch.ones(3)})


def test_rounding_and_divergence_are_not_refused():
    prior, logdet = torch.tensor([-1e4, 1.0]), torch.tensor([1e4 + 1, 2.0])
    Likelihood(prior + logdet + torch.tensor([1e-3, 1e-6]), "exact", 1, {"prior": prior, "logdet": logdet})
    broken = torch.tensor([math.nan, math.inf, -math.inf])
    Likelihood(broken, "elbo", 1, {"diffusion": broken, "prior": torch.zeros(3)})
    assert Likelihood.from_terms({"a": broken, "b": -broken}, "elbo", 1).log_prob.isnan().all()


# ---- parts, and what is kept of them ------------------------------------------------------------------------------


def measured(num, seed=0, draws=3):
    generator = torch.Generator().manual_seed(seed)
    columns = torch.rand(4, num, draws, generator=generator)
    terms = {
        "diffusion": torch.randn(num, generator=generator, dtype=torch.float64) / 3,
        "prior": torch.randn(num, generator=generator),
    }
    return Likelihood.from_terms(terms, "elbo", 5, Profile(*columns, ends=(-9.1, 7.3)))


def same(a, b):
    """Equal in every bit, dtypes included."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize(
    "likelihood",
    [
        measured(4),
        Likelihood(torch.tensor([0.1, math.nan, -math.inf]), "exact", 2),
        Likelihood.from_terms({"a": torch.ones(2).bfloat16()}, "density", 1),
    ],
    ids=["with a profile", "without terms", "with terms"],
)
def test_a_saved_likelihood_comes_back_bit_for_bit(likelihood):
    file = io.BytesIO()
    torch.save(likelihood.state(), file)
    file.seek(0)
    back = Likelihood.from_state(torch.load(file, weights_only=True))
    assert same(back.state(), likelihood.state())
    assert (back.profile is None) == (likelihood.profile is None)


def test_joined_parts_are_the_whole_in_their_order():
    a, b, c = measured(3, seed=1), measured(0, seed=2), measured(2, seed=3)
    whole = Likelihood.concatenated([a, b, c])
    assert (len(a), len(b), len(whole)) == (3, 0, 5)
    for part, rows in ((a, slice(0, 3)), (c, slice(3, 5))):
        assert torch.equal(whole.log_prob[rows], part.log_prob)
        assert all(torch.equal(whole.terms[name][rows], part.terms[name]) for name in part.terms)
        for name in ("logsnr", "density", "weight", "width"):
            assert torch.equal(getattr(whole.profile, name)[rows], getattr(part.profile, name))
    assert whole.profile.ends == a.profile.ends and whole.kind == "elbo" and whole.num_dims == 5


def test_parts_that_were_not_measured_alike_are_not_joined():
    exact = Likelihood(torch.zeros(2), "exact", 5)
    for others in ([], [exact, Likelihood(torch.zeros(2), "ode", 5)], [exact, Likelihood(torch.zeros(2), "exact", 6)]):
        with pytest.raises(ValueError, match="one kind"):
            Likelihood.concatenated(others)
    with pytest.raises(ValueError, match="number of draws"):
        Likelihood.concatenated([measured(2), measured(2, draws=4)])


def test_a_profile_of_other_shapes_is_refused():
    column = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="one shape"):
        Profile(column, column, column, torch.zeros(3, 1), (0, 1))
    with pytest.raises(ValueError, match="of 3 examples beside 2"):
        Likelihood(torch.zeros(2), "elbo", 1, profile=Profile(column, column, column, column, (0, 1)))


# ---- importance weighting -----------------------------------------------------------------------------------------


class LinearGaussian:
    """z ~ N(0, I_2), x | z ~ N(W z + b, s^2 I_3), with q(z | x) the posterior, moved by `shift` and widened."""

    W = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.2, -1.1]], dtype=torch.float64)
    b = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    s = torch.tensor(0.6, dtype=torch.float64)
    standard = torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), 1.0)

    def __init__(self, num=400, shift=0.0, widened=1.0):
        normal = torch.distributions.MultivariateNormal
        self.marginal = normal(self.b, self.W @ self.W.T + self.s**2 * torch.eye(3, dtype=torch.float64))
        generator = torch.Generator().manual_seed(7)
        z, noise = (torch.randn(num, d, generator=generator, dtype=torch.float64) for d in (2, 3))
        self.x = z @ self.W.T + self.b + self.s * noise
        precision = torch.eye(2) + self.W.T @ self.W / self.s**2
        mean = torch.linalg.solve(precision, (self.x - self.b) @ self.W / self.s**2, left=False)
        self.q = normal(mean + shift, torch.linalg.inv(precision) * widened**2)
        self.rng = IndexedSource(3, range(num))

    def log_prob(self):
        return self.marginal.log_prob(self.x)

    def log_weights(self, num, rng):
        z = self.q.mean + rng.normal((num * len(self.x), 2)).double().reshape(num, -1, 2) @ self.q.scale_tril.mT[0]
        decoded = torch.distributions.Normal(z @ self.W.T + self.b, self.s)
        return self.standard.log_prob(z).sum(-1) + decoded.log_prob(self.x).sum(-1) - self.q.log_prob(z)

    def bound(self, samples, draws=1, at_once=8):
        return ImportanceWeighted(samples, at_once)(self.log_weights, 3, draws, self.rng, integers=False)


def exceeds(a, b):
    """The mean of a is above that of b by more than 4 standard errors of their paired difference."""
    difference = a - b
    return difference.mean() > 4 * difference.std() / math.sqrt(len(difference))


def test_the_bound_rises_from_the_elbo_to_log_p():
    model = LinearGaussian(num=1500, shift=0.8, widened=1.8)
    elbo = torch.stack([model.log_weights(1, model.rng.fork("draw", k))[0] for k in range(50)]).mean(0)
    five, fifty = model.bound(5, draws=10), model.bound(50)
    assert exceeds(five.log_prob, elbo) and exceeds(fifty.log_prob, five.log_prob)
    assert exceeds(model.log_prob(), fifty.log_prob)
    assert fifty.kind == "density-iwae-50" and fifty.num_dims == 3


def test_one_sample_is_the_elbo():
    model = LinearGaussian(shift=0.4, widened=1.5)
    weights = torch.stack([model.log_weights(1, model.rng.fork("draw", k))[0] for k in range(3)])
    torch.testing.assert_close(model.bound(1).log_prob, weights[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(model.bound(1, draws=3).log_prob, weights.mean(0), rtol=1e-13, atol=1e-13)


def test_many_samples_come_to_log_p():
    model = LinearGaussian(num=64, shift=0.4, widened=1.5)
    error = model.bound(3000, at_once=100).log_prob - model.log_prob()
    assert error.abs().max() < 0.2
    assert abs(error.mean()) < 4 * error.std() / 8 + 2e-3


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_the_exact_posterior_gives_log_p_without_variance(samples):
    model = LinearGaussian()
    torch.testing.assert_close(model.bound(samples).log_prob, model.log_prob(), rtol=1e-12, atol=1e-12)


def test_samples_at_once_and_batches_change_nothing():
    model = LinearGaussian(num=70, shift=0.3, widened=1.4)
    whole = model.bound(7, draws=2, at_once=14)
    for at_once in (1, 3, 100):
        torch.testing.assert_close(model.bound(7, draws=2, at_once=at_once).log_prob, whole.log_prob)
    part = LinearGaussian(num=70, shift=0.3, widened=1.4)
    part.x, part.rng = part.x[60:], IndexedSource(3, range(60, 70))
    part.q = torch.distributions.MultivariateNormal(part.q.mean[60:], part.q.covariance_matrix[60:])
    torch.testing.assert_close(part.bound(7, draws=2).log_prob, whole.log_prob[60:])


def test_samples_stream():
    """From an iterator the bound is that of the whole [K, B], and no sample outlives its turn."""
    log_weights = torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5 - 900
    living = []

    def rows():
        for row in log_weights:
            row = row.clone()
            living.append(weakref.ref(row))
            assert sum(ref() is not None for ref in living) <= 2
            yield row

    streamed = importance_weighted(rows(), 4)
    assert torch.equal(streamed.log_prob, importance_weighted(log_weights, 4).log_prob)
    expected = log_weights.logsumexp(0) - math.log(500)
    torch.testing.assert_close(streamed.log_prob, expected, rtol=1e-13, atol=0)
    assert streamed.kind == "iwae-500"
    torch.testing.assert_close(streamed.bits_per_dim(), -expected / 4 / math.log(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_ends_at_the_samples(dtype):
    log_weights = (torch.randn(2000, 5, generator=torch.Generator().manual_seed(1)) * 2 - 90).to(dtype)
    expected = log_weights.double().exp().mean(0).log()
    torch.testing.assert_close(importance_weighted(log_weights, 1).log_prob, expected, rtol=1e-12, atol=0)


def test_samples_of_no_weight_count_and_diverged_ones_show():
    zero = torch.tensor([-math.inf, -math.inf, 0.0, math.nan])
    bound = importance_weighted([zero, torch.tensor([0.0, -math.inf, 0.0, 0.0])], 1).log_prob
    expected = torch.tensor([-math.log(2), -math.inf, 0.0, math.nan], dtype=torch.float64)
    torch.testing.assert_close(bound, expected, equal_nan=True)


def test_what_is_no_sample_is_refused():
    for rows in ([], torch.zeros(3), [torch.zeros(2), torch.zeros(3)], torch.zeros(2, 3, 4)):
        with pytest.raises(ValueError, match="sample"):
            importance_weighted(rows, 1)
    for samples, at_once in ((0, 1), (1, 0)):
        with pytest.raises(UserError, match="samples and at_once of at least 1"):
            ImportanceWeighted(samples, at_once)
    with pytest.raises(UserError, match="at least one draw"):
        LinearGaussian(num=2).bound(1, draws=0)
    with pytest.raises(ValueError, match="2 samples"):
        ImportanceWeighted(2)(lambda num, rng: rng.normal((3,)), 1, 1, IndexedSource(0, range(3)))


def test_every_kind_of_draw_is_that_of_its_sample():
    """Several samples at once draw what each would alone, from a source named by its number."""

    def draws(rng, rows):
        further = rng.fork("further").uniform((rows,), dtype=torch.float64)
        return [rng.normal((rows, 2)), rng.uniform((rows,)), rng.integers(9, (rows,)), further]

    seen = []

    def log_weights(num, rng):
        seen.append([draw.reshape(num, 3, -1) for draw in draws(rng, num * 3)])
        return torch.zeros(num, 3)

    ImportanceWeighted(4, at_once=3)(log_weights, 1, 1, IndexedSource(0, range(3)))
    assert [len(part[0]) for part in seen] == [3, 1]
    for k in range(4):
        alone = draws(IndexedSource(0, range(3)).fork("draw", k), 3)
        assert all(torch.equal(kind[k % 3], one.reshape(3, -1)) for kind, one in zip(seen[k // 3], alone))
