"""A run that is told to stop saves at once, says so by its status, and ends, gone on with, as if it never had been."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_gen import run_lock
from lightning_gen.__main__ import main
from lightning_gen.attempts import read_attempts
from lightning_gen.callbacks.checkpoints import Checkpoints
from lightning_gen.callbacks.sample_sheet import SampleSheet
from lightning_gen.cluster import slurm, stop
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.metrics_file import read_rows
from lightning_gen.run_directory import checkpoint_files

ROOT = Path(__file__).resolve().parents[2]
FIT = [
    *("fit", "--config", str(ROOT / "configs" / "experiment" / "toy_diffusion.yaml"), "--trainer.max_steps=12"),
    *("--data.init_args.num_train=200", "--data.init_args.num_val=50", "--data.init_args.eval_batch_size=10"),
    *("--data.init_args.batch_size=32", "--data.init_args.micro_batch_size=16"),
    "--model.init_args.network.init_args={width: 16, depth: 1, dropout: 0.2}",
    *("--trainer.val_check_interval=4", "--trainer.log_every_n_steps=1", "--checkpoints.every_n_steps=100"),
    "--samples={every_n_steps: 6, num: 4}",
]
PLACES = {
    "before the first step": (GenerativeModule, "on_fit_start", 1, 0),
    "in a step": (GenerativeModule, "training_step", 3, 2),
    "between micro-batches": (GenerativeModule, "training_step", 6, 3),
    "in the step before a validation": (GenerativeModule, "configure_gradient_clipping", 4, 4),
    "in validation": (GenerativeModule, "validation_step", 3, 4),
    "in the last batch of a validation": (GenerativeModule, "validation_step", 5, 4),
    "in a sheet": (SampleSheet, "look", 1, 6),
    "in a checkpoint": (Checkpoints, "_save", 1, 5),
}
"""Where the signal comes: a method, its n-th call, and the step that is saved (in a checkpoint: of those every 5)."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody stopped. Not to be changed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main([*FIT, "--run", str(run)]) == 0
    return run


@pytest.fixture
def told_at(monkeypatch):
    """told_at(owner, name, count, number): the process gets the signal as the count-th call of the method begins."""

    def function(owner, name, count, number=signal.SIGUSR1):
        real, calls = getattr(owner, name), [0]

        def method(*args, **kwargs):
            calls[0] += 1
            if calls[0] == count:
                os.kill(os.getpid(), number)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, method)

    return function


def checkpoint_at(run: Path, step: int) -> bool:
    return any(int(file.stem.removeprefix("step_")) >= step for file in checkpoint_files(run))


@pytest.mark.parametrize("place", PLACES)
def test_wherever_it_is_told_the_run_ends_as_if_it_had_not_been(place, whole, told_at, tmp_path, capsys, same_end):
    owner, name, count, step = PLACES[place]
    told_at(owner, name, count)
    run = tmp_path / "run"
    every = ["--checkpoints.every_n_steps=5"] if place == "in a checkpoint" else []
    assert main([*FIT, *every, "--run", str(run)]) == 75
    error, said = capsys.readouterr().err, f"at step {step}," if step else "before the first step"
    assert error.count("\n") == 1 and said in error and f"--run {run} goes on" in error
    assert [file.name for file in checkpoint_files(run)] == ([f"step_{step:08d}.ckpt"] if step else [])
    assert main([*FIT, *every, "--run", str(run)]) == 0
    assert [row["from_step"] for row in read_attempts(run)] == ["0", str(step)]
    same_end(run, whole)


def test_stopped_at_every_step_and_in_every_validation_batch(whole, tmp_path, monkeypatch, same_end):
    """One step a life, as long as the last one's validation is not cut again."""
    run, lives = tmp_path / "run", 0
    begun = []
    monkeypatch.setattr(GenerativeModule, "on_train_start", lambda module: begun.append(True))  # after the callbacks'
    monkeypatch.setattr(stop, "told", lambda: signal.SIGUSR1 if begun else None)
    while (status := main([*FIT, "--run", str(run)])) == 75:
        lives += 1
        begun.clear()
    assert status == 0 and lives == 11  # the twelfth step is the last
    same_end(run, whole)


def test_a_second_signal_in_the_repeated_validation_does_no_harm(whole, told_at, tmp_path, same_end):
    run = tmp_path / "run"
    told_at(GenerativeModule, "validation_step", 2)
    assert main([*FIT, "--run", str(run)]) == 75
    told_at(GenerativeModule, "validation_step", 2, signal.SIGTERM)
    assert main([*FIT, "--run", str(run)]) == 143
    assert main([*FIT, "--run", str(run)]) == 0
    assert [row["from_step"] for row in read_attempts(run)] == ["0", "4", "4"]
    same_end(run, whole)


def test_told_in_the_last_step_it_just_ends(whole, told_at, tmp_path, same_end):
    told_at(GenerativeModule, "configure_gradient_clipping", 12)
    assert main([*FIT, "--run", str(tmp_path / "run")]) == 0
    same_end(tmp_path / "run", whole)


def test_it_leaves_before_its_time_is_up(whole, tmp_path, monkeypatch, capsys, same_end):
    """A job of ten minutes of which the last two are kept; after the fourth step there is one left."""
    run = tmp_path / "run"
    left = iter([600.0] * 4)  # asked at the start and at each step
    monkeypatch.setattr(slurm.TimeLeft, "seconds", lambda self: next(left, 50.0))
    monkeypatch.setattr(slurm.TimeLeft, "at_first", lambda self: 600.0)
    assert main([*FIT, "--preemption.lead_s=120", "--run", str(run)]) == 75
    assert "the time limit at step 4," in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*FIT, "--run", str(run)]) == 0
    same_end(run, whole)


