"""Laws of the processes, against matrices multiplied up and Bayes' rule by brute force."""

import math

import pytest
import torch

from lightning_gen.discrete_diffusion import (
    Absorbing,
    Cosine,
    DiscreteDiffusion,
    DiscretizedGaussian,
    Linear,
    MutualInformation,
    OrderedAbsorbing,
    Process,
    Uniform,
)
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource

NEW = ["uniform", "absorbing", "gaussian", "ordered"]


def close(found, expected, chain):
    torch.testing.assert_close(found, expected, rtol=10 * chain.tolerance, atol=chain.tolerance)


def met(chain, i):
    """Every pair of x_0 and x_t at any place, as [B, D] each, and where x_t can come of x_0."""
    process = chain.process
    x0, x_t = torch.cartesian_prod(torch.arange(process.levels), torch.arange(process.states)).T
    x0, x_t = (x[:, None].expand(-1, process.num_dims) for x in (x0, x_t))
    return x0, x_t, chain.marginals(x0, i).gather(-1, x_t[..., None])[..., 0] > 0


def said(process, num, seed=1):
    """log w [num, *shape, L], float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num, *process.shape, process.levels, generator=generator, dtype=torch.float64)
    return logits.log_softmax(-1)


# ---- forward -----------------------------------------------------------------------------------------------------------


def test_all_levels_come_to_where_the_matrices_take_them(small):
    """And mixtures of levels; at one time for all or at a time for each example."""
    process = small.process
    x0 = torch.arange(3)[:, None].expand(3, 3)
    one_hot = torch.eye(3, dtype=torch.float64)[x0]
    log_w = said(process, process.steps + 1)
    found = process.log_forward(log_w, torch.arange(process.steps + 1, dtype=torch.float64) / process.steps).exp()
    for i in range(process.steps + 1):
        close(process.log_forward(one_hot.log(), small.time(i)).exp(), small.marginals(x0, i), small)
        close(found[i], torch.einsum("dl,dls->ds", log_w[i].exp(), small.between(0, i)[:, :3]), small)


def test_every_jump_is_the_product_of_its_steps(small):
    process, place = small.process, torch.arange(3)
    pairs = list(small.pairs())
    reached = [small.between(0, first)[:, :3].sum(1) > 0 for first, _ in pairs]  # elsewhere no data come to be
    for x_t in torch.arange(process.states):
        x_t = x_t.expand(len(pairs), 3)
        s, t = (torch.tensor(i, dtype=torch.float64) / process.steps for i in zip(*pairs))
        found = process.log_likelihood(x_t, s, t, torch.float64).exp()
        for row, pair in enumerate(pairs):
            close(found[row] * reached[row], small.between(*pair)[place, :, x_t[row]] * reached[row], small)
            alone = process.log_likelihood(x_t[:1], small.time(pair[0]), small.time(pair[1]), torch.float64)
            torch.testing.assert_close(alone[0].exp(), found[row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "mutual"])
def test_steps_to_neighbours_are_taken_in_their_order(schedule, make_chain):
    """From four levels on the discretised Gaussian's matrices do not commute, and their products are not symmetric."""
    small = make_chain("gaussian", schedule, shape=(1,), levels=5, steps=4)
    log_w, levels = torch.eye(5, dtype=torch.float64).log()[:, None], torch.arange(5)[:, None]
    whole = small.between(0, 4)[0]
    assert (whole - whole.T).abs().max() > 1e-3
    for first, last in small.pairs():
        found = small.process.log_forward(log_w, small.time(last))[:, 0].exp()
        close(found, small.between(0, last)[0], small)
        found = small.process.log_likelihood(levels, small.time(first), small.time(last), torch.float64)[:, 0].exp()
        close(found, small.between(first, last)[0].T, small)
        found = small.process.log_x0(levels, log_w.new_zeros(5, 1, 5), small.time(last))[:, 0].exp()
        columns = small.between(0, last)[0].T
        close(found, columns / columns.sum(1, keepdim=True), small)


