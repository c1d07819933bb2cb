"""Laws of whole models on spaces small enough to enumerate: probabilities sum to one, and the bound lies below them."""

import math

import pytest
import torch

from lightning_gen.discrete_diffusion import Absorbing, MutualInformation, Predictor, Uniform

KINDS = ["uniform", "absorbing", "gaussian"]


class TruePosterior(Predictor):
    """What the other of two components says, by Bayes' rule from the data's own distribution [L, L]."""

    def __init__(self, small, data):
        self.small, self.log_data = small, data.log()

    def __call__(self, x_t, logsnr, y=None):
        process, small = self.small.process, self.small
        told = process.logsnr(torch.arange(process.steps + 1, dtype=torch.float64) / process.steps)
        assert logsnr.unique().numel() == 1
        cumulative = small.between(0, (told - logsnr[0]).abs().argmin().item())[:, : process.levels]
        of_first, of_second = (cumulative[d, :, x_t[:, d]].T.log() for d in range(2))
        first = (self.log_data + of_second[:, None]).logsumexp(2)
        second = (self.log_data + of_first[:, :, None]).logsumexp(1)
        return torch.stack([first, second], 1).log_softmax(-1)


def correlated(levels, dims, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (1.5 * torch.randn(levels**dims, generator=generator, dtype=torch.float64)).softmax(0)


def test_probabilities_sum_to_one_and_lie_above_the_bound(small, anything, enumerated, exact_bound):
    predictor = anything(small.process)
    p, terms = enumerated(small.process, predictor), exact_bound(small, predictor)
    assert p.sum().item() == pytest.approx(1, abs=small.tolerance)
    assert all((term <= small.tolerance).all() for term in terms.values())
    gap = p.log() - sum(terms.values())
    assert (gap > -small.tolerance).all()
    if small.process.deterministic:
        assert gap.abs().max() < 1e-12
    else:  # what the random network says is far from what any one distribution would have it say
        assert gap.max() > 0.01


def test_probabilities_sum_to_one_of_729_states(make_chain, anything, enumerated):
    process = make_chain("absorbing", "linear", shape=(1, 2, 3), levels=2).process
    assert enumerated(process, anything(process)).sum().item() == pytest.approx(1, abs=1e-12)


def test_shortcuts_are_models_of_their_own(small, anything, enumerated):
    """Fewer steps than the chain has: probabilities sum to one all the same, but are others."""
    predictor = anything(small.process)
    p = [enumerated(small.process, predictor, steps) for steps in range(1, small.process.steps + 1)]
    for each in p:
        assert each.sum().item() == pytest.approx(1, abs=2 * small.tolerance)
    assert all((each - p[-1]).abs().sum() > 1e-3 for each in p[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_one_component_loses_nothing_whatever_the_network(kind, make_chain, enumerated):
    """Alone, a component's way back from w is that of a chain: its probability is w but for the prior's error."""

    class Told(Predictor):
        def __call__(self, x_t, logsnr, y=None):
            return torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log().expand(len(x_t), 1, 3)

    small = make_chain(kind, "mutual", shape=(1,), levels=3)
    found = enumerated(small.process, Told())
    expected = Told()(torch.zeros(1, 1), None)[0, 0].exp()
    atol = 1e-12 if kind != "gaussian" else 0.5  # it does not forget all in four steps
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_the_true_posterior_comes_to_the_entropy(kind, make_chain, exact_bound, enumerated, every_state, together):
    """The mean bound under the data is minus their entropy, less KL(q(x_T) || p(x_T)), less what it costs that all
    components step at once: that falls as 1 / T."""
    data, costs = correlated(3, 2).reshape(3, 3), []
    entropy = -(data * data.log()).sum().item()
    for steps in (4, 16, 64):
        small = make_chain(kind, "cosine", shape=(2,), levels=3, steps=steps)
        predictor = TruePosterior(small, data)
        terms = exact_bound(small, predictor)
        at_end = data.flatten() @ together(small.marginals(every_state(3, (2,)), steps))
        prior = together(small.process.log_prior().exp().expand(1, 2, -1))[0]
        far = torch.special.xlogy(at_end, at_end / prior).nansum().item()
        costs.append(-(data.flatten() * sum(terms.values())).sum().item() - entropy - far)
    assert min(costs) > 0 and max(costs) < 0.1
    if (
        kind == "gaussian"
    ):  # no step to a neighbour is short enough, however many there are: exp(-1 / beta) of them matter
        return
    assert costs[0] / costs[1] == pytest.approx(4, rel=0.1) and costs[1] / costs[2] == pytest.approx(4, rel=0.05)
    found = enumerated(small.process, predictor)
    assert 0.5 * (found - data.flatten()).abs().sum() < 0.01


def any_order(predictor, data, levels):
    """The any-order autoregressive bound [N], exactly: over the number k of masks and over the subsets of that size,
    D / k times the cross-entropies at the masks (Hoogeboom et al. 2022, eq. 3)."""
    dims = data.shape[1]
    subsets = torch.cartesian_prod(*[torch.tensor([False, True])] * dims)[1:]
    bound = torch.zeros(len(data), dtype=torch.float64)
    for subset in subsets:
        k = int(subset.sum())
        x = data.masked_fill(subset, levels)
        log_w = predictor(x, torch.zeros(len(x))).gather(-1, data[..., None])[..., 0]
        bound += (log_w * subset).sum(1) / k / math.comb(dims, k)
    return bound


@pytest.mark.parametrize(
    ("schedule", "most"), [("linear", 200), ("cosine", 200), ("mutual", 1000)], ids=["linear", "cosine", "mutual"]
)
def test_many_steps_come_to_the_any_order_bound(schedule, most, make_chain, anything, exact_bound, every_state):
    """Of a network that is told no time. What is left falls as 1 / T; a schedule that ends above 0 has a prior term, and
    what it leaves unmasked is not paid for."""
    chains = [make_chain("absorbing", schedule, shape=(3,), levels=2, steps=steps) for steps in (10, 100, most)]
    predictor, data = anything(chains[0].process, timeless=True), every_state(2, (3,))
    limit = any_order(predictor, data, 2)
    if schedule == "linear":  # integrated from alpha(1) on: masks that are never there
        limit = partial(predictor, data, 2, chains[0].process.alpha(torch.ones((), dtype=torch.float64)).item())
        limit = limit - chains[0].process.kl_to_prior(data)
    errors = [(sum(exact_bound(chain, predictor).values()) - limit).abs().max().item() for chain in chains]
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.25)
    assert errors[2] == pytest.approx(errors[1] * 100 / most, rel=0.02) and errors[2] < 0.02


def partial(predictor, data, levels, least):
    """The same where a share m of components is masked with density 1 from 0 to 1 - `least`: sum over subsets of
    integral m^(k-1) (1-m)^(D-k) dm of the cross-entropies at the k masks."""
    dims, total = data.shape[1], torch.zeros(len(data), dtype=torch.float64)
    m = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * (1 - least)
    for subset in torch.cartesian_prod(*[torch.tensor([False, True])] * dims)[1:]:
        k = int(subset.sum())
        weight = (m ** (k - 1) * (1 - m) ** (dims - k)).mean() * (1 - least)
        x = data.masked_fill(subset, levels)
        log_w = predictor(x, torch.zeros(len(x))).gather(-1, data[..., None])[..., 0]
        total += weight * (log_w * subset).sum(1)
    return total


@pytest.mark.parametrize("schedule", ["linear", "cosine", "mutual"])
def test_continuous_time_is_the_any_order_bound(schedule, make_chain, anything, every_state, together):
    """The integral of `nats` over t, x_t by enumeration, by quadrature: whatever the schedule."""
    small = make_chain("absorbing", schedule, shape=(3,), levels=2)
    process = small.process
    predictor, data, states = anything(process, timeless=True), every_state(2, (3,)), every_state(3, (3,))
    process.bind((3,), 2, process.schedule, None)
    points, weights = gauss_legendre(12)
    log_w, total = predictor(states, torch.zeros(27)), torch.zeros(8, dtype=torch.float64)
    for u, weight in ((u, w) for part in range(8) for u, w in zip((points + part) / 8, weights / 8)):
        t = process.times(u[None])
        q = together(process.log_forward(torch.eye(2, dtype=torch.float64)[data].log(), t.expand(8)).exp())
        for row, x0 in enumerate(data):
            nats = process.nats(x0.expand(27, 3), states, log_w, t.expand(27)).sum(1)
            total[row] -= weight * (q[row] * nats)[q[row] > 0].sum()
    expected = any_order(predictor, data, 2)
    if schedule == "linear":
        expected = partial(predictor, data, 2, process.alpha(torch.ones((), dtype=torch.float64)).item())
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-6)


def gauss_legendre(num):
    """Points and weights of quadrature on [0, 1] (Golub & Welsch 1969)."""
    k = torch.arange(1, num, dtype=torch.float64)
    off = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (values + 1) / 2, vectors[0].square()


@pytest.mark.parametrize("process", [Uniform(), Absorbing()])
def test_an_image_is_a_row_of_its_pixels(process, bind, anything, enumerated):
    """[2, 1, 2] and [4] are one model: components are not rearranged."""
    p = []
    for shape in ((2, 1, 2), (4,)):
        bind(process, MutualInformation(), shape, 2, 3)
        p.append(enumerated(process, anything(process)))
    torch.testing.assert_close(*p)
