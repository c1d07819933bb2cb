"""The training that all families share: what a step draws, how gradients are clipped, what evaluation leaves alone."""

import math

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader

from datamodules.loaders import EvaluationLoader
from datamodules.toy import EightGaussians
from lightning_gen.callbacks import EMA, Checkpoints
from lightning_gen.diffusion import GaussianDiffusion
from lightning_gen.errors import NoLikelihood
from lightning_gen.generative_module import CHECKPOINT_KEY, GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.networks.mlp import MLP
from lightning_gen.optim import Warmup, WarmupCosine
from lightning_gen.random_source import GeneratorSource


class Steps(Callback):
    """The loss of each micro-batch, and the rate of each optimizer step."""

    def __init__(self) -> None:
        self.losses, self.norms, self.rates = [], [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


class Record(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.rows = {}

    def log_metrics(self, metrics, step=None) -> None:
        self.rows.setdefault(step, {}).update({k: v for k, v in metrics.items() if k != "epoch"})


@pytest.fixture
def losses(trainer, model, data):
    """losses(seed, ...): those of six steps; the data are in the same order whatever the seed."""

    def function(seed: int, *callbacks, before: int = 0, **kwargs) -> list[float]:
        module, steps = model(), Steps()
        module.seed = seed
        torch.manual_seed(before)
        trainer(6, steps, *callbacks, **kwargs).fit(module, data(micro_batch_size=4))
        return steps.losses

    return function


def test_the_losses_are_a_function_of_the_seed(losses):
    first = losses(0)
    assert len(first) == 12
    assert losses(0, before=123) == first  # dropout too, whatever the process has drawn before
    assert not set(losses(1)) & set(first)


def test_what_else_draws_does_not_matter(losses):
    class Draws(Callback):
        def on_train_batch_end(self, *args):
            torch.rand(17)

        on_validation_batch_start = on_train_batch_end

    assert losses(0, Draws(), EMA([0.9]), val_every=2) == losses(0)


def noise(model, data, trainer, rank: int = 0, seed: int = 0) -> dict[tuple[int, int], torch.Tensor]:
    """What the own and the shared source of each micro-step say, by (optimizer step, micro-batch)."""
    module, drawn = model(), {}
    module.seed = seed

    def loss(x, y=None):
        draws = module.draws(x)
        key = module.trainer.global_step, module.trainer.fit_loop.epoch_loop.batch_progress.total.started
        drawn[key] = torch.cat([draws.own.normal((5,)), draws.shared.normal((5,)), draws.rows.float()])
        return {"loss": sum(p.sum() for p in module.parameters())}

    module.training_loss = loss
    type(module).global_rank = property(lambda self: rank)
    try:
        trainer(3).fit(module, data(micro_batch_size=4))
    finally:
        del type(module).global_rank
    return drawn


def test_own_noise_differs_between_steps_micro_batches_ranks_and_seeds_and_shared_noise_between_steps(
    model, data, trainer
):
    here, there = noise(model, data, trainer), noise(model, data, trainer, rank=1)
    elsewhere = noise(model, data, trainer, seed=1)
    assert len(here) == 6
    own = {tuple(v[:5].tolist()) for v in (*here.values(), *there.values(), *elsewhere.values())}
    assert len(own) == 18
    shared = {step: {tuple(v[5:10].tolist()) for d in (here, there) for (s, _), v in d.items() if s == step}
              for step in range(3)}  # fmt: skip
    assert all(len(values) == 1 for values in shared.values()) and len(set.union(*shared.values())) == 3
    assert {tuple(v[10:].int().tolist()) for v in here.values()} == {(0, 1, 2, 3), (4, 5, 6, 7)}


def test_draws_outside_fit_are_the_global_state_and_the_batch_the_whole(model):
    module, x = model(), torch.zeros(5, 2)
    draws = module.draws(x)
    assert draws.total == 5 and torch.equal(draws.rows, torch.arange(5))
    torch.manual_seed(3)
    expected = torch.randn(5, 2)
    torch.manual_seed(3)
    assert torch.equal(module.draws(x).own.normal((5, 2)), expected)


def test_the_scope_of_draws_ends_also_on_an_exception(model):
    module, x = model(), torch.zeros(2, 2)
    outside = module.draws(x)
    with pytest.raises(ZeroDivisionError), module.drawing(outside):
        assert module.draws(x) is outside
        raise ZeroDivisionError
    assert module.draws(x) is not outside


@pytest.fixture(scope="module")
def diffusion():
    """A tiny diffusion of eight Gaussians whose network is not zero."""
    module = GaussianDiffusion((2,), None, None, lambda *args: MLP(*args, width=8, depth=1), eval_draws=2)
    module.configure_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 4)
    return module


def evaluate(verb: str, trainer, module, data) -> dict[str, float]:
    used = trainer(1, val_every=1)
    getattr(used, verb)(module, data, verbose=False)
    return {name: float(value) for name, value in used.callback_metrics.items()}


@pytest.mark.parametrize("verb, stage", [("validate", "val"), ("test", "test")])
@pytest.mark.parametrize("family", ["tiny", "diffusion"])
def test_evaluation_does_not_depend_on_the_batch_size_nor_on_the_global_state(
    trainer, model, data, diffusion, verb, stage, family
):
    results = []
    for size in (1, 3, 7, 100):
        module = model() if family == "tiny" else diffusion
        sets = data if family == "tiny" else lambda **k: EightGaussians(num_train=8, num_val=70, num_test=66, **k)
        module.configure_model()
        state = torch.manual_seed(size).get_state()
        results.append(evaluate(verb, trainer, module, sets(eval_batch_size=size)))
        assert torch.equal(torch.get_rng_state(), state)
    assert {f"{stage}/loss", f"{stage}/log_prob_nats"} <= results[0].keys()
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=2e-5)


