"""Spaces small enough to enumerate, and processes from the papers' one-step matrices alone."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lightning_gen.discrete_diffusion import (
    Absorbing,
    Cosine,
    DiscretizedGaussian,
    Linear,
    MutualInformation,
    OrderedAbsorbing,
    Predictor,
    Process,
    Uniform,
)

SCHEDULES = {"linear": Linear(0.5, 9.0), "cosine": Cosine(), "mutual": MutualInformation()}


class Anything(Predictor):
    """A small random network, float64: what it says of a component depends on all of them, on where they stand, on the
    noise level (unless `timeless`) and on y, all strongly.
    """

    def __init__(self, process: Process, timeless: bool = False, seed: int = 0, scale: float = 1.5) -> None:
        generator = torch.Generator().manual_seed(seed)
        dims, states, levels = process.num_dims, process.states, process.levels
        weights = torch.randn(dims, states, 12, generator=generator, dtype=torch.float64)
        self.of_place = weights / dims**0.5
        self.of_noise, *self.of_class = torch.randn(4, 12, generator=generator, dtype=torch.float64)
        self.out = scale * torch.randn(12, dims, levels, generator=generator, dtype=torch.float64) / 2
        self.timeless, self.asked = timeless, []

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Tensor:
        self.asked.append((x_t, logsnr))
        flat = x_t.flatten(1)
        hidden = self.of_place[torch.arange(flat.shape[1]), flat].sum(1)
        if not self.timeless:
            hidden = hidden + logsnr.double()[:, None] / 6 * self.of_noise
        if y is not None:
            hidden = hidden + torch.stack(self.of_class)[y]
        logits = torch.einsum("bh,hdl->bdl", torch.tanh(hidden), self.out)
        return logits.log_softmax(-1).reshape(*x_t.shape, -1)


class Exact(Predictor):
    """What two components say about each other, exactly, whose joint is p [L, L]. NaN for a state that x_0 cannot come to."""

    def __init__(self, process: Process, p: Tensor) -> None:
        self.process, self.p = process, p.double()
        steps = process.steps or 1000
        self.times = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        self.logsnr = torch.stack([process.logsnr(t) for t in self.times])

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Tensor:
        levels, w = self.process.levels, torch.empty(len(x_t), 2, self.process.levels, dtype=torch.float64)
        each = torch.eye(levels, dtype=torch.float64).log()[:, None]
        for told in [None] if self.process.masked else logsnr.unique():
            rows = slice(None) if told is None else logsnr == told
            if self.process.masked:  # whatever has not come is a mask, of all alike
                q = torch.cat([torch.eye(levels, dtype=torch.float64), torch.ones(levels, 1, dtype=torch.float64)], 1)
            else:
                t = self.times[(self.logsnr - told).abs().argmin()]
                q = self.process.log_forward(each, t)[:, 0].exp()
            seen = q[:, x_t[rows]]  # [L, B, 2]
            w[rows, 0], w[rows, 1] = (self.p @ seen[..., 1]).T, (self.p.T @ seen[..., 0]).T
        if self.process.deterministic:  # known are only states in which all before are drawn
            masked = (x_t == self.process.mask)[:, self.process.place.argsort()]
            w[masked[:, 0] & ~masked[:, 1]] = torch.nan
        return (w / w.sum(-1, keepdim=True)).log()


def every(values: int, shape: tuple[int, ...]) -> Tensor:
    """int64 [values^D, *shape]: all that there is, the first component changing slowest."""
    dims = torch.Size(shape).numel()
    return torch.tensor(list(itertools.product(range(values), repeat=dims))).reshape(-1, *shape)


def joint(p: Tensor) -> Tensor:
    """[N, S^D] in the order of `every`, of independent components [N, D, S]."""
    together = p.new_ones(len(p), 1)
    for one in p.unbind(1):
        together = (together[:, :, None] * one[:, None]).flatten(1)
    return together


# ---- one-step matrices as the papers print them: [D, S, S] of step i ----------------------------------------------------


def uniform(process: Process, beta: float, i: int) -> Tensor:
    """Austin et al. 2021, appendix A.2.1."""
    levels = process.levels
    matrix = (1 - beta) * torch.eye(levels, dtype=torch.float64) + beta / levels
    return matrix.expand(process.num_dims, levels, levels)


def absorbing(process: Process, beta: float, i: int) -> Tensor:
    """Appendix A.2.2, with a mask that no datum has."""
    states = process.levels + 1
    matrix = (1 - beta) * torch.eye(states, dtype=torch.float64)
    matrix[:, -1] += beta
    return matrix.expand(process.num_dims, states, states)


def gaussian(process: Process, beta: float, i: int) -> Tensor:
    """Equation 8."""
    levels = process.levels
    bump = [-4 * n**2 / ((levels - 1) ** 2 * beta) for n in range(-(levels - 1), levels)]
    z = torch.tensor(bump, dtype=torch.float64).exp().sum()
    matrix = torch.zeros(levels, levels, dtype=torch.float64)
    for a, b in itertools.permutations(range(levels), 2):
        matrix[a, b] = torch.tensor(-4 * (a - b) ** 2 / ((levels - 1) ** 2 * beta), dtype=torch.float64).exp() / z
    for a in range(levels):
        matrix[a, a] = 1 - matrix[a].sum()
    return matrix.expand(process.num_dims, levels, levels)


def ordered(process: Process, beta: float, i: int) -> Tensor:
    """Section 4.3: step i masks what is generated i-th from the end."""
    states = process.levels + 1
    matrices = torch.eye(states, dtype=torch.float64).repeat(process.num_dims, 1, 1)
    matrices[process.place.flatten() == process.num_dims - i] = torch.eye(states, dtype=torch.float64)[-1]
    return matrices


@dataclass
class Chain:
    """A bound process, and the same of matrices [D, S, S] multiplied up."""

    process: Process
    one_step: Callable[[Process, float, int], Tensor]
    tolerance: float  # the discretised Gaussian has tables in float32

    def __post_init__(self) -> None:
        i = torch.arange(self.process.steps + 1, dtype=torch.float64)
        alpha = self.process.schedule.alpha(i / self.process.steps)
        betas = (1 - alpha[1:] / alpha[:-1]).tolist()
        self.steps = [self.one_step(self.process, beta, i + 1) for i, beta in enumerate(betas)]
        one = torch.eye(self.process.states, dtype=torch.float64).repeat(self.process.num_dims, 1, 1)
        self.cumulative = list(itertools.accumulate(self.steps, torch.matmul, initial=one))

    def between(self, first: int, last: int) -> Tensor:
        """Q from step `first` to step `last`, [D, S, S]."""
        if first == 0:
            return self.cumulative[last]
        return functools.reduce(torch.matmul, self.steps[first:last], self.cumulative[0])

    def time(self, i: int) -> Tensor:
        return torch.tensor(i / self.process.steps, dtype=torch.float64)

    def pairs(self):
        """All (first, last) steps with first < last."""
        return itertools.combinations(range(self.process.steps + 1), 2)

    def marginals(self, x0: Tensor, i: int) -> Tensor:
        """q(x_t | x_0) of every component, [B, D, S]."""
        flat = x0.flatten(1)
        return self.between(0, i)[torch.arange(flat.shape[1]), flat]

    def posteriors(self, x0: Tensor, x_t: Tensor, first: int, last: int) -> Tensor:
        """q(x_s | x_t, x_0) by Bayes' rule, [B, D, S]; NaN where x_t cannot come of x_0."""
        place = torch.arange(self.process.num_dims)
        back = self.between(first, last)[place, :, x_t.flatten(1)]
        both = self.marginals(x0, first) * back
        return both / both.sum(-1, keepdim=True)