@pytest.mark.usefixtures("global_state")
def test_noise_is_drawn_as_the_matrices_say(small, chi_square):
    process, num = small.process, 4000
    for i in (1, process.steps - 1, process.steps):
        for level in range(3):
            x0 = torch.full((num, 3), level)
            x_t = process.diffuse(x0, small.time(i).expand(num), GeneratorSource(10 * i + level))
            assert x_t.dtype == torch.int64
            expected = small.marginals(x0[:1], i)[0]
            for d in range(3):
                assert chi_square(torch.bincount(x_t[:, d], minlength=process.states), expected[d]) > 1e-4


def test_each_example_has_a_time_of_its_own(small):
    """At t = 0 nothing has happened; images at many times are as each at its own."""
    process = small.process
    x0 = torch.tensor([[0, 1, 2]]).expand(200, 3)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(100)
    x_t = process.diffuse(x0, t, GeneratorSource(0))
    assert torch.equal(x_t[::2], x0[::2]) and not torch.equal(x_t[1::2], x0[1::2])


@pytest.mark.usefixtures("global_state")
@pytest.mark.parametrize("kind", NEW)
def test_masks_come_of_data_alone(kind, make_chain):
    """No image of three channels is transposed: each pixel stays its own level or becomes the mask."""
    process = make_chain(kind, "linear", shape=(2, 3, 5), levels=9, steps=30 if kind == "ordered" else 8).process
    x0 = torch.arange(30).reshape(1, 2, 3, 5).expand(64, 2, 3, 5) % 9
    t = torch.arange(1, 65, dtype=torch.float64).div(8).ceil() / 8
    if kind == "ordered":
        t = (t * 30).round() / 30
    x_t = process.diffuse(x0, t, GeneratorSource(1))
    assert x_t.shape == x0.shape and x_t.max() < process.states
    if process.masked:
        assert ((x_t == x0) | (x_t == 9)).all() and (x_t == 9).any()
    else:
        assert (x_t[:8] == x0[:8]).double().mean() > (x_t[-8:] == x0[-8:]).double().mean()


# ---- backward ----------------------------------------------------------------------------------------------------------


def test_posteriors_are_bayes_rule(small):
    for first, last in small.pairs():
        x0, x_t, possible = met(small, last)
        s, t = (small.time(i).expand(len(x0)) for i in (first, last))
        found = small.process.log_posterior(x_t, x0, s, t, torch.float64).exp()
        close(found[possible], small.posteriors(x0, x_t, first, last)[possible], small)


def test_the_way_back_is_the_mixture_of_the_posteriors(small):
    """p(x_s | x_t) = sum_x0 q(x_s | x_t, x_0) p(x_0 | x_t), where p(x_0 | x_t) ~ w Q_t[:, x_t]."""
    process, place = small.process, torch.arange(3)
    x_t = torch.arange(process.states)[:, None].expand(-1, 3)
    log_w = said(process, process.states)
    for first, last in small.pairs():
        s, t = (small.time(i).expand(len(x_t)) for i in (first, last))
        weights = log_w.exp() * small.between(0, last)[place, :, x_t][..., : process.levels]
        possible = weights.sum(-1) > 0
        weights = weights / weights.sum(-1, keepdim=True)
        expected = torch.zeros(*x_t.shape, process.states, dtype=torch.float64)
        for level in range(process.levels):
            posterior = small.posteriors(torch.full_like(x_t, level), x_t, first, last).nan_to_num()
            expected += weights[..., level, None] * posterior
        close(process.log_reverse(x_t, log_w, s, t).exp()[possible], expected[possible], small)
        close(process.log_x0(x_t, log_w, t).exp()[possible], weights[possible], small)
        nats = process.cross_entropy(torch.ones_like(x_t), x_t, log_w, t)
        sensible = possible & (weights[..., 1] > 0)
        close(nats[sensible], -weights[..., 1].log()[sensible], small)


