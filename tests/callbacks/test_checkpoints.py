import subprocess
import sys

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_gen.callbacks import EMA, Checkpoints
from lightning_gen.callbacks import checkpoints as module_under_test
from lightning_gen.errors import UserError
from lightning_gen.run_directory import checkpoint_files, find_checkpoint


def files(run) -> list[str]:
    return sorted(file.name for file in (run / "checkpoints").iterdir())


class Spy(Checkpoints):
    """Notes at which (step, micro-batch) a checkpoint is written."""

    def __init__(self, *args):
        super().__init__(*args)
        self.at = []

    def _save(self, trainer):
        super()._save(trainer)
        loop = trainer.fit_loop.epoch_loop
        self.at.append((trainer.global_step, loop.batch_progress.total.processed))


@pytest.mark.parametrize(
    "every, keep, steps, kept",
    [(2, 9, 5, [2, 4, 5]), (2, 9, 4, [2, 4]), (2, 2, 7, [6, 7]), (1, 1, 3, [3]), (100, 2, 3, [3])],
)
def test_every_n_steps_and_at_the_end_the_newest_kept(trainer, model, data, tmp_path, every, keep, steps, kept):
    trainer(steps, Checkpoints(every, keep)).fit(model(), data())
    assert files(tmp_path) == [f"step_{step:08d}.ckpt" for step in kept]  # whole ones, and nothing else
    for step in kept:
        checkpoint = torch.load(tmp_path / "checkpoints" / f"step_{step:08d}.ckpt", weights_only=True)
        assert checkpoint["global_step"] == step
    assert torch.load(find_checkpoint(tmp_path), weights_only=True)["global_step"] == steps


def test_a_checkpoint_holds_the_step_with_all_that_belongs_to_it(trainer, model, data, tmp_path, equal):
    short, whole = model(), model()
    trainer(3, EMA([0.5])).fit(short, data())
    trainer(6, Checkpoints(3), EMA([0.5])).fit(whole, data())  # in this order, the average is still updated first
    checkpoint = torch.load(tmp_path / "checkpoints" / "step_00000003.ckpt", weights_only=True)
    assert equal(checkpoint["state_dict"], short.state_dict())
    assert checkpoint["lightning_gen"]["averages"]["updates"] == 3


def test_none_is_written_between_micro_batches_also_after_a_resume(trainer, model, data, tmp_path):
    first = Spy(2)
    trainer(4, first).fit(model(), data(micro_batch_size=2))
    assert first.at == [(2, 8), (4, 16)]
    second = Spy(2)
    trainer(7, second).fit(model(), data(micro_batch_size=2), ckpt_path=str(find_checkpoint(tmp_path)))
    assert second.at == [(6, 24), (7, 28)]


def test_a_crash_while_writing_leaves_no_file_with_a_checkpoints_name(trainer, model, data, tmp_path, monkeypatch):
    used = trainer(4, Checkpoints(2, keep=5))

    def crash(*args):
        if used.global_step == 4:
            raise OSError("disk full")

    monkeypatch.setattr(module_under_test.os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        used.fit(model(), data())
    assert find_checkpoint(tmp_path).name == "step_00000002.ckpt"
    monkeypatch.undo()
    trainer(4, Checkpoints(2, keep=5)).fit(model(), data(), ckpt_path=str(find_checkpoint(tmp_path)))
    assert files(tmp_path) == ["step_00000002.ckpt", "step_00000004.ckpt"]


def test_a_stop_in_the_middle_is_an_end(trainer, model, data, tmp_path):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 3

    trainer(9, Stop(), Checkpoints(5)).fit(model(), data())
    assert files(tmp_path) == ["step_00000003.ckpt"]


def test_nothing_but_torch_is_needed_to_open_one(trainer, model, data, tmp_path):
    module = model(lr_schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2))
    module.recipe = {"model": {"class_path": "some.Model", "init_args": {"widths": [1, 2]}}, "data": {}, "seed": 1}
    trainer(2, EMA([0.5]), Checkpoints(1)).fit(module, data())
    program = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lightning_gen", "datamodules", "lightning", "jsonargparse"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import torch
checkpoint = torch.load(sys.argv[1], weights_only=True, map_location="cpu")
ours = checkpoint["lightning_gen"]
print(checkpoint["global_step"], ours["schema"], ours["recipe"]["model"]["init_args"], *ours["averages"]["weights"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(find_checkpoint(tmp_path))], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "2 1 {'widths': [1, 2]} 0.5", done.stderr


@pytest.mark.parametrize("filename", [None, "step_{step}", "step_{step:03d}", "{step}", "step_{step:08d}-mine"])
def test_checkpoints_of_a_users_callback_are_neither_removed_nor_resumed_from(trainer, model, data, tmp_path, filename):
    theirs = dict(dirpath=tmp_path / "checkpoints", every_n_train_steps=1, save_top_k=-1, save_weights_only=True)
    plain = {"auto_insert_metric_name": not (filename or "").startswith("step_")}
    other = ModelCheckpoint(filename=filename, **theirs, **plain)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "upload.partial").touch()
    trainer(4, Checkpoints(1, keep=1), other).fit(model(), data())
    own = "step_00000004.ckpt"
    assert len(files(tmp_path)) == 4 + 1 + 1 and {own, "upload.partial"} < set(files(tmp_path))
    assert find_checkpoint(tmp_path).name == own and checkpoint_files(tmp_path) == [tmp_path / "checkpoints" / own]


def test_a_users_callback_may_not_have_the_runs_own_names(trainer, model, data, tmp_path):
    same = dict(filename="step_{step:08d}", auto_insert_metric_name=False)
    with pytest.raises(UserError, match=r"a ModelCheckpoint would write files like step_00000000\.ckpt"):
        trainer(1, Checkpoints(1), ModelCheckpoint(**same)).fit(model(), data())
    assert not list(tmp_path.rglob("*.ckpt"))
    trainer(1, Checkpoints(1), ModelCheckpoint(tmp_path / "mine", **same)).fit(model(), data())


@pytest.mark.parametrize("arguments", [(0, 2), (5, 0), (-1, 1)])
def test_numbers_without_meaning_are_refused(arguments):
    with pytest.raises(UserError, match="at least 1"):
        Checkpoints(*arguments)
