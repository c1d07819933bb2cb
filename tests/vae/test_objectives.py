"""What the knobs of a loss do, and that they do nothing else."""

import math

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.networks import PlainMLP
from lightning_gen.random_source import GeneratorSource
from lightning_gen.vae import ELBO, IWAE, Bernoulli, Diagonal, SingleLayer, StandardNormal

PIXELS, LATENTS, B = 6, 3, 32


def made(seed: int = 0) -> SingleLayer:
    torch.manual_seed(seed)
    observation, prior = Bernoulli(), StandardNormal()
    observation.bind((PIXELS,), 2)
    prior.bind(LATENTS, (PIXELS,))
    networks = PlainMLP((PIXELS,), (2 * LATENTS,), widths=[16]), PlainMLP((LATENTS,), (PIXELS,), widths=[16])
    return SingleLayer(*(network.double() for network in networks), Diagonal(), prior, observation, LATENTS)


MODEL = made()
X = (torch.rand(B, PIXELS, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)


def parts(objective, step=None, seed=1):
    """Means over the batch."""
    return {name: value.mean() for name, value in objective(MODEL, X, None, GeneratorSource(seed), step)[0].items()}


def gradients(loss):
    found = torch.autograd.grad(loss, [*MODEL.encoder.parameters(), *MODEL.decoder.parameters()])
    cut = len(list(MODEL.encoder.parameters()))
    return torch.cat([g.flatten() for g in found[:cut]]), torch.cat([g.flatten() for g in found[cut:]])


def test_the_loss_is_distortion_and_rate():
    whole = parts(ELBO())
    torch.testing.assert_close(whole["loss"], whole["distortion"] + whole["rate"])
    for beta in (0.0, 0.3, 4.0):
        other = parts(ELBO(beta=beta))
        torch.testing.assert_close(other["loss"], whole["distortion"] + beta * whole["rate"])
        assert other["rate"] == whole["rate"] and other["distortion"] == whole["distortion"]


def test_beta_warms_up_by_steps():
    objective = ELBO(beta=2.0, warmup_steps=10)
    assert [objective.beta_at(step) for step in (0, 5, 10, 11, None)] == [0.0, 1.0, 2.0, 2.0, 2.0]
    early = parts(objective, step=0)
    assert early["loss"] == early["distortion"]
    torch.testing.assert_close(parts(objective, step=5)["loss"], parts(ELBO())["loss"])


def test_bits_that_are_free_have_no_gradient():
    rate = parts(ELBO())["rate"].item()
    free, dear = parts(ELBO(free_bits=2 * rate)), parts(ELBO(free_bits=0.5 * rate))
    torch.testing.assert_close(free["loss"].item(), free["distortion"].item() + 2 * rate)
    assert dear["loss"] == parts(ELBO())["loss"]
    for mine, plain in zip(gradients(free["loss"]), gradients(parts(ELBO())["distortion"])):
        torch.testing.assert_close(mine, plain)


def test_free_bits_of_each_dimension():
    """The cost is the sum over dimensions of max(free, mean rate), which the whole layer's is not."""
    rates = MODEL.infer(X, None).kl_to_standard().mean(0)
    threshold = rates.sort().values[:2].mean().item()  # one dimension below it, two above
    objective = ELBO(free_bits=threshold, per_dimension=True)
    found = parts(objective)
    torch.testing.assert_close(found["loss"] - found["distortion"], rates.clamp(min=threshold).sum())
    with pytest.raises(UserError, match="per_dimension"):
        objective.check(layers=1, splits=False)


def test_many_samples_lower_the_importance_weighted_loss():
    """-IWAE-1 is minus the sampled ELBO; IWAE-K in mean rises with K."""
    one = parts(IWAE(1))["loss"]
    torch.testing.assert_close(one, parts(ELBO(sampled=True))["loss"])
    losses = [sum(parts(IWAE(k), seed=s)["loss"].item() for s in range(40)) / 40 for k in (1, 4, 16)]
    assert losses[0] > losses[1] > losses[2]


def test_samples_are_weighed_as_the_definition_says():
    loss, passed = IWAE(7)(MODEL, X, None, GeneratorSource(3), None)
    weights = torch.zeros(7, B, dtype=torch.float64)
    for k, z in enumerate(passed.z[0]):
        q = MODEL.infer(X, None)
        p = MODEL.observation.log_prob(MODEL.decode(z, None), X) - 0.5 * z.square().sum(1)
        weights[k] = p + 0.5 * ((z - q.mean) * torch.exp(-q.log_std)).square().sum(1) + q.log_std.sum(1)
    torch.testing.assert_close(loss["loss"], -(weights.logsumexp(0) - math.log(7)))


def test_dreg_has_the_same_value_and_mean_gradient_and_less_variance():
    """Tucker et al. 2019: the encoder's gradient in another form; the decoder's is the same one."""
    plain, doubly = [], []
    for seed in range(150):
        losses = [parts(IWAE(8, dreg=dreg), seed=seed)["loss"] for dreg in (False, True)]
        torch.testing.assert_close(losses[0], losses[1])
        (encoder, decoder), (other, same) = (gradients(loss) for loss in losses)
        torch.testing.assert_close(decoder, same)
        plain.append(encoder)
        doubly.append(other)
    plain, doubly = torch.stack(plain), torch.stack(doubly)
    difference = plain - doubly
    score = difference.mean(0) / (difference.std(0) / len(plain) ** 0.5).clamp(min=1e-12)
    assert float(score.abs().max()) < 5 and float(score.square().mean()) < 1.5
    assert doubly.var(0).sum() < 0.8 * plain.var(0).sum()


def test_knobs_that_mean_nothing_are_refused():
    for wrong in (lambda: ELBO(beta=-1), lambda: ELBO(free_bits=-1), lambda: ELBO(samples=0), lambda: IWAE(0)):
        with pytest.raises(UserError):
            wrong()
    with pytest.raises(UserError, match="dreg: false"):
        IWAE(5, dreg=True).check(layers=2, splits=True)
