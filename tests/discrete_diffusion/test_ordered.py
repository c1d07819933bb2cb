"""Laws of the ordered absorbing process: an autoregressive model whose bound is the chain rule."""

import pytest
import torch

from lightning_gen.discrete_diffusion import Cosine, Linear, MutualInformation, OrderedAbsorbing, VariationalBound
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource


def chain_rule(process, predictor, data, order):
    """log p by hand: each component given those before it in `order`, the others being masks."""
    total = torch.zeros(len(data), dtype=torch.float64)
    for k, d in enumerate(order):
        x = data.flatten(1).clone()
        x[:, order[k:]] = process.levels
        told = process.logsnr(torch.tensor(1 - k / len(order), dtype=torch.float64))
        log_w = predictor(x.reshape(data.shape), told.expand(len(data))).flatten(1, -2)
        total += log_w[:, d].gather(1, data.flatten(1)[:, d : d + 1])[:, 0]
    return total


@pytest.mark.parametrize("seed", [None, 0, 5])
@pytest.mark.parametrize("shape", [(4,), (2, 1, 2)])
def test_the_whole_sum_is_the_chain_rule(seed, shape, bind, anything, every_state, enumerated):
    process = bind(OrderedAbsorbing(seed), Cosine(), shape, 3, None)
    predictor, data = anything(process), every_state(3, shape)
    order = process.place.flatten().argsort().tolist()
    expected = chain_rule(process, predictor, data, order)
    found = VariationalBound(exact=True)(predictor, process, data, None, 3, GeneratorSource(0))
    assert found.kind == "exact" and found.num_dims == 4
    torch.testing.assert_close(found.log_prob, expected, rtol=1e-12, atol=1e-12)
    assert found.log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(enumerated(process, predictor).log(), expected, rtol=1e-12, atol=1e-12)
    assert not found.terms["prior"].any()


def test_one_evaluation_a_component_is_all_it_takes(bind, anything):
    process = bind(OrderedAbsorbing(), Cosine(), (4,), 3, None)
    predictor = anything(process)
    VariationalBound(exact=True)(predictor, process, torch.zeros(2, 4, dtype=torch.uint8), None, 5, GeneratorSource(0))
    assert len(predictor.asked) == 4


def test_single_draws_have_the_same_mean(bind, anything):
    process = bind(OrderedAbsorbing(2), Cosine(), (5,), 3, None)
    predictor, x = anything(process), torch.tensor([[2, 0, 1, 1, 0]]).expand(4000, 5)
    exact = VariationalBound(exact=True)(predictor, process, x[:1], None, 1, GeneratorSource(0)).log_prob
    found = VariationalBound()(predictor, process, x, None, 1, GeneratorSource(1))
    assert found.kind == "elbo"
    error = found.log_prob.std() / 4000**0.5
    assert error > 0 and (found.log_prob.mean() - exact).abs() < 4 * error


def test_the_order_is_that_of_the_data_or_of_a_seed(bind):
    orders = [bind(OrderedAbsorbing(seed), Cosine(), (2, 3, 5), 3, None).place for seed in (None, 0, 1, 0)]
    assert torch.equal(orders[0].flatten(), torch.arange(30))
    for order in orders:
        assert order.shape == (2, 3, 5) and order.flatten().sort().values.tolist() == list(range(30))
    assert torch.equal(orders[1], orders[3]) and not torch.equal(orders[1], orders[2])


def test_the_last_of_the_order_are_masked_first(bind):
    process = bind(OrderedAbsorbing(), Linear(), (2, 3, 5), 7, 30)
    x0 = torch.arange(30).reshape(1, 2, 3, 5) % 7
    for i in range(31):
        x_t = process.diffuse(x0, torch.tensor([i / 30], dtype=torch.float64), GeneratorSource(0)).flatten()
        assert x_t[: 30 - i].equal(x0.flatten()[: 30 - i]) and (x_t[30 - i :] == 7).all()


def test_the_network_is_told_how_much_is_masked_whatever_the_schedule(bind):
    t = torch.arange(1, 4, dtype=torch.float64) / 4
    for schedule in (Linear(), Cosine(), MutualInformation()):
        told = bind(OrderedAbsorbing(), schedule, (4,), 3, None).logsnr(t)
        torch.testing.assert_close(told.sigmoid().double(), 1 - t)


def test_another_number_of_steps_is_refused():
    with pytest.raises(UserError, match="give 4"):
        OrderedAbsorbing().bind((4,), 3, Cosine(), 5)