def test_the_way_back_composes(small):
    """From t to r by way of s, where the network does not change its mind: no stop on the way matters."""
    process = small.process
    x_t = torch.arange(process.states)[:, None].expand(-1, 3)
    log_w = said(process, 1).expand(process.states, -1, -1)
    if isinstance(process, OrderedAbsorbing):  # a state that cannot be has no way back
        log_w, x_t = log_w[:1], torch.full((1, 3), process.mask)
    for r, s, t in ((0, 1, 2), (0, 2, 3), (1, 2, 3), (0, 1, 3)):
        r, s, t = (small.time(i).expand(len(x_t)) for i in (r, s, t))
        if isinstance(process, OrderedAbsorbing):
            x_t = process.diffuse(torch.ones_like(x_t), t, GeneratorSource(0))
        at_s = process.log_reverse(x_t, log_w, s, t).exp()
        total = torch.zeros_like(at_s)
        for state in range(process.states):
            onward = process.log_reverse(torch.full_like(x_t, state), log_w, r, s).exp()
            total += (at_s[..., state, None] * onward).nan_to_num()
        close(total, process.log_reverse(x_t, log_w, r, t).exp(), small)


def test_steps_are_drawn_as_the_way_back_says(small, chi_square):
    process, num = small.process, 4000
    x0 = torch.tensor([[0, 1, 2]])
    log_w = said(process, 1)
    for first, last in ((0, process.steps), (1, process.steps), (1, 2)):
        s, t = small.time(first), small.time(last)
        x_t = process.diffuse(x0, t.expand(1), GeneratorSource(5))
        expected = process.log_reverse(x_t, log_w, s, t)[0].exp()
        drawn = process.step(x_t.expand(num, 3), log_w.expand(num, 3, 3), s, t, GeneratorSource(last))
        for d in range(3):
            assert chi_square(torch.bincount(drawn[:, d], minlength=process.states), expected[d]) > 1e-4


# ---- what the bound loses ----------------------------------------------------------------------------------------------


def test_kl_is_the_sum_over_states(small):
    process = small.process
    for first, last in small.pairs():
        x0, x_t, possible = met(small, last)
        log_w = said(process, len(x0))
        s, t = (small.time(i).expand(len(x0)) for i in (first, last))
        q = small.posteriors(x0, x_t, first, last)
        back = small.between(first, last)[torch.arange(3), :, x_t]
        p = back * torch.einsum("bdl,dls->bds", log_w.exp(), small.between(0, first)[:, : process.levels])
        p = p / p.sum(-1, keepdim=True)
        expected = torch.special.xlogy(q, q / p).nansum(-1)
        close(process.kl(x0, x_t, log_w, s, t)[possible], expected[possible], small)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "mutual"])
@pytest.mark.parametrize("kind", ["uniform", "absorbing"])
def test_closed_forms_are_the_general_rule(kind, schedule, make_chain):
    """Their gradients too, at all pairs of times."""
    small = make_chain(kind, schedule, shape=(2,), levels=4, steps=5)
    for first, last in small.pairs():
        x0, x_t, possible = met(small, last)
        x0, x_t = x0[possible.all(1)], x_t[possible.all(1)]
        s, t = (small.time(i).expand(len(x0)) for i in (first, last))
        nats, slopes = [], []
        for kl in (small.process.kl, lambda *args: Process.kl(small.process, *args)):
            logits = (3 * said(small.process, len(x0))).requires_grad_()
            nats.append(kl(x0, x_t, logits.log_softmax(-1), s, t))
            (slope,) = torch.autograd.grad((nats[-1] * torch.linspace(1, 2, len(x0))[:, None]).sum(), logits)
            slopes.append(slope)
        torch.testing.assert_close(*nats, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)
        assert slopes[0].isfinite().all()


