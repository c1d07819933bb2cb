"""A run killed with SIGKILL, as often and wherever it may be, ends as the uninterrupted one: bit for bit, row for row."""

import os
import pkgutil
import random
import runpy
import signal
from pathlib import Path

import pytest
import torch

from lightning_gen.__main__ import main
from lightning_gen.processes import context

TOY = str(Path(__file__).resolve().parents[1] / "configs" / "experiment" / "toy_diffusion.yaml")
FIT = [
    *("fit", "--config", TOY, "--trainer.max_steps=14"),
    "--data.init_args.num_train=200",  # 6.25 batches an epoch: kills fall in mid-epoch
    "--data.init_args.num_val=50",
    "--data.init_args.eval_batch_size=20",
    "--data.init_args.batch_size=32",
    "--model.init_args.network.init_args={width: 16, depth: 1, dropout: 0.2}",
    "--model.init_args.lr_schedule={class_path: lightning_gen.optim.WarmupCosine, init_args: {warmup_steps: 3}}",
    "--trainer.gradient_clip_val=1.0",
    "--trainer.val_check_interval=4",
    "--trainer.log_every_n_steps=1",
    "--checkpoints.every_n_steps=2",
    "--samples={every_n_steps: 6, num: 4}",
]
VARIANTS = {"plain": [], "accumulation": ["--data.init_args.micro_batch_size=8"]}
PLACES = {
    "before a micro-batch": ("lightning_gen.generative_module.GenerativeModule.on_train_batch_start", "before"),
    "before the optimizer steps": (
        "lightning_gen.generative_module.GenerativeModule.configure_gradient_clipping",
        "before",
    ),
    "before a row is written": ("lightning_gen.loggers.MetricsCSV.log_metrics", "before"),
    "after a row is written": ("lightning_gen.loggers.MetricsCSV.log_metrics", "after"),
    "in validation": ("lightning_gen.generative_module.GenerativeModule.validation_step", "after"),
    "after validation": ("lightning_gen.generative_module.GenerativeModule.on_validation_epoch_end", "after"),
    "before a sheet": ("lightning_gen.callbacks.sample_sheet.SampleSheet.look", "before"),
    "in a checkpoint": ("torch.save", "after"),  # written, and nobody knows whether the disk has it
    "between checkpoint and retention": ("lightning_gen.callbacks.checkpoints.checkpoint_files", "before"),
    "after a checkpoint": ("lightning_gen.callbacks.checkpoints.Checkpoints._save", "after"),
    "before the config is there": ("lightning_gen.callbacks.run_begins.write_atomically", "before"),
}
"""Where a run dies: a function, and which side of its n-th call."""


def fit_and_die(args: list[str], place: str, count: int, environment: dict[str, str]) -> None:
    """Runs `fit` and kills its own process at the `count`-th call of the place's function."""
    torch.set_num_threads(1)
    os.environ.update(environment)  # the fork server has its own
    path, side = PLACES[place]
    owner, name = path.rsplit(".", 1)
    target = pkgutil.resolve_name(owner)  # imports it: the server may have been another test's, with less in it
    real, calls = getattr(target, name), [0]

    def deadly(*given, **named):
        calls[0] += 1
        if calls[0] == count and side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*given, **named)
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(target, name, deadly)
    main(args)


def killed(args: list[str], place: str, count: int, **environment: str) -> bool:
    """Whether the run died there; False if it came to its end before."""
    # by its path: a child of the fork server cannot import a test module by name
    job = {"path_name": __file__, "init_globals": {"death": (args, place, count, environment)}, "run_name": "dying"}
    process = context("lightning_gen.benchmark.preload").Process(target=runpy.run_path, kwargs=job)
    process.start()
    process.join(timeout=120)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def check(args: list[str], run: Path, whole: Path, same_end) -> None:
    """Both runs, to their ends, leave the same."""
    for folder in (run, whole):
        assert main([*args, "--run", str(folder)]) == 0
    same_end(run, whole)


def test_kills_at_the_worst_places(tmp_path, same_end):
    """One run, killed again and again: in a checkpoint, in validation, between the two, between micro-batches."""
    args = [*FIT, *VARIANTS["accumulation"]]
    kills = [("before the config is there", 2), ("in a checkpoint", 2), ("in validation", 2), ("after validation", 1)]
    kills += [("before a micro-batch", 11), ("between checkpoint and retention", 1)]
    assert [killed([*args, "--run", str(tmp_path / "run")], *kill) for kill in kills] == [True] * len(kills)
    check(args, tmp_path / "run", tmp_path / "whole", same_end)


def test_a_time_limit_shorter_than_a_checkpoint_takes(tmp_path, monkeypatch, capsys, same_end):
    """The checkpoint before survives every death; the job is not started for ever, and its error says what to change."""
    args, run = [*FIT, "--run", str(tmp_path / "run")], tmp_path / "run"
    assert killed(args, "in a checkpoint", 2)
    for restart in "12345":
        assert killed(args, "in a checkpoint", 1, SLURM_RESTART_COUNT=restart)
        assert [file.name for file in run.glob("checkpoints/*.ckpt")] == ["step_00000002.ckpt"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "6")
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "restarted 5 times at step 2" in error and "more time" in error
    monkeypatch.undo()
    check(FIT, run, tmp_path / "whole", same_end)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_ten_random_kills(variant, tmp_path, same_end):
    """Places and counts at random; the run takes up where each left it, until it is through."""
    rng = random.Random(7)
    args = [*FIT, *VARIANTS[variant], "--trainer.max_steps=80"]
    for _ in range(10):
        place = rng.choice([place for place in PLACES if place != "before the config is there"])
        assert killed([*args, "--run", str(tmp_path / "run")], place, rng.randint(1, 3)), place
    check(args, tmp_path / "run", tmp_path / "whole", same_end)


if __name__ == "dying":
    fit_and_die(*death)  # noqa: F821  from init_globals
