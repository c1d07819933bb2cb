"""A run whose loss or weights are no longer finite stops, names the step, and keeps its last good checkpoint."""

import math

import pytest
import torch
from torch import nn

from lightning_gen.callbacks import EMA, Checkpoints
from lightning_gen.divergence import LossWatch, check_weights
from lightning_gen.errors import Diverged
from lightning_gen.run_directory import checkpoint_files


def alone(value):
    return value


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_step_is_named_and_each_loss_is_looked_at_once(bad):
    watch = LossWatch()
    watch.check(alone)
    for step, loss in [(1, 0.5), (2, 3e38), (3, bad), (4, 1.0), (5, math.nan)]:
        watch.add(step, torch.tensor(loss))
    with pytest.raises(Diverged, match="at step 3;"):
        watch.check(alone)
    watch.add(6, torch.tensor(-1e30))
    watch.check(alone)


def test_a_rank_stops_for_what_another_has_seen():
    """The other rank's bad step, 2, came first; a rank without any stops at the same check."""
    watch = LossWatch()
    watch.add(3, torch.tensor(1.0))
    with pytest.raises(Diverged, match="at step 2;"):
        watch.check(lambda value: torch.maximum(value, torch.tensor(-2.0)))


def test_no_graph_is_kept_alive():
    watch = LossWatch()
    watch.add(1, torch.ones(1, requires_grad=True).sum())
    assert not watch._losses[0][1].requires_grad


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_are_looked_at_too(bad):
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[0, 0] = 3e38  # large is finite, also where its square is not
    check_weights(layer.parameters(), 7, alone)
    with torch.no_grad():
        layer.bias[1] = bad
    with pytest.raises(Diverged, match="after step 7"):
        check_weights(layer.parameters(), 7, alone)


@pytest.mark.parametrize("micro", [None, 4])
@pytest.mark.parametrize("log_every, seen_by", [(1, "the log"), (50, "the checkpoint")])
def test_a_run_stops_and_its_last_checkpoint_is_good(trainer, model, data, tmp_path, micro, log_every, seen_by):
    """The loss is infinite at step 7; whether a logged step or the next checkpoint finds it, step 6 remains."""
    module = model()
    honest = module.training_loss

    def loss(x, y=None):
        parts = honest(x, y)
        return {**parts, "loss": parts["loss"] / (0.0 if module.trainer.global_step == 6 else 1.0)}

    module.training_loss = loss
    used = trainer(20, EMA([0.5]), Checkpoints(2), log_every_n_steps=log_every)
    with pytest.raises(Diverged, match="at step 7;"):
        used.fit(module, data(micro_batch_size=micro))
    newest = checkpoint_files(tmp_path)[0]
    assert newest.name == "step_00000006.ckpt"
    content = torch.load(newest, weights_only=True)
    held = [*content["state_dict"].values(), *content["lightning_gen"]["averages"]["weights"]["0.5"].values()]
    assert all(torch.isfinite(value.double()).all() for value in held)


def test_weights_that_broke_at_a_finite_loss_are_not_saved(trainer, model, data, tmp_path):
    """A gradient may be NaN where the loss is not, as that of a root at zero: the loss shows it a step too late."""
    module = model()
    honest = module.training_loss

    def loss(x, y=None):
        parts = honest(x, y)
        zero = 0.0 if module.trainer.global_step == 3 else 1.0
        return {"loss": parts["loss"] + (zero * parts["loss"]).sqrt() * zero}

    module.training_loss = loss
    with pytest.raises(Diverged, match="weights are NaN or infinite after step 4"):
        trainer(20, Checkpoints(2)).fit(module, data())
    assert checkpoint_files(tmp_path)[0].name == "step_00000002.ckpt"