def bound(process: Process, schedule, shape=(1, 2, 2), levels=2, steps=4) -> Process:
    process.bind(shape, levels, schedule, steps)
    process.build()
    return process


KINDS = {
    "uniform": (Uniform, uniform, 1e-12),
    "absorbing": (Absorbing, absorbing, 1e-12),
    "gaussian": (DiscretizedGaussian, gaussian, 2e-6),
    "ordered": (lambda: OrderedAbsorbing(3), ordered, 1e-12),
}


def chain(kind: str, schedule: str = "cosine", **kwargs) -> Chain:
    make, one_step, tolerance = KINDS[kind]
    return Chain(bound(make(), SCHEDULES[schedule], **kwargs), one_step, tolerance)


@pytest.fixture(params=[f"{kind}-{schedule}" for kind in KINDS for schedule in SCHEDULES])
def small(request):
    """Every process with every schedule: four steps of three components of three levels (27 data; 64 states with the mask);
    the ordered one has three steps.
    """
    kind, schedule = request.param.split("-")
    return chain(kind, schedule, shape=(3,), levels=3, steps=3 if kind == "ordered" else 4)


@pytest.fixture
def make_chain():
    """make_chain(kind, schedule, shape=, levels=, steps=): a `Chain`."""
    return chain


@pytest.fixture
def bind():
    """bind(process, schedule, shape=, levels=, steps=): the process, bound and built."""
    return bound