def test_evaluation_terms_sum_to_the_log_probability_and_are_means_over_the_split(trainer, diffusion):
    data = EightGaussians(num_train=8, num_val=10, num_test=5)
    metrics = evaluate("validate", trainer, diffusion, data)
    terms = sum(metrics[f"val/{name}"] for name in ("prior", "diffusion", "reconstruction"))
    assert terms == pytest.approx(metrics["val/log_prob_nats"], rel=1e-5)
    assert "val/bits_per_dim" not in metrics  # densities of real vectors are no bits/dim
    used = trainer(1)
    rows = used.predict(diffusion, EightGaussians(num_train=8, num_val=5, num_test=10, eval_batch_size=4))
    index = torch.cat([row["index"] for row in rows])
    assert torch.equal(index, torch.arange(10))
    log_prob = torch.cat([row["log_prob_nats"] for row in rows])
    of_terms = [torch.cat([row[name] for row in rows]) for name in ("prior", "diffusion", "reconstruction")]
    torch.testing.assert_close(sum(of_terms), log_prob)
    tested = evaluate("test", trainer, diffusion, EightGaussians(num_train=8, num_val=5, num_test=10))
    assert log_prob.mean().item() == pytest.approx(tested["test/log_prob_nats"], rel=1e-5)


def test_a_batch_that_stands_in_for_no_example_does_not_count(trainer, model, data):
    class Crowd(type(data())):
        def val_dataloader(self):
            loaders = [EvaluationLoader(self.split("val"), 4, rank, 13) for rank in range(13)]
            return DataLoader([batch for loader in loaders for batch in loader], batch_size=None)

    module, crowded = model(), model()
    alone = evaluate("validate", trainer, module, data())
    assert evaluate("validate", trainer, crowded, Crowd(batch_size=8)) == pytest.approx(alone, rel=1e-6)
    assert module.num_measured == crowded.num_measured == 10


