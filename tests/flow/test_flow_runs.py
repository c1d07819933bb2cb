"""Flows from the command line: a stop leaves no trace, ranks and precisions change what they may, and a run reloads."""

import csv
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import lightning_gen
from datamodules import Digits, TwoMoons
from lightning_gen.__main__ import main
from lightning_gen.flow import NormalizingFlow, RationalQuadraticSpline, Steps
from lightning_gen.generative_module import EVALUATION_SEED
from lightning_gen.networks import PlainMLP
from lightning_gen.random_source import IndexedSource
from lightning_gen.run_directory import checkpoint_files

ROOT = Path(__file__).resolve().parents[2]
FIT = [
    *("fit", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.log_every_n_steps=1"),
    *("--trainer.val_check_interval=3", "--checkpoints.every_n_steps=3", "--samples.every_n_steps=0"),
]
DIGITS = ["--data=datamodules.Digits", "--data.init_args={batch_size: 32, eval_batch_size: 75}"]
MOONS = ["--data=datamodules.TwoMoons", "--data.init_args={num_train: 200, num_val: 50, num_test: 50, batch_size: 32}"]
GLOW = """
class_path: NormalizingFlow
init_args:
  logit: 0.05
  conditioner: {class_path: lightning_gen.networks.ClassEmbedding, init_args: {dim: 4}}
  flow:
    class_path: Glow
    init_args:
      levels: 2
      steps: 1
      network: {class_path: lightning_gen.networks.ConvNet, init_args: {widths: [8, 8]}}
  dequantization:
    class_path: VariationalDequantization
    init_args:
      steps: 2
      network: {class_path: lightning_gen.networks.ConvNet, init_args: {widths: [8]}}
"""
SPLINE = """
class_path: NormalizingFlow
init_args:
  flow:
    class_path: Steps
    init_args:
      steps: 2
      transform: {class_path: RationalQuadraticSpline, init_args: {bins: 4}}
      network: {class_path: lightning_gen.networks.PlainMLP, init_args: {widths: [8]}}
"""
KINDS = {"glow of digits": (GLOW, DIGITS), "splines of moons": (SPLINE, MOONS)}


@pytest.fixture
def fit(tmp_path):
    """fit(kind, name, *more, steps=6): the run directory it leaves."""

    def function(kind: str, name: str, *more: str, steps: int = 6) -> Path:
        model, data = KINDS[kind]
        (tmp_path / "model.yaml").write_text(model)
        args = [*FIT, *data, f"--model={tmp_path / 'model.yaml'}", f"--trainer.max_steps={steps}", *more]
        run = tmp_path / name
        if "--trainer.devices=2" not in more:
            assert main([*args, "--run", str(run)]) == 0
            return run
        command = [sys.executable, "-m", "lightning_gen", *args, "--run", str(run)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)
        assert made.returncode == 0, made.stderr
        return run

    return function


def checkpoint(run: Path, step: int) -> dict:
    return torch.load(run / "checkpoints" / f"step_{step:08d}.ckpt", weights_only=True)


def metrics(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_stopped_is_the_one_that_did_not(kind, fit, same_end):
    """Bit for bit, weights, averages, optimizer and what was measured: the start is not made again."""
    whole, halves = fit(kind, "whole"), fit(kind, "halves", steps=3)
    assert fit(kind, "halves") == halves
    same_end(halves, whole)
    kinds = {"glow of digits": ("dequantization", "bits_per_dim"), "splines of moons": ("log_prob_nats", "log_det")}
    assert {"val/log_det", "val/base", *(f"val/{name}" for name in kinds[kind])} <= metrics(whole)[-1].keys()


def test_two_ranks_train_as_one(fit):
    """The start is that of the whole batch on both; noise is each rank's own, so only real vectors have equal losses."""
    # not Adam, whose first steps have the size of the rate even where a gradient is rounding
    plain = "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.05}}"
    alone = fit("splines of moons", "alone", plain)
    together = fit("splines of moons", "together", plain, "--trainer.devices=2", "--trainer.strategy=ddp")
    for step in (3, 6):
        states = [checkpoint(run, step)["state_dict"] for run in (alone, together)]
        assert states[0].keys() == states[1].keys() and any("log_scale" in name for name in states[0])
        for name, value in states[0].items():
            torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-5)
    rows = [metrics(run) for run in (alone, together)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for one, two in zip(*rows):
        for name in (name for name in one if name.startswith(("train/", "val/")) and one[name]):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-4, abs=1e-4), name


@pytest.mark.slow
def test_two_ranks_begin_as_one_with_noise(fit):
    """The actnorms of integers too: a rate of zero leaves what `initialize` made. What is validated is that of one rank."""
    still = "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.0}}"
    alone = fit("glow of digits", "alone", still, steps=3)
    together = fit("glow of digits", "together", still, "--trainer.devices=2", "--trainer.strategy=ddp", steps=3)
    states = [checkpoint(run, 3)["state_dict"] for run in (alone, together)]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-6)
    one, two = (float(metrics(run)[-1]["val/bits_per_dim"]) for run in (alone, together))
    assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        ["--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1.0"],
        ["--trainer.precision=bf16-true"],
        ["--model.init_args.checkpoint_gradients=true"],
    ],
    ids=["bf16-mixed", "bf16-true", "checkpointed"],
)
def test_cheaper_training_is_the_same_training(more, fit):
    """Checkpointed exactly; in bfloat16 nearly, and what is reported lies in float32. (Weights in it start elsewhere.)"""
    plain, other = fit("glow of digits", "plain"), fit("glow of digits", "other", *more)
    rows = [metrics(run) for run in (plain, other)]
    for one, two in zip(*rows, strict=True):
        names = ["val/bits_per_dim"] if "bf16-true" in more[0] else one
        for name in (name for name in names if name.startswith(("train/", "val/")) and one[name]):
            if "bf16" in more[0]:
                assert float(two[name]) == pytest.approx(
                    float(one[name]), rel=0.05, abs=2.0 if name != "val/bits_per_dim" else 0.0
                ), name
            else:
                assert two[name] == one[name], name


