"""What stands in the place of Lightning's default profiler is one, and leaves a profiler that is asked for alone."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import PassThroughProfiler

from lightning_gen.__main__ import main
from lightning_gen.unprofiled import Unprofiled

TOY = str(Path(__file__).resolve().parents[1] / "configs" / "experiment" / "toy_diffusion.yaml")
FIT = [
    *("fit", "--config", TOY, "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--samples.every_n_steps=0"),
    *("--data.init_args.num_train=64", "--data.init_args.num_val=8", "--data.init_args.batch_size=32"),
    "--model.init_args.network.init_args={width: 8, depth: 1}",
]


def test_it_is_what_the_trainer_takes_for_its_default(monkeypatch, tmp_path):
    used = []
    monkeypatch.setattr(Trainer, "fit", lambda self, *args, **kwargs: used.append(self.profiler))
    main([*FIT, "--run", str(tmp_path / "a")])
    main([*FIT, "--run", str(tmp_path / "b"), "--trainer.profiler=simple"])
    assert type(used[0]) is Unprofiled and isinstance(used[0], PassThroughProfiler)
    assert type(used[1]).__name__ == "SimpleProfiler"


def test_an_action_goes_through():
    with Unprofiled().profile("anything"), Unprofiled().profile("within"):
        done = True
    assert done and Unprofiled().summary() == ""