def test_a_model_of_the_uniform_law_is_validated_at_log2_of_its_levels(trainer, model, data):
    module = model()
    module.levels = 17
    uniform = -2 * torch.log(torch.tensor(17.0, dtype=torch.float64))
    module.log_likelihood = lambda x, *args, **kwargs: Likelihood(uniform.expand(len(x)), "exact", 2)
    assert evaluate("validate", trainer, module, data())["val/bits_per_dim"] == pytest.approx(4.087462841250339)


def test_a_family_without_a_likelihood_is_validated_by_its_loss(trainer, model, data):
    module = model()
    module.log_likelihood = lambda *args, **kwargs: GenerativeModule.log_likelihood(module, *args, **kwargs)
    metrics = evaluate("validate", trainer, module, data())
    assert metrics.keys() == {"val/loss", "val/scale"}
    with pytest.raises(NoLikelihood, match="TinyModel has no likelihood"):
        module.log_likelihood(torch.zeros(1, 2))


def test_a_term_stands_in_the_place_of_a_part_of_the_loss_that_has_its_name(trainer, model, data):
    """As `prior` of a learned schedule, whose loss pays for its ends per dimension, and with another sign."""
    module = model()
    module.log_likelihood = lambda x, *args, **kwargs: Likelihood.from_terms(
        {"scale": torch.full((len(x),), -2.0)}, "density-elbo", 2
    )
    assert evaluate("validate", trainer, module, data())["val/scale"] == -2.0


def norm_of(parameters) -> float:
    return torch.stack([p.grad.float().norm() for p in parameters]).norm().item()


class Norm(Callback):
    """The norm of the whole gradient before it is clipped, at each optimizer step."""

    def __init__(self) -> None:
        self.before = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.before.append(norm_of(module.parameters()))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("micro, log_every", [(None, 1), (4, 1), (None, 4)])
def test_a_fused_optimizer_gets_clipped_gradients(trainer, model, data, precision, micro, log_every):
    limit, record, clipped = 0.5, Record(), []

    class Watched(torch.optim.AdamW):
        def step(self, closure=None):
            def then():
                loss = closure()
                clipped.append(norm_of(p for group in self.param_groups for p in group["params"]))
                return loss

            return super().step(then)

    module, norm = model(optimizer=lambda params: Watched(params, lr=1e-2, fused=True)), Norm()
    used = trainer(6, norm, gradient_clip_val=limit, precision=precision, logger=record, log_every_n_steps=log_every)
    used.fit(module, data(micro_batch_size=micro))
    assert len(clipped) == 6 and max(norm.before) > limit
    for before, after in zip(norm.before, clipped):
        assert after == pytest.approx(min(before, limit), rel=1e-3)
    logged = {step: row["optim/grad_norm"] for step, row in record.rows.items()}
    expected = {step: norm.before[step - 1] for step in range(log_every, 7, log_every)}
    assert logged == pytest.approx(expected, rel=1e-4)


def test_without_a_limit_gradients_are_as_they_were_and_their_norm_is_logged(trainer, model, data, equal):
    record, norm, quiet, loud = Record(), Norm(), model(), model()
    trainer(5, norm, logger=record).fit(loud, data())
    trainer(5, log_every_n_steps=100).fit(quiet, data())
    assert equal(loud.state_dict(), quiet.state_dict())
    assert [row["optim/grad_norm"] for row in record.rows.values()] == pytest.approx(norm.before, rel=1e-4)


@pytest.mark.parametrize("limit", [0, -1.0])
@pytest.mark.parametrize("algorithm", [None, "norm", "value"])
def test_a_limit_that_is_not_positive_is_none(trainer, model, data, equal, limit, algorithm):
    """As in Lightning's own clipping; a negative one would turn the gradients round."""
    plain, clipped = model(), model()
    trainer(3).fit(plain, data())
    trainer(3, gradient_clip_val=limit, gradient_clip_algorithm=algorithm).fit(clipped, data())
    assert equal(plain.state_dict(), clipped.state_dict())


