"""Training on several ranks is the experiment of one: the same global batches, the same strata of times, the same mean."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from lightning_gen.__main__ import main
from lightning_gen.run_directory import checkpoint_files

ROOT = Path(__file__).resolve().parents[1]

MINE = '''
import os

import torch

from lightning_gen.diffusion import Cosine, LossSecondMoment, VariancePreserving
from lightning_gen.generative_module import GenerativeModule


class Mean(GenerativeModule):
    """Fits the mean of the data; the loss itself draws nothing. Writes down each row's time and data.

    The density of its times follows the losses, which all ranks and micro-batches must know alike.
    """

    def build(self):
        self.mean = torch.nn.Parameter(torch.zeros(2))
        self.times = LossSecondMoment(parts=3, warmup=8)

    def training_loss(self, x, y=None):
        draws = self.draws(x)
        t = self.times.sample(draws.total, draws.shared, Cosine())[draws.rows]
        step = self.trainer.global_step if self.training else -1
        with open(f"{os.environ['RECORD']}.{self.global_rank}", "a") as file:
            for row, time, point in zip(draws.rows.tolist(), t.tolist(), x.tolist()):
                print(step, row, repr(time), *map(repr, point), file=file)
        error = (x - self.mean).square()
        if self.training:
            level = VariancePreserving().at(Cosine(), t)
            self.times.observe(level, (t * (1 + error.mean(1)) / self.times.density(level)).detach(), draws.total)
        return {"loss": error.mean()}

    def sample(self, num, y=None, *, sampler=None, rng=None):
        return self.mean.expand(num, 2)
'''


def trained(tmp_path, monkeypatch, ranks, micro, *more):
    """({(step, row): (time, data...)}, the fitted mean) of a run on so many CPU ranks; step -1 is validation."""
    (tmp_path / "family_of_means.py").write_text(MINE)
    run, record = tmp_path / f"run{ranks}", tmp_path / f"record{ranks}"
    args = ["fit", "--run", str(run), "--model=family_of_means.Mean", "--data=datamodules.TwoMoons"]
    args += ["--data.init_args.num_train=100", "--data.init_args.num_val=7", "--data.init_args.eval_batch_size=2"]
    args += [f"--data.init_args.micro_batch_size={micro}", "--data.init_args.batch_size=12", "--trainer.max_steps=10"]
    args += ["--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.5, momentum: 0.5}}"]
    args += ["--trainer.accelerator=cpu", "--trainer.val_check_interval=5", "--samples.every_n_steps=0", *more]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RECORD", str(record))
    if ranks == 1:
        assert main(args) == 0
    else:
        command = [sys.executable, "-m", "lightning_gen", *args, f"--trainer.devices={ranks}", "--trainer.strategy=ddp"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)
        assert made.returncode == 0, made.stderr
    rows = {}
    for file in tmp_path.glob(f"record{ranks}.*"):
        for step, row, *values in map(str.split, file.read_text().splitlines()):
            assert step == "-1" or (int(step), int(row)) not in rows, "two ranks had one row"
            rows.setdefault((int(step), int(row)), []).append([float(value) for value in values])
    return rows, torch.load(checkpoint_files(run)[0], weights_only=True)["state_dict"]["mean"]


def test_two_ranks_with_accumulation_train_as_one(tmp_path, monkeypatch):
    """12 examples a step on 2 ranks in micro-batches of 2; 7 validation examples on 2 ranks."""
    alone, mean = trained(tmp_path, monkeypatch, 1, "null")
    together, same_mean = trained(tmp_path, monkeypatch, 2, 2)
    assert together.keys() == alone.keys()
    for key, drawn in alone.items():
        torch.testing.assert_close(torch.tensor(together[key]), torch.tensor(drawn), rtol=1e-6, atol=1e-6)
    assert sorted(key for key in alone if key[0] >= 0) == [(step, row) for step in range(10) for row in range(12)]
    for step in range(10):  # one time in each of the 12 strata, which are equal until the losses are known
        times = torch.tensor([alone[step, row][0][0] for row in range(12)])
        assert ((times.sort().values * 12).floor().tolist() == list(range(12))) == (step < 2)
    validated = [key for key in alone if key[0] < 0]
    assert len(validated) == 7 and all(
        len(alone[key]) == 2 for key in validated
    )  # every example once, at steps 5 and 10
    torch.testing.assert_close(same_mean, mean, rtol=1e-6, atol=1e-6)


def test_a_run_goes_on_with_another_number_of_ranks_on_the_same_global_batches(tmp_path, monkeypatch):
    """Five steps on 2 ranks with accumulation, five on one: the rows of ten steps on one, the mean to rounding."""
    alone, mean = trained(tmp_path, monkeypatch, 1, "null")
    first, _ = trained(tmp_path, monkeypatch, 2, 2, "--trainer.max_steps=5")
    (tmp_path / "run2").rename(tmp_path / "run1b")
    (tmp_path / "run1").rename(tmp_path / "whole")
    (tmp_path / "run1b").rename(tmp_path / "run1")
    (tmp_path / "record1.0").unlink()
    rest, same_mean = trained(tmp_path, monkeypatch, 1, 2)
    both = {key: values for key, values in (first | rest).items() if key[0] >= 0}
    assert both.keys() == {key for key in alone if key[0] >= 0} and not any(key[0] in range(5) for key in rest)
    for key, drawn in both.items():
        torch.testing.assert_close(torch.tensor(drawn), torch.tensor(alone[key]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(same_mean, mean, rtol=1e-6, atol=1e-6)
