"""The likelihood of some examples is the part of the likelihood of all; its means carry their errors."""

import io
import math

import pytest
import torch

from lightning_gen.diffusion.oracles import GaussianOracle
from lightning_gen.errors import NoLikelihood, UserError
from lightning_gen.evaluation.likelihoods import likelihood, likelihood_metrics
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood, Profile


@pytest.fixture
def split(data):
    return data().split("train")


@pytest.fixture
def modules(model, split):
    """A model of two terms, and a diffusion with its profile."""
    tiny, oracle = model(), GaussianOracle((2,), None, None)
    for module in (tiny, oracle):
        module.configure_model()
        module.eval()
    oracle.initialize(split.x)
    return tiny, oracle


def close(a, b):
    assert a.kind == b.kind and a.num_dims == b.num_dims and (a.profile is None) == (b.profile is None)
    pairs = [(a.log_prob, b.log_prob), (a.terms, b.terms)]
    if a.profile is not None:
        assert a.profile.ends == b.profile.ends
        pairs += [(getattr(a.profile, name), getattr(b.profile, name)) for name in ("logsnr", "density", "weight")]
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_parts_are_those_of_the_whole(modules, split):
    for module in modules:
        whole = Likelihood.concatenated(list(likelihood(module, split, range(64), 64, seed=1, draws=2)))
        shares = [range(0), range(0, 21), range(21, 64)]
        parts = [part for share in shares for part in likelihood(module, split, share, 5, seed=1, draws=2)]
        assert [len(part) for part in parts] == [5, 5, 5, 5, 1, 5, 5, 5, 5, 5, 5, 5, 5, 3]
        close(Likelihood.concatenated(parts), whole)
        assert whole.log_prob.device.type == "cpu" and not whole.log_prob.requires_grad
        other = Likelihood.concatenated(list(likelihood(module, split, range(64), 64, seed=2, draws=2)))
        assert not torch.equal(other.log_prob, whole.log_prob)


def test_a_cut_measurement_goes_on_from_what_was_kept(modules, split):
    for module in modules:
        whole = list(likelihood(module, split, range(64), 10, seed=0, draws=3))
        kept = io.BytesIO()
        torch.save([part.state() for part in whole[:4]], kept)
        kept.seek(0)
        restored = [Likelihood.from_state(state) for state in torch.load(kept, weights_only=True)]
        rest = list(likelihood(module, split, range(40, 64), 10, seed=0, draws=3))
        close(Likelihood.concatenated([*restored, *rest]), Likelihood.concatenated(whole))


def test_batches_are_measured_as_they_are_asked_for(modules, split):
    module, calls, done = modules[0], [], []
    measure = module.log_likelihood
    module.log_likelihood = lambda x, *args, **how: calls.append((len(x), how["estimator"])) or measure(x, **how)
    batches = likelihood(module, split, range(3, 14), 5, 0, 1, estimator="given", advance=done.append)
    assert calls == []
    assert len(next(batches)) == 5 and calls == [(5, "given")] and done == []
    assert len(list(batches)) == 2 and done == [5, 5, 1]
    assert torch.is_grad_enabled()


def test_a_family_without_a_likelihood_says_so(split):
    class Mute(GenerativeModule):
        def build(self): ...
        def training_loss(self, x, y=None): ...
        def sample(self, num, y=None, **how): ...

    with pytest.raises(NoLikelihood, match="Mute"):
        next(likelihood(Mute((2,), None, None), split, range(4), 4, 0, 1))


def test_means_carry_their_standard_errors():
    terms = {"prior": torch.tensor([-1.0, -2.0, -3.0, -6.0]), "reconstruction": torch.tensor([0.0, 0.0, -4.0, -4.0])}
    metrics = likelihood_metrics(Likelihood.from_terms(terms, "elbo", 8))
    assert list(metrics)[::2] == ["elbo_nats", "prior_nats", "reconstruction_nats", "bits_per_dim"]
    assert metrics["elbo_nats"] == -5 and metrics["prior_nats"] == -3 and metrics["reconstruction_nats"] == -2
    assert metrics["elbo_nats_se"] == pytest.approx(math.sqrt((16 + 9 + 4 + 25) / 3 / 4))
    assert metrics["prior_nats_se"] == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))
    for end in ("", "_se"):
        assert metrics[f"bits_per_dim{end}"] == pytest.approx(abs(metrics[f"elbo_nats{end}"]) / 8 / math.log(2))


@pytest.mark.parametrize("kind", ["exact", "elbo", "iwae-50", "dequantized", "ode", "density", "density-elbo"])
def test_names_say_what_was_measured(kind):
    metrics = likelihood_metrics(Likelihood(torch.tensor([-1.0, -2.0]), kind, 2))
    assert ("elbo_nats" in metrics) == kind.endswith("elbo") != ("log_prob_nats" in metrics)
    assert ("bits_per_dim" in metrics) == (not kind.startswith("density"))


def test_many_examples_are_averaged_in_double_precision():
    value = torch.full((3_000_000,), -1843.1)
    metrics = likelihood_metrics(Likelihood(value, "exact", 784))
    assert metrics["log_prob_nats"] == pytest.approx(float(value[0]), rel=1e-12)
    assert metrics["log_prob_nats_se"] == pytest.approx(0, abs=1e-9)


def test_one_example_has_no_error():
    metrics = likelihood_metrics(Likelihood(torch.tensor([-1.0]), "exact", 1))
    assert metrics["log_prob_nats"] == -1 and "log_prob_nats_se" not in metrics  # NaN is no JSON


def test_a_profile_does_not_stand_in_the_way():
    columns = torch.ones(4, 2, 3)
    measured = Likelihood(torch.tensor([-1.0, -2.0]), "elbo", 1, profile=Profile(*columns, ends=(0.0, 1.0)))
    assert likelihood_metrics(measured)["elbo_nats"] == -1.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_examples_that_are_not_finite_are_not_averaged(bad):
    log_prob = torch.zeros(9)
    log_prob[[4, 7]] = bad
    with pytest.raises(UserError, match=r"2 of 9 examples is NaN or infinite, the first of them number 4.*draws"):
        likelihood_metrics(Likelihood(log_prob, "elbo", 1))
