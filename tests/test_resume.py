"""What a run goes on from: its own newest whole checkpoint, nothing else by accident; a warm start is a new run."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

import lightning_gen
from lightning_gen.__main__ import main
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.metrics_file import read_rows
from lightning_gen.run_directory import DamagedCheckpoint, checkpoint_files

TOY = str(Path(__file__).resolve().parents[1] / "configs" / "experiment" / "toy_diffusion.yaml")
FIT = [
    *("fit", "--config", TOY),
    *("--data.init_args.num_train=256", "--data.init_args.num_val=64", "--data.init_args.batch_size=32"),
    *("--trainer.val_check_interval=4", "--trainer.log_every_n_steps=1"),
    *("--checkpoints.every_n_steps=4", "--samples.every_n_steps=0"),
]
WIDTH = "--model.init_args.network.init_args={width: 16, depth: 1}"


def fit(run: Path, *more: str, steps: int = 8) -> int:
    return main([*FIT, WIDTH, f"--trainer.max_steps={steps}", "--run", str(run), *more])


def newest(run: Path) -> dict:
    return torch.load(checkpoint_files(run)[0], weights_only=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of 8 steps with the checkpoints of steps 4 and 8. Not to be changed."""
    run = tmp_path_factory.mktemp("done") / "run"
    assert fit(run) == 0
    return run


@pytest.fixture
def run(done, tmp_path):
    """A copy of it."""
    return shutil.copytree(done, tmp_path / "run")


def test_a_truncated_checkpoint_is_passed_over_and_the_run_ends_the_same(done, run, equal):
    file = checkpoint_files(run)[0]
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.warns(DamagedCheckpoint, match="step_00000008.ckpt is damaged .*going on from step_00000004.ckpt"):
        assert fit(run) == 0
    assert equal(newest(run)["state_dict"], newest(done)["state_dict"])
    assert [row["step"] for row in read_rows(run / "metrics.csv")] == [str(step) for step in range(1, 9)]
    with pytest.warns(DamagedCheckpoint):  # and everything that reads runs does likewise
        file.write_bytes(b"")
        assert main(["sample", str(run), "--num=2"]) == 0


def test_a_run_without_a_whole_checkpoint_does_not_silently_begin_again(run, capsys):
    for file in checkpoint_files(run):
        file.write_bytes(file.read_bytes()[:-1000])
    assert fit(run) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no whole checkpoint" in error
    assert read_rows(run / "metrics.csv")