@pytest.fixture
def anything():
    """anything(process, timeless=, seed=): a random predictor in float64."""
    return Anything


@pytest.fixture
def exact():
    """exact(process, p): the perfect predictor of two components with the joint p [L, L]."""
    return Exact


@pytest.fixture
def every_state():
    """every_state(values, shape): all that there is."""
    return every


@pytest.fixture
def together():
    """together([N, D, S]): the joint of independent components, in the order of `every_state`."""
    return joint


@pytest.fixture
def enumerated():
    """enumerated(process, predictor, steps): the model's probability of each datum, by dynamic programming over all states."""

    def function(process: Process, predictor: Predictor, steps: int | None = None, y: Tensor | None = None) -> Tensor:
        x = every(process.states, process.shape)
        prior = process.log_prior().exp().expand(*process.shape, process.states)
        p = joint(prior.reshape(1, process.num_dims, process.states))[0]
        grid = process.grid(steps or process.steps, "cpu")
        for t, s in itertools.pairwise(grid):
            log_w = predictor(x, process.logsnr(t).expand(len(x)), y)
            onward = joint(process.log_reverse(x, log_w, s, t).exp().flatten(1, -2))
            p = p[p > 0] @ onward[p > 0]  # what cannot be has no way back
        data = (x < process.levels).flatten(1).all(1)
        assert not p[~data].any()  # no mask is left at the end
        return p[data]

    return function


@pytest.fixture
def exact_bound():
    """exact_bound(chain, predictor): the bound's terms of every datum, [L^D] nats each, by enumeration of x_t too."""

    def function(small: Chain, predictor: Predictor) -> dict[str, Tensor]:
        process = small.process
        data, states = (every(n, process.shape) for n in (process.levels, process.states))
        terms = {name: torch.zeros(len(data), dtype=torch.float64) for name in ("diffusion", "reconstruction")}
        x0, x_t = data.repeat_interleave(len(states), 0), states.repeat(len(data), *[1] * len(process.shape))
        for i in range(1, process.steps + 1):
            t, q = small.time(i).expand(len(states)), joint(small.marginals(data, i))
            log_w = predictor(states, process.logsnr(t)).repeat(len(data), *[1] * x_t.ndim)
            nats = process.kl(x0, x_t, log_w, small.time(i - 1).expand(len(x0)), small.time(i).expand(len(x0)))
            nats = nats.flatten(1).sum(1).reshape(q.shape)
            terms["reconstruction" if i == 1 else "diffusion"] -= (q * nats.masked_fill(q == 0, 0.0)).sum(1)
        return {"prior": -process.kl_to_prior(data), **terms}

    return function


@pytest.fixture
def chi_square():
    """chi_square(found, p): how probable it is that counts stray at least so far from p; rare cells are put together."""

    def function(found: Tensor, p: Tensor) -> float:
        found, expected = found.double(), p.double() * found.sum()
        assert not found[p == 0].any()
        rare = expected < 5
        found = torch.cat([found[~rare], found[rare].sum()[None]])
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
        used = expected > 0
        if used.sum() == 1:
            return 1.0
        chi2 = ((found - expected)[used].square() / expected[used]).sum()
        return torch.special.gammaincc((used.sum() - 1).double() / 2, chi2 / 2).item()

    return function


@pytest.fixture
def count():
    """count(x, values): how often each of `every_state(values, shape)` is among x [N, *shape]."""

    def function(x: Tensor, values: int) -> Tensor:
        flat = x.flatten(1)
        index = (flat * values ** torch.arange(flat.shape[1] - 1, -1, -1)).sum(1)
        return torch.bincount(index, minlength=values ** flat.shape[1])

    return function


@pytest.fixture
def global_state():
    """Nothing draws from torch's global generator while the test runs."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)