@pytest.mark.parametrize("log_every", [1, 100])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_as_lightning_clips_them(trainer, model, data, log_every, algorithm):
    class Stock(type(model())):
        configure_gradient_clipping = LightningModule.configure_gradient_clipping

    sgd = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.1)}  # Adam's steps do not depend on the scale
    ours, theirs = model(**sgd), Stock((2,), None, None, **sgd)
    for module in (ours, theirs):
        used = trainer(3, gradient_clip_val=0.05, gradient_clip_algorithm=algorithm, log_every_n_steps=log_every)
        used.fit(module, data())
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


@pytest.mark.parametrize("micro, batches", [(None, 1), (2, 4)])
def test_the_learning_rate_moves_once_an_optimizer_step(trainer, model, data, micro, batches):
    module, steps = model(optimizer=lambda p: torch.optim.SGD(p, lr=0.6), lr_schedule=lambda o: Warmup(o, 5)), Steps()
    trainer(8, steps).fit(module, data(micro_batch_size=micro))
    assert steps.rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6]) and len(steps.losses) == 8 * batches


def test_a_schedule_without_a_length_has_the_trainings(trainer, model, data):
    module, steps = (
        model(optimizer=lambda p: torch.optim.SGD(p, lr=0.6), lr_schedule=lambda o: WarmupCosine(o)),
        Steps(),
    )
    trainer(4, steps).fit(module, data())
    assert steps.rates == pytest.approx([0.3 * (1 + math.cos(math.pi * k / 4)) for k in range(4)])


def test_a_schedule_of_an_endless_training_stays_at_its_height(trainer, model, data):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 6

    module, steps = (
        model(optimizer=lambda p: torch.optim.SGD(p, lr=0.6), lr_schedule=lambda o: WarmupCosine(o, None, 2)),
        Steps(),
    )
    trainer(-1, steps, Stop()).fit(module, data())
    assert steps.rates == pytest.approx([0.2, 0.4, 0.6, 0.6, 0.6, 0.6])


@pytest.mark.parametrize("micro", [None, 2])
def test_logged_steps_count_optimizer_steps_from_one(trainer, model, data, micro):
    record = Record()
    trainer(7, val_every=4, log_every_n_steps=3, logger=record).fit(model(), data(micro_batch_size=micro))
    train = [step for step, row in record.rows.items() if "train/loss" in row]
    val = [step for step, row in record.rows.items() if "val/loss" in row]
    assert (train, val) == ([3, 6], [4])
    assert {"train/loss", "train/scale", "optim/grad_norm"} <= record.rows[6].keys()