def test_a_run_begins_at_its_start_and_so_do_its_averages(fit):
    """With a rate of zero: raw weights and averages are what `initialize` made of the first batch."""
    run = fit(
        "glow of digits", "run", "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.0}}"
    )
    raw, averaged = (lightning_gen.load(run, weights=weights) for weights in ("raw", "ema"))
    assert next(p for name, p in raw.named_parameters() if "shift" in name).abs().max() > 0.1
    for (name, a), b in zip(raw.named_parameters(), averaged.parameters()):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_reloads_with_its_likelihoods(kind, fit):
    """The number of the last validation, which the averaged weights had; and bit for bit whenever it is loaded."""
    run = fit(kind, "run")
    examples = (Digits() if kind == "glow of digits" else TwoMoons(num_train=200, num_val=50)).split("val")
    first, again = (lightning_gen.load(path) for path in (run, checkpoint_files(run)[0]))
    assert first.weights == again.weights == "ema:0.999"

    def reported(module):
        rng = IndexedSource(EVALUATION_SEED, range(len(examples))).fork("likelihood")
        return module.log_likelihood(examples.x, examples.y, rng=rng).log_prob

    assert torch.equal(reported(first), reported(again)) and torch.equal(first.sample(4), again.sample(4))
    validated = float(metrics(run)[-1]["val/log_prob_nats"])
    assert float(reported(first).mean()) == pytest.approx(validated, rel=1e-5)


# ---- the plane: everything is known ----------------------------------------------------------------------------------


def trained_on_moons(steps: int) -> tuple[NormalizingFlow, TwoMoons]:
    """Spline couplings by a plain loop: what a Trainer does is tested elsewhere."""
    data = TwoMoons()
    x = data.split("train").x
    torch.manual_seed(0)
    network = partial(PlainMLP, widths=[32, 32], activation=nn.SiLU)
    flow = partial(Steps, steps=4, network=network, transform=RationalQuadraticSpline(bins=8))
    module = NormalizingFlow((2,), None, 2, flow)
    module.configure_model()
    module.initialize(x[:1000])
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        module.training_loss(x[torch.randint(len(x), (256,))])["loss"].mean().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return module.eval(), data


@pytest.mark.parametrize("steps, gap", [(150, 0.2), pytest.param(1500, 0.05, marks=pytest.mark.slow)])
def test_a_trained_density_integrates_to_one_and_comes_near_the_entropy(steps, gap):
    """On points it has not seen, and never below the entropy by more than their standard error."""
    module, data = trained_on_moons(steps)
    spacing = 0.02
    axis = torch.arange(-4, 4, spacing) + spacing / 2
    parts = torch.cartesian_prod(axis, axis).split(2**16)
    mass = sum(float(module.log_likelihood(part).log_prob.exp().sum()) for part in parts) * spacing**2
    assert mass == pytest.approx(1, abs=1e-3)
    log_prob = module.log_likelihood(data.split("test").x).log_prob
    error = float(log_prob.std()) / len(log_prob) ** 0.5
    assert -error < -float(log_prob.mean()) - data.entropy() < gap + error