def test_going_back_in_a_run_is_refused(done, run, capsys):
    older = str(checkpoint_files(run)[1])
    assert fit(run, f"--ckpt_path={older}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "step_00000008.ckpt" in error and "--init_from" in error
    assert [file.name for file in checkpoint_files(run)] == [file.name for file in checkpoint_files(done)]


def test_a_fork_goes_on_in_a_directory_of_its_own(done, tmp_path, equal):
    fork = tmp_path / "fork"
    assert fit(fork, f"--ckpt_path={checkpoint_files(done)[1]}") == 0
    assert equal(newest(fork)["state_dict"], newest(done)["state_dict"])
    assert [row["step"] for row in read_rows(fork / "metrics.csv")] == ["5", "6", "7", "8"]


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_the_command_line_and_a_checkpoint_never_disagree_silently(done, tmp_path, capsys, verb):
    """A bare checkpoint, with no config beside it, is compared by the recipe it holds."""
    bare = shutil.copy(checkpoint_files(done)[0], tmp_path / "bare.ckpt")
    common = [*FIT[1:], WIDTH, "--trainer.max_steps=8", "--run", str(tmp_path / "new"), f"--ckpt_path={bare}"]
    assert main([verb, *common, "--model.init_args.parameterization=NoisePrediction"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "VPrediction" in error and "NoisePrediction" in error
    assert not list((tmp_path / "new").glob("*"))


def test_a_finished_run_is_left_as_it_is_and_says_so(run, capsys):
    assert fit(run) == 0  # its config names the copy from now on
    before = {file.name: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert fit(run) == 0
    assert {file.name: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    assert capsys.readouterr().out.splitlines() == [f"{run} is at step 8 of 8 already", str(run)]


def test_a_resumed_run_says_from_where(run, capsys):
    assert fit(run, steps=9) == 0
    assert f"{run} goes on from step 8" in capsys.readouterr().out


def test_a_longer_run_says_how_its_rate_goes_on_and_may_keep_the_earlier_schedule(tmp_path, capsys):
    cosine = "--model.init_args.lr_schedule={class_path: lightning_gen.optim.WarmupCosine, init_args: {final: 0.1}}"
    run = tmp_path / "run"

    def rates(*more: str) -> list[float]:
        assert fit(run, cosine, *more) == 0
        return [float(row["optim/lr"]) for row in read_rows(run / "metrics.csv")]

    assert rates("--trainer.max_steps=4")[0] == pytest.approx(1e-3)
    capsys.readouterr()
    kept = "--model.init_args.lr_schedule.total_steps=4"
    assert rates(kept, "--trainer.max_steps=6")[4:] == pytest.approx([1e-4, 1e-4])
    assert "the rate goes on" not in capsys.readouterr().out
    longer = rates("--trainer.max_steps=12")[6:]
    assert longer[0] == pytest.approx(5.5e-4)  # half of a cosine of 12 steps
    said = capsys.readouterr().out
    assert "WarmupCosine has 12 steps, 4 before: the rate goes on at 0.00055, not at 0.0001" in said
    assert "give --model.init_args.lr_schedule.total_steps 4 to keep" in said


def test_a_warm_start_has_the_weights_and_nothing_else(done, tmp_path, capsys, equal):
    """It may change whatever the weights do not depend on; steps, optimizer, averages and data order begin anew."""
    warm = tmp_path / "warm"
    other = "--model.init_args.optimizer={class_path: torch.optim.AdamW, init_args: {lr: 0.0, weight_decay: 0.0}}"
    assert fit(warm, f"--init_from={done}", other, steps=1) == 0
    said = capsys.readouterr().out
    assert f"a new run from the ema:0.999 weights of {done} at step 8" in said
    start = newest(warm)
    averaged = lightning_gen.load(done, weights="ema").state_dict()
    assert equal(start["state_dict"], averaged)  # a rate of zero has left them
    assert start["global_step"] == 1 and start["lightning_gen"]["averages"]["updates"] == 1
    assert {float(state["step"]) for state in start["optimizer_states"][0]["state"].values()} == {1.0}
    raw = tmp_path / "raw"
    assert fit(raw, f"--init_from={checkpoint_files(done)[1]}", "--init_weights=raw", other, steps=1) == 0
    assert equal(newest(raw)["state_dict"], torch.load(checkpoint_files(done)[1], weights_only=True)["state_dict"])


def test_a_warm_started_run_resumes_as_itself(done, tmp_path, capsys, equal):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert fit(whole, f"--init_from={done}") == 0
    assert fit(cut, f"--init_from={done}", steps=5) == 0
    capsys.readouterr()
    assert fit(cut, f"--init_from={done}") == 0
    assert "a new run from" not in capsys.readouterr().out
    assert equal(newest(cut)["state_dict"], newest(whole)["state_dict"])


@pytest.mark.parametrize(
    "more, said",
    [
        (["--init_from=nowhere"], "nowhere"),
        (["--init_weights=ema:0.5"], "no average '0.5', only 0.999"),
        (["--model.init_args.network.init_args={width: 32, depth: 1}"], "does not fit"),
    ],
)
def test_a_warm_start_that_cannot_be_is_refused_in_one_line(done, tmp_path, capsys, more, said):
    assert fit(tmp_path / "new", f"--init_from={done}", *more) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
    assert not checkpoint_files(tmp_path / "new")


def test_a_warm_start_does_not_depend_on_what_becomes_of_its_source(done, tmp_path, equal):
    """Killed before its first checkpoint and started again, after the source has gone on: it begins as it began."""
    source = shutil.copytree(done, tmp_path / "source")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert fit(whole, f"--init_from={source}", steps=3) == 0
    assert fit(cut, f"--init_from={source}", steps=3) == 0
    assert [file.name for file in checkpoint_files(cut)] == ["step_00000003.ckpt", "step_00000000.ckpt"]
    checkpoint_files(cut)[0].unlink()  # as if it had been killed at step 2
    assert fit(source, steps=12) == 0
    assert fit(cut, f"--init_from={source}", steps=3) == 0
    assert equal(newest(cut)["state_dict"], newest(whole)["state_dict"])
    assert (cut / "metrics.csv").read_text().splitlines()[0] == (whole / "metrics.csv").read_text().splitlines()[0]
    assert len(read_rows(cut / "metrics.csv")) == 3


def test_the_run_alone_is_enough_to_resume_it(done, run, equal):
    assert main(["fit", "--run", str(run), "--trainer.max_steps=12"]) == 0
    assert newest(run)["global_step"] == 12


def test_what_may_differ_on_resume_may(done, run, capsys):
    """max_steps, devices, the logger and progress; not the rate."""
    assert (
        fit(run, "--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={run}", "--progress.every_s=5", steps=9) == 0
    )
    assert fit(run, "--model.init_args.optimizer.init_args.lr=0.5", steps=9) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "lr" in error and "another --run" in error and f"--init_from {run}" in error


def test_two_processes_do_not_train_in_one_directory(run, capsys):
    import fcntl

    before = {file.name: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with open(run / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the other process does
        assert fit(run, steps=12) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "another process trains in" in error
    assert {file.name: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    assert fit(run, steps=12) == 0


@pytest.mark.parametrize("text", ["a: [", "", "- 1"])
def test_a_damaged_config_is_said_so(run, capsys, text):
    (run / "config.yaml").write_text(text)
    assert fit(run) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "config.yaml is damaged" in error


def test_what_a_test_is_made_on_is_compared_by_its_whole_name(done, capsys):
    """`seed` of the run may differ when it is judged; a key of that name deep in the data or the model may not."""
    judge = ["test", "--config", str(done / "config.yaml"), "--run", str(done)]
    assert main([*judge, "--seed_everything=3"]) == 0
    assert main([*judge, "--data.init_args.data_seed=3"]) == 2
    assert "data_seed" in capsys.readouterr().err


@pytest.mark.parametrize("number, status, saved", [(signal.SIGINT, 130, 4), (signal.SIGTERM, 143, 7)])
def test_a_signal_ends_a_run_with_its_status_and_the_command_that_goes_on(
    tmp_path, capsys, monkeypatch, number, status, saved
):
    """In mid-step: an interrupt ends it there, SIGTERM once the step is made and saved."""
    run, sent = tmp_path / "run", []
    real = GenerativeModule.on_train_batch_start

    def start(module, *args):
        real(module, *args)
        if module.trainer.global_step == 6 and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(GenerativeModule, "on_train_batch_start", start)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
    try:
        assert fit(run, steps=20) == status
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"lightning-gen fit --run {run} goes on" in error
    assert newest(run)["global_step"] == saved
    assert fit(run, steps=8) == 0