class Observer(Callback):
    """Logs, as a user's callback does, the step it sees: on every batch, on every third, and of each epoch's end."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        module.log("seen", float(trainer.global_step))
        if trainer.global_step == 4:
            module.log("rare", 1.0)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        module.log("begun", float(trainer.global_step))
        module.log("step", 7.0)  # Lightning takes it for the step

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx):
        module.log("validated", float(trainer.global_step), on_step=True, on_epoch=True)

    def on_train_epoch_end(self, trainer, module):
        module.log("whole", float(trainer.global_step))


@pytest.mark.parametrize("micro", [None, 4])
def test_what_a_callback_logs_stands_at_the_projects_steps_and_once(trainer, model, data, tmp_path, micro):
    def run(steps: int, path: str | None = None) -> dict[int, dict[str, float]]:
        record = Record()
        callbacks = Observer(), LearningRateMonitor(), Checkpoints(1, keep=9)
        used = trainer(steps, *callbacks, val_every=4, log_every_n_steps=3, logger=record)
        used.fit(model(lr_schedule=lambda o: Warmup(o, 9)), data(micro_batch_size=micro), ckpt_path=path)
        return record.rows

    rows = run(8)
    logged = {name: {step: row[name] for step, row in rows.items() if name in row} for name in
              ("train/loss", "seen", "begun", "rare", "lr-AdamW", "val/loss", "validated_epoch", "whole")}  # fmt: skip
    assert list(logged["train/loss"]) == list(logged["lr-AdamW"]) == [3, 6] and list(rows) == [3, 4, 6, 8]
    assert logged["seen"] == {3: 3.0, 6: 6.0} and logged["begun"] == {3: 2.0, 6: 5.0}
    assert logged["rare"] == {6: 1.0}  # and not again
    assert list(logged["val/loss"]) == [4, 8] and logged["validated_epoch"] == {4: 4.0, 8: 8.0}
    assert logged["whole"] == {8: 8.0}
    for cut in (2, 3):
        resumed = run(8, str(tmp_path / "checkpoints" / f"step_{cut:08d}.ckpt"))
        assert resumed == {step: row for step, row in rows.items() if step > cut}, cut


@pytest.mark.parametrize("micro", [None, 4])
def test_a_resumed_run_logs_on_the_steps_on_which_the_whole_run_does(trainer, model, data, tmp_path, micro):
    whole = Record()
    trainer(9, Checkpoints(1, keep=9), log_every_n_steps=3, logger=whole).fit(model(), data(micro_batch_size=micro))
    assert list(whole.rows) == [3, 6, 9]
    for cut in (2, 3, 5):
        resumed, path = Record(), str(tmp_path / "checkpoints" / f"step_{cut:08d}.ckpt")
        trainer(9, log_every_n_steps=3, logger=resumed).fit(model(), data(micro_batch_size=micro), ckpt_path=path)
        assert resumed.rows == {step: row for step, row in whole.rows.items() if step > cut}


def test_the_data_dependent_start_happens_once_and_not_on_resume_or_evaluation(trainer, model, data, tmp_path):
    calls = []

    class Model(type(model())):
        def initialize(self, x, y=None):
            calls.append(x.clone())
            with torch.no_grad():
                self.network[0].bias.copy_(torch.tensor([7.0, 0, 0, 0]))

    def make():
        return Model((2,), None, None, optimizer=lambda params: torch.optim.SGD(params, lr=0.0))

    module, used = make(), trainer(2, EMA([0.5]))
    used.fit(module, data(micro_batch_size=4))
    assert len(calls) == 1 and torch.equal(calls[0], data().first_batch().x) and len(calls[0]) == 8
    with module.ema_scope():
        assert module.network[0].bias[0].item() == 7.0  # the average began after it
    used.save_checkpoint(tmp_path / "c.ckpt")
    trainer(3).fit(make(), data(), ckpt_path=str(tmp_path / "c.ckpt"))
    trainer(3).test(make(), data(), verbose=False)
    loaded = make()
    loaded.configure_model()  # as `load` does
    loaded.load_state_dict(module.state_dict())
    trainer(3).fit(loaded, data())
    assert len(calls) == 1


def test_a_checkpoint_says_its_data_and_recipe_as_primitives(trainer, model, data, tmp_path):
    module, used = model(), trainer(1)
    module.recipe = {"model": {"class_path": "a.B"}, "data": {}}
    used.fit(module, data())
    used.save_checkpoint(tmp_path / "c.ckpt")
    ours = torch.load(tmp_path / "c.ckpt", weights_only=True)[CHECKPOINT_KEY]
    assert ours == {
        "schema": 1,
        "recipe": module.recipe,
        "training": None,
        "data": {"shape": [2], "levels": None, "num_classes": None},
        "symbols": None,
    }


def test_samples_without_a_source_are_always_the_same(model):
    module = model()
    module.configure_model()
    module.eval()
    state = torch.get_rng_state()
    first = module.sample(70)
    assert torch.equal(first, module.sample(70)) and torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(module.sample(5), first[:5])
    assert not torch.equal(module.sample(70, rng=GeneratorSource(1)), first)


def test_lightning_alone_refuses_what_the_override_allows(trainer, model, data):
    # when this fails, Lightning has mended it and the override may go
    class Stock(type(model())):
        configure_gradient_clipping = LightningModule.configure_gradient_clipping

    module = Stock((2,), None, None, optimizer=lambda p: torch.optim.AdamW(p, fused=True))
    used = trainer(1, gradient_clip_val=1.0, precision="bf16-mixed")
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        used.fit(module, data())
