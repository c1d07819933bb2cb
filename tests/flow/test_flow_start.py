"""The data-dependent start of a flow: once, before training, and by nothing else."""

import copy
from functools import partial

import pytest
import torch

from datamodules import Digits
from lightning_gen.callbacks import EMA, Checkpoints
from lightning_gen.flow import ActNorm, NormalizingFlow
from lightning_gen.run_directory import checkpoint_files

X = torch.randint(17, (12, 1, 8, 8), generator=torch.Generator().manual_seed(5)).to(torch.uint8)


def actnorms(module):
    return {name: m for name, m in module.named_modules() if isinstance(m, ActNorm)}


def test_initialize_normalizes_every_actnorm_of_that_batch(made):
    module = made(logit=0.05)
    module.initialize(X)
    seen = {}
    for name, layer in actnorms(module).items():
        layer.register_forward_hook(
            lambda _, args, out, name=name: seen.update({name: out[0].transpose(0, 1).flatten(1)})
        )
    module.initialize(X)  # the same noise: nothing moves
    assert len(seen) == 4
    for z in seen.values():
        torch.testing.assert_close(z.mean(1), torch.zeros(len(z)), atol=1e-4, rtol=0)
        torch.testing.assert_close(z.std(1, correction=0), torch.ones(len(z)), atol=1e-4, rtol=0)


def test_each_rank_starts_from_its_share(made, equal, monkeypatch):
    """And all come to what one starts from: the moments are of all shares."""
    from lightning_gen.flow import flow_model
    from lightning_gen.flow.bijections import actnorm

    alone = made()
    alone.initialize(X)

    def moments_of(share, said):
        """What a rank says, layer by layer, given what all said of the layers before."""
        own = []

        def mean(values):
            own.append(values)
            return said[len(own) - 1] if len(own) <= len(said) else values

        monkeypatch.setattr(actnorm, "mean_over_ranks", mean)
        monkeypatch.setattr(flow_model, "rows_of_rank", lambda num: share)
        module = made()
        module.initialize(X)
        return module, own

    said = []
    for layer in range(len(actnorms(alone))):
        shares = [moments_of(share, said)[1][layer] for share in (slice(6), slice(6, 12))]
        assert not torch.allclose(*shares)
        said.append(sum(shares) / 2)
    for share in (slice(6), slice(6, 12)):
        module, _ = moments_of(share, said)
        for one, other in zip(actnorms(alone).values(), actnorms(module).values()):
            torch.testing.assert_close(one.shift, other.shift, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(one.log_scale, other.log_scale, rtol=1e-4, atol=1e-5)


def test_the_start_is_a_function_of_the_data_and_the_seed(made, equal):
    first, again, other = made(), made(), made()
    other.seed = 1
    for module in (first, again, other):
        torch.rand(3)  # whatever the global state is
        module.initialize(X)
    assert equal(first.state_dict(), again.state_dict()) and not equal(first.state_dict(), other.state_dict())


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_nothing_but_initialize_sets_actnorms(made, equal, mode):
    for initialized in (False, True):
        module = getattr(made(logit=0.05), mode)()
        if initialized:
            module.initialize(X)
        before = copy.deepcopy(module.state_dict())
        module.training_loss(X)["loss"].mean().backward()
        module.log_likelihood(X, draws=2)
        module.sample(3)
        module.interpolate(X[:2], X[2:4], 3)
        assert equal(module.state_dict(), before)


def test_initialize_happens_in_fit_once_and_before_the_averages(made, trainer, equal, monkeypatch, tmp_path):
    """On the first real batch. A resumed run has the checkpoint's parameters, whatever its data would say."""
    calls = []
    honest = NormalizingFlow.initialize
    monkeypatch.setattr(NormalizingFlow, "initialize", lambda self, x, y=None: (calls.append(x), honest(self, x, y)))

    def begin():
        return made(num_classes=10, scale=None, optimizer=partial(torch.optim.SGD, lr=0.0))

    module, data = begin(), Digits(batch_size=32)
    trainer(2, EMA([0.9]), Checkpoints(1)).fit(module, data)
    assert len(calls) == 1 and torch.equal(calls[0], data.first_batch().x)
    assert next(iter(actnorms(module).values())).shift.abs().max() > 0.1
    checkpoint = torch.load(checkpoint_files(tmp_path)[0], weights_only=True)
    averaged = checkpoint["lightning_gen"]["averages"]["weights"]["0.9"]
    for name, parameter in module.named_parameters():  # with a rate of zero: the average began at what was initialized
        torch.testing.assert_close(averaged[name], parameter.detach())
    resumed = begin()
    trainer(3, EMA([0.9])).fit(
        resumed, Digits(batch_size=32), ckpt_path=checkpoint_files(tmp_path)[0], weights_only=True
    )
    assert len(calls) == 1 and resumed.trainer.global_step == 3
    assert equal(resumed.state_dict(), module.state_dict())