@pytest.mark.parametrize("lowest", [-1.0, -80.0, -300.0])
def test_neither_end_of_time_nor_a_sure_network_makes_nan(small, lowest):
    """Where the network is sure, rightly or wrongly: loss and gradient are finite in float32, and right."""
    process = small.process
    for last in range(1, process.steps + 1):
        x0, x_t, possible = met(small, last)
        t = small.time(last).expand(len(x0))
        for sure in range(3):
            logits = torch.full((*x0.shape, 3), lowest)
            logits[..., sure] = 0.0
            logits.requires_grad_()
            log_w = logits.log_softmax(-1)
            terms = (
                process.nats(x0, x_t, log_w, t),
                process.kl(x0, x_t, log_w, t - 1 / process.steps, t),
                process.cross_entropy(x0, x_t, log_w, t),
            )
            exact = log_w.detach().double()
            expected = process.kl(x0, x_t, exact, t - 1 / process.steps, t)
            torch.testing.assert_close(terms[1][possible].double(), expected[possible], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(terms[0], process.steps * terms[1], rtol=1e-4, atol=1e-5, equal_nan=True)
            if last == 1:
                direct = exact + small.between(0, 1)[torch.arange(3), :, x_t][..., :3].log()
                direct = -direct.log_softmax(-1).gather(-1, x0[..., None])[..., 0]
                torch.testing.assert_close(terms[1][possible].double(), direct[possible], rtol=1e-4, atol=1e-5)
            for nats in terms:
                assert nats[possible].isfinite().all() and (nats[possible] > -1e-5).all()
                (slope,) = torch.autograd.grad(nats[possible].sum(), logits, retain_graph=True)
                assert slope.isfinite().all()


def test_a_step_to_the_data_costs_the_cross_entropy(small):
    process, t = small.process, small.time(1).expand(1)
    x0, log_w = torch.tensor([[2, 0, 1]]), said(small.process, 1)
    x_t = process.diffuse(x0, t, GeneratorSource(0))
    nats = process.kl(x0, x_t, log_w, torch.zeros_like(t), t)
    close(nats, -process.log_x0(x_t, log_w, t).gather(-1, x0[..., None])[..., 0], small)
    close(process.cross_entropy(x0, x_t, log_w, t), nats, small)


@pytest.mark.parametrize("schedule", [Linear(0.5, 9.0), Cosine(), MutualInformation()])
def test_the_rate_is_the_limit_of_many_steps(schedule, bind):
    """T KL(...) at T = 10^6."""
    steps = 1_000_000
    chain, limit = (bind(Absorbing(), schedule, (3,), 3, n) for n in (steps, None))
    t = torch.tensor([0.02, 0.3, 0.7, 1.0], dtype=torch.float64)
    x0, log_w = torch.tensor([[0, 1, 2]]).expand(4, 3), said(limit, 4)
    x_t = torch.tensor([[3, 1, 3]]).expand(4, 3)
    torch.testing.assert_close(chain.nats(x0, x_t, log_w, t), limit.nats(x0, x_t, log_w, t), rtol=1e-4, atol=0)


# ---- the far end -------------------------------------------------------------------------------------------------------


def test_the_prior_is_where_equally_probable_levels_come_to(small, chi_square):
    process = small.process
    expected = small.between(0, process.steps)[:, :3].mean(1)
    found = process.log_prior().exp().expand(3, process.states)
    close(found, expected, small)
    drawn = process.prior(4000, "cpu", GeneratorSource(2))
    for d in range(3):
        assert chi_square(torch.bincount(drawn[:, d], minlength=process.states), expected[d]) > 1e-4


def test_kl_to_the_prior_is_the_sum_over_states(small, every_state):
    process = small.process
    x0 = every_state(3, (3,))
    q = small.marginals(x0, process.steps)
    p = small.between(0, process.steps)[:, :3].mean(1)
    expected = torch.special.xlogy(q, q / p).nansum(-1).sum(-1)
    found = process.kl_to_prior(x0)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=10 * small.tolerance)


def test_the_prior_costs_nothing_where_nothing_is_left(bind):
    x0 = torch.tensor([[0, 1, 2]])
    for process in (Uniform(), Absorbing(), OrderedAbsorbing()):
        for schedule in (Cosine(), MutualInformation()):
            assert bind(process, schedule, (3,), 3, 3).kl_to_prior(x0).tolist() == [0]
    assert bind(Uniform(), Linear(), (3,), 3, 4).kl_to_prior(x0).item() > 0