def test_a_limit_shorter_than_the_lead_leaves_half_of_it_for_training(tmp_path, monkeypatch):
    """Else it would leave at once, again and again."""
    monkeypatch.setattr(slurm.TimeLeft, "seconds", lambda self: 31.0)
    monkeypatch.setattr(slurm.TimeLeft, "at_first", lambda self: 60.0)
    assert main([*FIT, "--preemption.lead_s=3600", "--run", str(tmp_path / "run")]) == 0


def test_a_run_that_went_on_elsewhere_meanwhile_is_not_gone_on_from_the_past(
    whole, tmp_path, monkeypatch, capsys, same_end
):
    """The start found step 4; until it had the directory, the job that was leaving saved step 8."""
    run, every = tmp_path / "run", "--checkpoints.every_n_steps=4"
    told = lambda step: monkeypatch.setattr(stop, "told", lambda: signal.SIGUSR1 if checkpoint_at(run, step) else None)  # noqa: E731
    told(4)
    assert main([*FIT, every, "--run", str(run)]) == 75
    real = run_lock.take

    def late(place):
        monkeypatch.setattr(run_lock, "take", real)
        told(8)
        assert main([*FIT, every, "--run", str(run)]) == 75
        real(place)

    monkeypatch.setattr(run_lock, "take", late)
    capsys.readouterr()
    rows = lambda: [row["step"] for row in read_rows(run / "metrics.csv")]  # noqa: E731
    assert main([*FIT, every, "--run", str(run)]) == 75
    assert "has gone on to step_0000000" in capsys.readouterr().err and len(rows()) >= 8
    monkeypatch.undo()
    assert main([*FIT, every, "--run", str(run)]) == 0
    same_end(run, whole)


def test_a_full_disk_as_it_stops_leaves_the_checkpoint_before(whole, told_at, tmp_path, monkeypatch, capsys, same_end):
    run, every = tmp_path / "run", "--checkpoints.every_n_steps=2"
    told_at(GenerativeModule, "training_step", 5)  # in the third step
    real, saves = torch.save, []

    def full(checkpoint, file):
        saves.append(file)
        if len(saves) == 2:
            file.write(b"half of it")
            raise OSError(28, "No space left on device", file.name)
        real(checkpoint, file)

    monkeypatch.setattr(torch, "save", full)
    assert main([*FIT, every, "--run", str(run)]) == 2  # which no script has started again
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no space left" in error
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["step_00000002.ckpt"]
    monkeypatch.undo()
    assert main([*FIT, every, "--run", str(run)]) == 0
    same_end(run, whole)


def test_a_job_that_comes_nowhere_is_not_restarted_for_ever(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(stop, "told", lambda: signal.SIGUSR1)
    statuses = [main([*FIT, "--run", str(run)]) for _ in range(6)]
    assert statuses == [75] * 5 + [2]
    assert "came to no further checkpoint" in capsys.readouterr().err
    monkeypatch.undo()  # started by hand it may
    assert main([*FIT, "--run", str(run)]) == 0


def test_signals_have_their_actions_back_after_the_verb(tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)]
    assert main([*FIT, "--trainer.max_steps=1", "--run", str(tmp_path / "run")]) == 0
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == before
    assert stop.told() is None


def of_two_ranks(script: Path, run: Path, **environment) -> tuple[list[int], list[str]]:
    """(statuses, what they said on standard error) of `fit` on two ranks, each started by itself as srun does it."""
    args = [*FIT, "--data.init_args.micro_batch_size=8", "--trainer.devices=2", "--trainer.strategy=ddp"]
    ranks = []
    for number in range(2):
        own = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        own |= {"MASTER_PORT": 25000 + os.getpid() % 5000, "PYTHONPATH": ROOT, "TORCHELASTIC_RUN_ID": "test"}
        env = {**os.environ, **{k: str(v) for k, v in own.items()}, **environment}
        command = [sys.executable, str(script), *args, "--run", str(run)]
        ranks.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=300)[1] for process in ranks]
    return [process.returncode for process in ranks], said


TOLD = """
import os, signal, sys
from lightning_gen.__main__ import main
from {owner.__module__} import {owner.__name__} as owner

real, calls = owner.{name}, []

def method(module, *args):
    calls.append(None)
    if len(calls) == {count} and module.global_rank == {rank} and "TOLD" in os.environ:
        os.kill(os.getpid(), signal.SIGUSR1)
    return real(module, *args)

owner.{name} = method
sys.exit(main(sys.argv[1:]))
"""
"""`fit` in which one rank gets the signal."""


def test_one_of_two_ranks_is_told_and_both_stop(tmp_path, same_end):
    """In a validation's last batch one hears of it; both stop at the end of the next step."""
    rank, place = 1, "in validation"
    owner, name, count, step = PLACES[place]
    script = tmp_path / "rank.py"
    script.write_text(TOLD.format(owner=owner, name=name, count=count, rank=rank))
    statuses, said = of_two_ranks(script, tmp_path / "run", TOLD="1")
    assert statuses == [75, 0], said
    assert "stopped by SIGUSR1" in said[0] and "stopped" not in said[1]
    saved = [int(file.stem.removeprefix("step_")) for file in checkpoint_files(tmp_path / "run")]
    assert saved == [step + 1]  # it hears of it in its last batch, the other in the step that follows
    assert of_two_ranks(script, tmp_path / "run")[0] == [0, 0]
    assert of_two_ranks(script, tmp_path / "whole")[0] == [0, 0]
    same_end(tmp_path / "run", tmp_path / "whole")
