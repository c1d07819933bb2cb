"""Laws of guidance, on Gaussians whose guided score is known in closed form."""

import pytest
import torch

from lightning_gen.diffusion import (
    DDIM,
    Ancestral,
    ClassifierFree,
    Cosine,
    Denoiser,
    DiffusionSampler,
    GaussianDenoiser,
    Heun,
    Prediction,
    Threshold,
    VariancePreserving,
)
from lightning_gen.diffusion.axes import check_sampler
from lightning_gen.errors import IncompatibleAxes, UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource

MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.5]], dtype=torch.float64)
"""Of each class's data."""


class Classes(Denoiser):
    """Data N(mean of the class, 0.3); without one, N(0, 1)."""

    path = VariancePreserving()

    def __init__(self):
        self.asked = []

    def __call__(self, x_t, logsnr, y=None):
        self.asked.append(y is not None)
        alpha, sigma = self._scales(x_t, logsnr)
        mean, variance = (MEANS.to(x_t)[y], 0.3) if y is not None else (0.0, 1.0)
        eps = sigma * (x_t - alpha * mean) / (alpha**2 * variance + sigma**2)
        return Prediction((x_t - sigma * eps) / alpha, eps, variance=torch.ones(()) if y is not None else None)


@pytest.fixture
def x():
    return torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def y():
    return torch.arange(6) % 2


def consistent(prediction, x, logsnr):
    """Whether x_t = alpha x0 + sigma eps."""
    alpha, sigma = (s[..., None] if s.ndim else s for s in VariancePreserving().scales(logsnr)[:2])
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x)


LOGSNR = torch.tensor(0.4, dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.3, 2.5])
def test_guided_score_is_the_combination(x, y, scale):
    denoiser = Classes()
    free, conditional = denoiser(x, LOGSNR), denoiser(x, LOGSNR, y)
    guided = ClassifierFree(scale).wrap(denoiser)(x, LOGSNR, y)
    torch.testing.assert_close(guided.eps, (1 - scale) * free.eps + scale * conditional.eps)
    assert guided.variance == 1  # the conditional one's
    consistent(guided, x, LOGSNR)


@pytest.mark.parametrize(("scale", "conditional"), [(0.0, False), (1.0, True)])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_at_its_ends_it_is_exactly_one_of_the_two_at_the_cost_of_one(x, y, scale, conditional, rescale):
    denoiser = Classes()
    expected = denoiser(x, LOGSNR, y if conditional else None)
    denoiser.asked.clear()
    guidance = ClassifierFree(scale, rescale=rescale)
    guided = guidance.wrap(denoiser)(x, LOGSNR, y)
    assert torch.equal(guided.x0, expected.x0) and torch.equal(guided.eps, expected.eps)
    assert denoiser.asked == [conditional] and guidance.evaluations == 1


@pytest.mark.parametrize("lowest, highest", [(-1.0, 2.0), (None, 2.0), (-1.0, None)])
def test_outside_the_interval_it_is_the_conditional_one_alone(x, y, lowest, highest):
    guidance, denoiser = ClassifierFree(3.0, lowest, highest, rescale=0.5), Classes()
    levels = torch.tensor([-1.5, -1.0, 0.0, 2.0, 2.5, 3.0], dtype=torch.float64)
    inside = [(lowest is None or v >= lowest) and (highest is None or v <= highest) for v in levels.tolist()]
    whole = guidance.wrap(denoiser)(x, levels, y)  # several levels in one batch, each row by its own
    consistent(whole, x, levels)
    for row, (level, guided) in enumerate(zip(levels, inside)):
        one, of = x[row : row + 1], y[row : row + 1]
        denoiser.asked.clear()
        found = guidance.wrap(denoiser)(one, level, of)
        assert len(denoiser.asked) == (2 if guided else 1)
        expected = (
            ClassifierFree(3.0, rescale=0.5).wrap(denoiser)(one, level, of) if guided else denoiser(one, level, of)
        )
        torch.testing.assert_close(found.x0, expected.x0)
        torch.testing.assert_close(whole.x0[row : row + 1], expected.x0)
        torch.testing.assert_close(whole.eps[row : row + 1], expected.eps)