# ---- times -------------------------------------------------------------------------------------------------------------


def test_times_are_the_steps_of_the_chain_or_all_of_it(bind):
    chain, limit = (bind(Absorbing(), Cosine(), (3,), 3, n) for n in (7, None))
    u = (torch.arange(70, dtype=torch.float64) + 0.5) / 70
    assert torch.bincount((chain.times(u) * 7).round().long()).tolist() == [0, *[10] * 7]
    last = torch.tensor([0.0, 1 - 2**-53, 1.0], dtype=torch.float64)  # to which strata may round
    assert (chain.times(last) * 7).tolist() == [1, 7, 7]
    assert limit.times(u).min() > 0 and limit.times(last[:1]) == 1


@pytest.mark.parametrize("steps", [1, 2, 7, 12, 100])
def test_grids_walk_the_chain_without_standing_still(steps, bind):
    process = bind(Uniform(), Cosine(), (3,), 3, steps)
    for fewer in range(1, steps + 1):
        grid = process.grid(fewer, "cpu")
        assert len(grid) == fewer + 1 and grid[0] == 1 and grid[-1] == 0 and (grid.diff() < 0).all()
        torch.testing.assert_close(grid * steps, (grid * steps).round(), rtol=0, atol=1e-12)
        assert (grid - torch.linspace(1, 0, fewer + 1).double()).abs().max() <= 0.5 / steps + 1e-6
    with pytest.raises(UserError, match="steps"):
        process.grid(steps + 1, "cpu")
    assert len(bind(Absorbing(), Cosine(), (3,), 3, None).grid(steps, "cpu")) == steps + 1


@pytest.mark.parametrize("process", [Uniform(), DiscretizedGaussian()])
def test_what_has_no_limit_says_so(process):
    with pytest.raises(UserError, match="give steps"):
        process.bind((3,), 3, Cosine(), None)
    with pytest.raises(UserError, match="at least one step"):
        process.bind((3,), 3, Cosine(), 0)


# ---- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Uniform(), Absorbing()], ids=lambda p: type(p).__name__)
def test_float32_sums_a_long_chain_of_many_levels(kind, bind):
    """1000 steps of 256 levels of a middling network: their sum is right to 1e-4."""
    process = bind(kind, Cosine(), (64,), 256, 1000)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(256, (1, 64), generator=generator)
    distance = (torch.arange(256) - x0[..., None]).double().abs()
    logits = -distance / 4 + torch.randn(1, 64, 256, generator=generator, dtype=torch.float64)
    log_w = logits.log_softmax(-1)
    totals = torch.zeros(2, dtype=torch.float64)
    for i in range(1, 1001, 10):
        t = torch.tensor([i / 1000], dtype=torch.float64)
        x_t = process.diffuse(x0, t, GeneratorSource(i))
        for k, dtype in enumerate((torch.float32, torch.float64)):
            nats = process.nats(x0, x_t, log_w.to(dtype), t)
            assert nats.dtype == dtype
            totals[k] += nats.double().mean() / 100
    assert totals[0].item() == pytest.approx(totals[1].item(), rel=1e-4)


