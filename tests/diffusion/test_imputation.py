"""Laws of imputation, on correlated Gaussian data: what is missing given what is known has a closed form."""

import pytest
import torch

from lightning_gen.diffusion import (
    DDIM,
    AdaptiveSampler,
    Ancestral,
    ClassifierFree,
    Cosine,
    Denoiser,
    DiffusionSampler,
    DPMSolverPP,
    GaussianDenoiser,
    Heun,
    Linear,
    UniformLogSNR,
    UniPC,
    VarianceExploding,
    VariancePreserving,
)
from lightning_gen.diffusion.decoders import LevelDecoder, VectorDecoder
from lightning_gen.diffusion.imputation import Known, ReconstructionGuidance, Replacement, renoised
from lightning_gen.errors import NonFiniteSamples, UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource

MEAN = torch.tensor([0.5, -0.3, 0.2, 0.1], dtype=torch.float64)
FACTOR = torch.tensor([[0.9, 0, 0, 0], [0.5, 0.5, 0, 0], [0.3, -0.6, 0.5, 0], [-0.6, 0.2, 0.1, 0.4]]).double()
COVARIANCE = FACTOR @ FACTOR.T
KNOWN = torch.tensor([True, False, True, False])
X = torch.tensor([1.3, torch.nan, -0.6, torch.inf])  # what stands in the holes has no influence


def conditional():
    """Mean and covariance of the holes given the rest."""
    holes = ~KNOWN
    gain = COVARIANCE[holes][:, KNOWN] @ torch.linalg.inv(COVARIANCE[KNOWN][:, KNOWN])
    mean = MEAN[holes] + gain @ (X[KNOWN].double() - MEAN[KNOWN])
    return mean, COVARIANCE[holes][:, holes] - gain @ COVARIANCE[KNOWN][:, holes]


def impute(imputer, num=2000, path=None, rng=None, y=None, denoiser=None):
    denoiser = denoiser or GaussianDenoiser(MEAN, COVARIANCE, path or VariancePreserving())
    with torch.no_grad():
        x = imputer(denoiser, Cosine(), VectorDecoder(), X.expand(num, 4), KNOWN, y, rng or GeneratorSource(0))
    assert torch.equal(x[:, KNOWN], X[KNOWN].expand(num, 2))  # untouched, whichever the imputer
    return x


def errors(imputer, **kwargs):
    """Largest errors of the mean and of the covariance of the holes."""
    found, (mean, covariance) = impute(imputer, **kwargs)[:, ~KNOWN].double(), conditional()
    return (found.mean(0) - mean).abs().max().item(), (torch.cov(found.T) - covariance).abs().max().item()


def sampler(steps=40, solver=None):
    return DiffusionSampler(solver or Ancestral(), steps, UniformLogSNR())


def test_the_law_is_worth_testing():
    """The conditional mean is far from the plain mean, and the conditional spread from the plain one."""
    mean, covariance = conditional()
    assert (mean - MEAN[~KNOWN]).abs().min() > 0.4
    assert (covariance.diag() < 0.6 * COVARIANCE.diag()[~KNOWN]).all()


def test_resampling_takes_plain_replacement_to_the_conditional_distribution():
    means = [errors(Replacement(sampler(), resamplings=r))[0] for r in (1, 3, 12)]
    assert means[0] > 0.15  # plain replacement is biased
    assert means[1] < 0.6 * means[0] and means[2] < 0.04


def test_longer_stretches_get_there_too():
    once, jumping = (errors(Replacement(sampler(60), resamplings=r, jump=7)) for r in (1, 12))
    assert jumping[0] < 0.06 < 0.15 < once[0] and jumping[1] < 0.04