@pytest.mark.parametrize("scale", [1.3, 0.1, 2.7])  # float32 has none of them
def test_a_mate_outside_the_interval_changes_nothing(x, y, scale):
    """An adaptive sampler has its rows at levels of their own: the scale of one is what it is alone."""
    guidance, levels = ClassifierFree(scale, -1.0, 1.0), torch.tensor([0.4, -0.9, 0.9, 0.0, 1.0, 3.0]).double()
    alone = guidance.guide(Classes(), x[:5], levels[:5], y[:5])
    among = guidance.guide(Classes(), x, levels, y)
    torch.testing.assert_close(among.x0[:5], alone.x0, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(among.eps[:5], alone.eps, rtol=1e-15, atol=1e-15)
    outside = Classes()(x[5:], levels[5:], y[5:])
    assert torch.equal(among.x0[5:], outside.x0) and torch.equal(among.eps[5:], outside.eps)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_rescaling_moves_the_spread_to_the_conditional_ones(x, y, share):
    conditional = Classes()(x, LOGSNR, y)
    plain = ClassifierFree(4.0).wrap(Classes())(x, LOGSNR, y)
    rescaled = ClassifierFree(4.0, rescale=share).wrap(Classes())(x, LOGSNR, y)
    stds = [p.x0.std(1, correction=0) for p in (plain, conditional, rescaled)]
    torch.testing.assert_close(stds[2], (1 - share) * stds[0] + share * stds[1])
    torch.testing.assert_close(
        rescaled.x0 / plain.x0, (stds[2] / stds[0])[:, None].expand(-1, 2)
    )  # a factor an example
    consistent(rescaled, x, LOGSNR)


def test_rescaling_what_has_no_spread_changes_nothing():
    x, y = torch.randn(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    denoiser = GaussianDenoiser(
        torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64), VariancePreserving()
    )
    assert torch.isfinite(ClassifierFree(4.0, rescale=1.0).wrap(denoiser)(x, LOGSNR, y).x0).all()


def test_the_sampler_counts_evaluations_truly_or_from_above():
    def sampled(guidance, denoise=False):
        denoiser, sampler = Classes(), DiffusionSampler(DDIM(), 10, guidance=guidance, denoise=denoise)
        sampler.sample(denoiser, Cosine(), (1, 2), torch.zeros(1, dtype=torch.long), GeneratorSource(0))
        return len(denoiser.asked), sampler.nfe

    for guidance in (None, ClassifierFree(0.0), ClassifierFree(1.0), ClassifierFree(2.0)):
        for denoise in (False, True):
            true, said = sampled(guidance, denoise)
            assert true == said
    true, said = sampled(ClassifierFree(2.0, lowest=-2.0, highest=2.0))
    assert 10 < true < said == 20


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="condition"):
        ClassifierFree().guide(Classes(), torch.zeros(1, 2), torch.zeros(()), None)
    for kwargs, word in (({"lowest": 1.0, "highest": 1.0}, "lowest"), ({"rescale": 1.5}, "rescale")):
        with pytest.raises(UserError, match=word):
            ClassifierFree(**kwargs)
    for conditional, dropout, word in ((False, 0.1, "conditioner"), (True, 0.0, "label_dropout")):
        with pytest.raises(IncompatibleAxes, match=word):
            ClassifierFree().check(conditional, dropout)


@pytest.mark.parametrize("solver", [Ancestral(), DDIM(), Heun()], ids=lambda s: type(s).__name__)
def test_guided_sample_of_an_index_does_not_depend_on_its_batch(solver):
    sampler = DiffusionSampler(solver, 6, guidance=ClassifierFree(2.0, -3.0, 3.0, 0.5))

    def draw(indices):
        y = torch.tensor(list(indices)) % 2
        with torch.no_grad():
            return sampler.sample(Classes(), Cosine(), (len(indices), 2), y, IndexedSource(0, indices))

    parts = [range(0, 1), range(1, 2), range(2, 63), range(63, 64)]
    torch.testing.assert_close(torch.cat([draw(part) for part in parts]), draw(range(64)))


class TooWide(Denoiser):
    """x0 is x_t / alpha shrunk by an eighth, so that large x_t lead out of [-1, 1]."""

    path = VariancePreserving()

    def __call__(self, x_t, logsnr, y=None):
        alpha, sigma = self._scales(x_t, logsnr)
        x0 = 0.875 * x_t / alpha
        return Prediction(x0, (x_t - alpha * x0) / sigma)


def test_a_clipped_step_is_ddpms_posterior_mean(x):
    """As in their code: x0 clipped, then sqrt(a_s) beta / (1 - a_t) x0 + sqrt(1 - beta) (1 - a_s) / (1 - a_t) x_t."""
    at, to = (TooWide.path.at(Cosine(), torch.tensor(t, dtype=torch.float64)) for t in (0.3, 0.0))
    a_t, a_s = at.alpha**2, to.alpha**2
    beta = 1 - a_t / a_s
    x0 = (0.875 * x / at.alpha).clamp(-1, 1)
    expected = a_s.sqrt() * beta / (1 - a_t) * x0 + (1 - beta).sqrt() * (1 - a_s) / (1 - a_t) * x
    for guidance in (None, ClassifierFree(1.0)):  # the clipping comes after it
        denoiser = DiffusionSampler(guidance=guidance, threshold=Threshold()).guided(TooWide(), torch.zeros(6))
        found, _ = Ancestral().step(denoiser, x, at, to, None, GeneratorSource(0))
        torch.testing.assert_close(found, expected)
    assert (x0.abs() == 1).any() and (x0.abs() < 1).any()


def test_thresholds_keep_x_t_and_leave_what_is_inside_alone(x):
    level = TooWide.path.at(Cosine(), torch.tensor(0.4, dtype=torch.float64))
    plain = TooWide()(x, level.logsnr)
    static, dynamic = (Threshold(p)(plain, level.logsnr) for p in (None, 1.0))
    reach = plain.x0.abs().amax(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(static.x0, plain.x0.clamp(-1, 1))
    torch.testing.assert_close(dynamic.x0, plain.x0 / reach)
    for kept in (static, dynamic):
        torch.testing.assert_close(level.alpha * kept.x0 + level.sigma * kept.eps, x)
        small = plain._replace(x0=0.2 * plain.x0.clamp(-1, 1))
        for threshold in (Threshold(), Threshold(0.5)):
            assert all(torch.equal(a, b) for a, b in zip(threshold(small, level.logsnr)[:2], small[:2]))
    half = Threshold(0.5)(plain, level.logsnr)  # of two values the smaller one decides
    reach = plain.x0.abs().amin(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(half.x0, torch.clamp(plain.x0 / reach, -1, 1))


def test_meaningless_thresholds_are_refused():
    for percentile in (0.0, 1.5):
        with pytest.raises(UserError, match="percentile"):
            Threshold(percentile)
    with pytest.raises(IncompatibleAxes, match="levels"):
        check_sampler(DiffusionSampler(threshold=Threshold()), Cosine(), VariancePreserving(), None)
    check_sampler(DiffusionSampler(threshold=Threshold()), Cosine(), VariancePreserving(), 256)