def test_tables_stay_as_they_were_made(make_chain):
    """Casting the model changes neither the order of generation nor the discretised Gaussian's precision."""
    small = make_chain("gaussian", "cosine", shape=(3,), levels=3)
    before = {name: buffer.clone() for name, buffer in small.process.named_buffers()}
    small.process.to(torch.bfloat16)
    for name, buffer in small.process.named_buffers():
        assert buffer.dtype == torch.float32 and torch.equal(buffer, before[name])
    assert not small.process.state_dict()


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor that is made while it watches, in elements."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.is_contiguous():
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("process", [Uniform(), Absorbing(), DiscretizedGaussian()], ids=lambda p: type(p).__name__)
def test_images_of_many_levels_take_no_more_than_their_logits(process):
    """No L x L of any pixel, 51 million a picture; the Gaussian has its tables, [T + 1, L, L]."""
    process.bind((1, 28, 28), 256, Cosine(), 3)
    process.build()
    x0 = torch.randint(256, (2, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    log_w = torch.zeros(2, 1, 28, 28, 256).log_softmax(-1)
    t = torch.tensor([1 / 3, 1.0], dtype=torch.float64)
    with Largest() as watch:
        x_t = process.diffuse(x0, t, GeneratorSource(0))
        process.nats(x0, x_t, log_w, t)
        process.cross_entropy(x0, x_t, log_w, t)
        process.step(x_t, log_w, t[:1] - 1 / 3, t[:1], GeneratorSource(0))
        process.kl_to_prior(x0)
    assert log_w.numel() // 2 < watch.numel <= 2 * 784 * 257
    assert math.prod((256, 256, 784)) > 50 * watch.numel


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), MutualInformation()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("t", [2.0**-52, 1e-12, 1e-9, 3e-6])
def test_the_rate_is_finite_where_alpha_is_one_to_rounding(schedule, t):
    process = Absorbing()
    process.bind((3,), 4, schedule, None)
    t = torch.full((2,), t, dtype=torch.float64)
    x0, log_w = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 4).log_softmax(-1)
    assert not process.nats(x0, x0, log_w, t).any()


def test_autocast_shortens_no_product():
    process = DiscretizedGaussian()
    process.bind((5,), 32, Linear(), 20)
    process.build()
    x0 = torch.arange(10).reshape(2, 5)
    log_w, t = torch.randn(2, 5, 32).log_softmax(-1), torch.full((2,), 0.5, dtype=torch.float64)
    alone = process.nats(x0, x0 + 1, log_w, t)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(process.nats(x0, x0 + 1, log_w, t), alone)


# ---- the chain's end ---------------------------------------------------------------------------------------------------


def test_what_is_left_at_the_end_is_the_priors_divergence(small):
    """KL(q(x_T | x_0) || p(x_T)) of a component at the first level or the last, of matrices multiplied up."""
    process = small.process
    x0 = torch.tensor([[0] * 3, [2] * 3])
    assert 3 * process.left_at_end() == pytest.approx(process.kl_to_prior(x0).max().item(), abs=3e-6)
    q, prior = small.marginals(x0, process.steps), process.log_prior().exp()
    expected = (torch.special.xlogy(q, q) - torch.special.xlogy(q, prior)).sum(-1).max().item()
    assert process.left_at_end() == pytest.approx(expected, abs=3e-6)


@pytest.mark.parametrize("levels", [*range(2, 13), 17, 32, 256])
def test_a_model_forgets_its_data_by_the_end_or_is_refused(levels):
    """D3PM's betas move fewer than ten levels too little: two of them not at all."""
    gaussian, *others = (DiscretizedGaussian(), Linear()), (Uniform(), Cosine()), (Uniform(), Linear())
    for process, schedule in [*others, (Absorbing(), Linear()), (Absorbing(), MutualInformation())]:
        assert made(process, schedule, levels).process.left_at_end() < 0.01
    if levels > 9:
        assert made(*gaussian, levels).process.left_at_end() < 0.1
        return
    with pytest.raises(UserError, match="Uniform"):
        made(*gaussian, levels)
    process = gaussian[0]
    process.bind((1,), levels, Linear(), 1000)
    assert 0.1 < process.left_at_end() < math.log(levels) + 1e-9
    faster = made(DiscretizedGaussian(), Linear(0.1, 1200.0), levels)  # until enough is moved
    assert faster.process.left_at_end() < 0.1


def made(process, schedule, levels):
    return DiscreteDiffusion((1,), levels, None, lambda *_: torch.nn.Identity(), process, schedule, 1000)


@pytest.mark.parametrize("process", [Uniform, Absorbing])
def test_a_schedule_that_ends_too_early_is_refused(process):
    with pytest.raises(UserError, match=r"nats .* alpha fall faster"):
        made(process(), Linear(0.1, 2.0), 17)