@pytest.mark.parametrize("path", [Linear(), VarianceExploding()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    "make", [lambda s: Replacement(s, resamplings=12), lambda s: ReconstructionGuidance(s, data_std=0.8)]
)
def test_the_path_is_only_a_scale(path, make):
    assert errors(make(sampler()), path=path)[0] < 0.07


@pytest.mark.parametrize("replace", [True, False])
def test_reconstruction_guidance_is_close_in_mean_at_scale_one(replace):
    """And closer with the data's spread than with an infinite one, Ho et al.'s; without guidance it is far off."""
    close, infinite, none = (
        errors(ReconstructionGuidance(sampler(100), scale, std, replace))[0]
        for scale, std in ((1.0, 0.6), (1.0, 1e3), (0.0, 0.6))
    )
    assert close < 0.05 and 2 * close < infinite < 0.6 * none


def test_reconstruction_guidance_of_independent_dimensions():
    """What is known says nothing of the holes, which are as without it; what is known is reached by guidance alone."""
    own = GaussianDenoiser(torch.zeros(4), 0.49 * torch.eye(4), VariancePreserving())
    known = Known(torch.where(KNOWN, X, 0.0).expand(50, 4), KNOWN.expand(50, 4))
    informed = ReconstructionGuidance(sampler(60), 1.0, 0.7, replace=False).informed(known)
    found, free = (s.sample(own, Cosine(), (50, 4), None, GeneratorSource(0)) for s in (informed, sampler(60)))
    torch.testing.assert_close(found[:, ~KNOWN], free[:, ~KNOWN])
    torch.testing.assert_close(found[:, KNOWN], X[KNOWN].expand(50, 2), atol=0.02, rtol=0)


@pytest.mark.parametrize("solver", [DDIM(), DDIM(0.5), Heun(), UniPC()], ids=lambda s: type(s).__name__)
def test_any_solver_will_do(solver):
    assert errors(Replacement(sampler(40, solver), resamplings=10))[0] < 0.08


class Chained(DDIM):
    """Remembers whether each step was given the state that the one before it left."""

    def __init__(self):
        super().__init__()
        self.left, self.goes_on = None, []

    def step(self, denoiser, x, at, to, state, rng):
        x, _ = super().step(denoiser, x, at, to, None, rng)
        self.goes_on.append(state is not None and state is self.left)
        self.left = object()
        return x, self.left


def test_a_multistep_solver_begins_anew_where_noise_has_been_put_back():
    for resamplings, jump, expected in (
        (1, 2, [False, True, True, True, True]),  # stretches of a plain chain are no seams
        (2, 2, [False, True, False, True, True, True, False, True, True, False]),
        (3, 5, [False, True, True, True, True] * 3),
    ):
        solver = Chained()
        impute(Replacement(sampler(5, solver), resamplings=resamplings, jump=jump), num=1)
        assert solver.goes_on == expected


@pytest.mark.parametrize("solver", [DPMSolverPP(3), UniPC(2)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("jump", [1, 2])
def test_replacement_of_nothing_known_is_the_plain_sampler(solver, jump):
    own, nothing = GaussianDenoiser(MEAN, COVARIANCE, VariancePreserving()), torch.zeros(6, 4)
    informed = Replacement(sampler(8, solver), resamplings=1, jump=jump).informed(Known(nothing, nothing.bool()))
    found, plain = (s.sample(own, Cosine(), (6, 4), None, GeneratorSource(0)) for s in (informed, sampler(8, solver)))
    assert torch.equal(found, plain)


def test_putting_noise_back_is_the_forward_process():
    """Marginals of renoised states are those of the noisier level, on every path."""
    x0 = torch.randn(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.6 + 1
    for path in (VariancePreserving(), Linear(), VarianceExploding()):
        at, to = (path.at(Cosine(), torch.tensor(t, dtype=torch.float64)) for t in (0.3, 0.6))
        rng = GeneratorSource(1)
        z = renoised(at.diffuse(x0, rng.normal(x0.shape, torch.float64)), at, to, rng)
        assert z.mean().item() == pytest.approx(to.alpha.item(), abs=0.02)
        assert z.var().item() == pytest.approx((0.36 * to.alpha**2 + to.sigma**2).item(), rel=0.03)


IMPUTERS = [
    Replacement(sampler(5), resamplings=3),
    Replacement(sampler(5), resamplings=2, jump=2),
    ReconstructionGuidance(sampler(5)),
    ReconstructionGuidance(DiffusionSampler(Heun(), 5, denoise=True), replace=False),
]


class Counting(GaussianDenoiser):
    """Remembers what it was asked."""

    def __call__(self, x_t, logsnr, y=None):
        self.asked = [*getattr(self, "asked", []), y]
        return super().__call__(x_t, logsnr, y)


@pytest.mark.parametrize("imputer", IMPUTERS)
def test_what_an_instance_gets_does_not_depend_on_its_batch(imputer):
    def draw(indices):
        return impute(imputer, num=len(indices), rng=IndexedSource(0, indices))

    parts = [range(0, 1), range(1, 63), range(63, 64)]
    torch.testing.assert_close(torch.cat([draw(part) for part in parts]), draw(range(64)))


@pytest.mark.parametrize("imputer", IMPUTERS)
def test_evaluations_are_counted_and_the_condition_passes_through(imputer):
    denoiser, y = Counting(MEAN, COVARIANCE, VariancePreserving()), torch.randn(3, 7)  # an embedding, not a label
    impute(imputer, num=3, denoiser=denoiser, y=y)
    assert len(denoiser.asked) == imputer.nfe
    assert all(torch.equal(asked, y) for asked in denoiser.asked)


@pytest.mark.parametrize("make", [Replacement, ReconstructionGuidance])
def test_the_samplers_own_guidance_holds(make):
    """Guided towards one of two classes, the holes are that class's."""

    class TwoMeans(Denoiser):
        path = VariancePreserving()

        def __call__(self, x_t, logsnr, y=None):
            mean = torch.zeros(4) if y is None else torch.tensor([0.0, 2.0, 0.0, 2.0])
            return GaussianDenoiser(mean, 0.25 * torch.eye(4), self.path)(x_t, logsnr)

    for scale, centre in ((0.0, 0.0), (1.0, 2.0)):
        guided = DiffusionSampler(Ancestral(), 30, guidance=ClassifierFree(scale))
        found = impute(make(guided), num=400, denoiser=TwoMeans(), y=torch.zeros(400, dtype=torch.long))
        assert found[:, ~KNOWN].mean().item() == pytest.approx(centre, abs=0.1)


def test_it_works_where_gradients_are_off():
    denoiser = GaussianDenoiser(MEAN, COVARIANCE, VariancePreserving())
    for imputer in IMPUTERS:
        with torch.inference_mode():
            x = impute(imputer, num=3, denoiser=denoiser)
        torch.testing.assert_close(x, impute(imputer, num=3, denoiser=denoiser))


def test_integers_are_imputed_as_integers():
    decoder, x = LevelDecoder(17), torch.randint(17, (4, 1, 3, 3), generator=torch.Generator().manual_seed(0))
    x = x.to(torch.uint8)
    denoiser = GaussianDenoiser(torch.zeros(1, 3, 3), 0.2 * torch.eye(9), VariancePreserving())
    mask = torch.tensor([[1, 1, 0]] * 3, dtype=torch.uint8)  # of all images and channels
    found = Replacement(sampler(5))(denoiser, Cosine(), decoder, x, mask, None, GeneratorSource(0))
    assert found.dtype == torch.uint8 and found.max() < 17
    assert torch.equal(found[..., :2], x[..., :2]) and not torch.equal(found[..., 2], x[..., 2])
    whole = mask.bool().expand(4, 1, 3, 3)
    again = Replacement(sampler(5))(denoiser, Cosine(), decoder, x, whole, None, GeneratorSource(0))
    assert torch.equal(again, found)


def test_a_mask_that_does_not_fit_and_settings_that_mean_nothing_are_refused():
    denoiser = GaussianDenoiser(MEAN, COVARIANCE, VariancePreserving())
    for mask, word in ((torch.ones(3, dtype=torch.bool), "broadcast"), (torch.ones(4), "bool or integers")):
        with pytest.raises(UserError, match=word):
            Replacement()(denoiser, Cosine(), VectorDecoder(), X[None], mask, None, GeneratorSource(0))
    for make in (
        lambda: Replacement(resamplings=0),
        lambda: Replacement(jump=0),
        lambda: ReconstructionGuidance(data_std=0),
    ):
        with pytest.raises(UserError):
            make()
    for make in (Replacement, ReconstructionGuidance):
        with pytest.raises(UserError, match="DiffusionSampler.*not AdaptiveSampler"):
            make(AdaptiveSampler())
    with pytest.raises(NonFiniteSamples):
        impute(ReconstructionGuidance(sampler(5), scale=torch.inf), num=1)
