"""Bad input gets one line and status 2, names what to change, and loses nothing; a bug keeps its traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_gen.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
TOY = str(ROOT / "configs" / "experiment" / "toy_diffusion.yaml")
GRID = str(ROOT / "configs" / "benchmark" / "digits.yaml")
MODEL = str(ROOT / "configs" / "model" / "toy_diffusion.yaml")
FIT = ["fit", "--config", TOY]
TEXT = {
    "whole.yaml": f"model: {MODEL}\ndata: data.yaml\ntrainer: {{accelerator: cpu}}\n",
    "data.yaml": "class_path: datamodules.TwoMoons\n",
    "top.yaml": f"model: {MODEL}\ndata: data.yaml\nsampels: {{num: 3}}\n",
    "nested.yaml": f"model: {MODEL}\ndata: data.yaml\ntrainer: {{max_stepz: 3}}\n",
    "inner.yaml": f"model: {MODEL}\ndata: {{class_path: datamodules.TwoMoons, init_args: {{batchsize: 3}}}}\n",
    "composed.yaml": f"model: {MODEL}\ndata: misspelt.yaml\n",
    "misspelt.yaml": "class_path: datamodules.TwoMoons\ninit_args: {batchsize: 3}\n",
    "typed.yaml": f"model: {MODEL}\ndata: data.yaml\ntrainer: {{max_steps: many}}\n",
    "dangling.yaml": f"model: {MODEL}\ndata: parts/nowhere.yaml\n",
    "torn.yaml": "trainer:\n  max_steps: 3\n bad: 2\n",
    "holds_torn.yaml": f"model: {MODEL}\ndata: torn.yaml\n",
    "empty.yaml": "# to be written\n",
    "list.yaml": "- 1\n- 2\n",
    "grid.yaml": f"experiment: {TOY}\naxes: {{a: {{b: {{c: 1}}}}}}\nworker: 2\n",
    "text.ckpt": "not a checkpoint\n",
    "broken_class.py": "import nothing_of_that_name\n",
    "folder/run_id": "abcdefgh\n",
    "from_one.py": "import torch\nfrom datamodules import BinaryDigits\nfrom datamodules.base import Examples\n\n"
    "class FromOne(BinaryDigits):\n    def load(self):\n"
    "        return {k: Examples(s.x, s.y + 1) for k, s in super().load().items()}\n",
    # images and texts
    "held_out/val/cat/0.png": "not an image\n",
    "held_out/test/cat/1.png": "not an image\n",
    "torn_image/train/cat/0.png": "not an image\n",
    "torn_labels/00000/0.png": "not an image\n",
    "torn_labels/dataset.json": "{",
    "wide.txt": "\0t\0h\0e\0 \0c\0a\0t",
}
"""Files that the inputs below name, in the directory of the command."""

BAD = {
    # verbs and keys, with what was meant
    "misspelt verb": (["fitt"], "did you mean fit?"),
    "misspelt key": ([*FIT, "--trainer.max_stepz=3"], "'trainer.max_stepz', did you mean trainer.max_steps?"),
    "misspelt key, apart": ([*FIT, "--samples.evry_n_steps", "3"], "did you mean samples.every_n_steps?"),
    "key without its section": ([*FIT, "--max_steps=3"], "did you mean trainer.max_steps?"),
    "misspelt argument of the model": (
        [*FIT, "--model.init_args.shedule=Cosine"],
        "'model.init_args.shedule', did you mean model.init_args.schedule?",
    ),
    "misspelt argument of the data": ([*FIT, "--data.batchsize", "3"], "did you mean data.init_args.batch_size?"),
    "misspelt argument of the network": (
        [*FIT, "--model.init_args.network.init_args.widht=3"],
        "did you mean model.init_args.network.init_args.width?",
    ),
    "misspelt section in a file": (["fit", "--config", "top.yaml"], "'sampels.num', did you mean samples.num?"),
    "misspelt key in a file": (["fit", "--config", "nested.yaml"], "did you mean trainer.max_steps?"),
    "misspelt argument in a file": (["fit", "--config", "inner.yaml"], "did you mean data.init_args.batch_size?"),
    "misspelt in a composed file": (["fit", "--config", "composed.yaml"], "did you mean data.init_args.batch_size?"),
    "misspelt option": (["evaluate", "nowhere", "--num_smaples=3"], "'num_smaples', did you mean num_samples?"),
    "abbreviated option": (["evaluate", "nowhere", "--num_sample", "3"], "did you mean num_samples?"),
    "abbreviated key": ([*FIT, "--trainer.max_step=3"], "did you mean trainer.max_steps?"),
    "misspelt benchmark option": (["benchmark", "--config", GRID, "--worker=3"], "did you mean workers?"),
    "misspelt benchmark key": (["benchmark", "--config", "grid.yaml"], "'worker', did you mean workers?"),
    "forgotten --config": (["fit", "whole.yaml"], "did you mean --config whole.yaml?"),
    # classes that cannot be
    "the other Lightning's class": (
        [*FIT, "--trainer.callbacks=[{class_path: pytorch_lightning.callbacks.Timer}]"],
        "trainer.callbacks: pytorch_lightning is another package: name lightning.pytorch.callbacks.Timer",
    ),
    "the other Lightning's logger": (
        [*FIT, "--trainer.logger=pytorch_lightning.loggers.CSVLogger"],
        "name lightning.pytorch.loggers.CSVLogger",
    ),
    "arguments of no class in a list": (
        [*FIT, "--trainer.callbacks=[{init_args: {duration: 00:00:01:00}}]"],
        "there is no key 'trainer.callbacks.init_args.duration'",
    ),
    # classes
    "misspelt class": ([*FIT, "--model.init_args.schedule=Cosin"], "no class 'Cosin', did you mean Cosine?"),
    "a class without what it needs": (
        [*FIT, "--model.init_args.schedule=ZeroTerminal"],
        "ZeroTerminal needs schedule: give --model.init_args.schedule.init_args.schedule\n",
    ),
    "a class without what it needs, deeper": (
        [
            *FIT,
            "--model.init_args.schedule=Truncated",
            "--model.init_args.schedule.init_args.schedule=ZeroTerminal",
        ],
        "give --model.init_args.schedule.init_args.schedule.init_args.schedule\n",
    ),
    "misspelt family": ([*FIT, "--model", "GausianDiffusion"], "did you mean GaussianDiffusion?"),
    "misspelt module": (
        [*FIT, "--model", "lightning_gen.difusion.GaussianDiffusion"],
        "did you mean lightning_gen.diffusion?",
    ),
    "misspelt data set": ([*FIT, "--data", "datamodules.Digit"], "did you mean datamodules.Digits?"),
    "misspelt optimizer": ([*FIT, "--model.init_args.optimizer=AdmaW"], "did you mean AdamW?"),
    "class of another kind": ([*FIT, "--model=datamodules.TwoMoons"], "datamodules.TwoMoons is not a GenerativeModule"),
    "class of a broken module": ([*FIT, "--model=broken_class.Model"], "No module named 'nothing_of_that_name'"),
    # values
    "no integer": ([*FIT, "--trainer.max_steps=many"], "trainer.max_steps must be of type int, not 'many'"),
    "no integer, deep": ([*FIT, "--data.init_args.batch_size=0.5"], "data.init_args.batch_size must be of type int"),
    "no integer, in a file": (["fit", "--config", "typed.yaml"], "trainer.max_steps must be of type int, not 'many'"),
    "no number": (["evaluate", "nowhere", "--num_samples=many"], "num_samples must be of type int, not 'many'"),
    "no value": ([*FIT, "--trainer.max_steps"], "--trainer.max_steps: expected one argument"),
    "no such precision": ([*FIT, "--trainer.precision=fp99"], "bf16-mixed"),
    "batch of zero": ([*FIT, "--data.init_args.batch_size=0"], "batch_size must be at least 1"),
    "a rate below zero": ([*FIT, "--run=new", "--model.init_args.optimizer.init_args.lr=-1"], "learning rate"),
    "accumulation of its own": ([*FIT, "--run=new", "--trainer.accumulate_grad_batches=3"], "leave it out"),
    "nothing to train on": ([*FIT, "--run=new", "--trainer.limit_train_batches=0"], "limit_train_batches is 0"),
    # settings of Lightning's that a run, or an endless stream of training, cannot honour
    "a seed below zero": ([*FIT, "--run=new", "--seed_everything=-1"], "from 0 to 4294967295, not -1"),
    "a seed of 41 bits": ([*FIT, "--run=new", "--seed_everything=1099511627776"], "from 0 to 4294967295"),
    "no seed": ([*FIT, "--run=new", "--seed_everything=false"], "seed_everything must be an integer"),
    "a run that leaves nothing": ([*FIT, "--run=new", "--trainer.fast_dev_run=true"], "give trainer.max_steps 2"),
    "no checkpoints": ([*FIT, "--run=new", "--trainer.enable_checkpointing=false"], "goes on from its checkpoints"),
    "nothing but steps": ([*FIT, "--run=new", "--trainer.barebones=true"], "trainer.barebones True"),
    "a second place": ([*FIT, "--run=new", "--trainer.default_root_dir=there"], "give --run DIR"),
    "a registry": ([*FIT, "--run=new", "--trainer.model_registry=mine"], "trainer.model_registry mine"),
    "no step": ([*FIT, "--run=new", "--trainer.max_steps=0"], "trainer.max_steps 0: there is nothing to train"),
    "validation every 0 steps": ([*FIT, "--run=new", "--trainer.val_check_interval=0"], "limit_val_batches 0 for none"),
    "validation every epoch": ([*FIT, "--run=new", "--trainer.val_check_interval=null"], "val_check_interval in steps"),
    "validation every second epoch": (
        [*FIT, "--run=new", "--trainer.check_val_every_n_epoch=2"],
        "check_val_every_n_epoch 2 has no effect",
    ),
    "sanity below zero": ([*FIT, "--run=new", "--trainer.num_sanity_val_steps=-2"], "-1 for the whole split"),
    "logging below zero": ([*FIT, "--run=new", "--trainer.log_every_n_steps=-1"], "give 0 for no metrics"),
    "epochs": (
        [
            *FIT,
            "--run=new",
            "--trainer.max_epochs=3",
            "--data.init_args.num_train=100",
            "--data.init_args.batch_size=8",
        ],
        "give trainer.max_steps 38, 3 times the 100 examples",
    ),
    "epochs at least": ([*FIT, "--run=new", "--trainer.min_epochs=2"], "give trainer.min_steps"),
    "a part of an epoch": ([*FIT, "--run=new", "--trainer.limit_train_batches=3"], "or trainer.overfit_batches"),
    "data again": (
        [*FIT, "--run=new", "--trainer.reload_dataloaders_every_n_epochs=1"],
        "training is counted in steps",
    ),
    "ranks by spawn": ([*FIT, "--run=new", "--trainer.strategy=ddp_spawn", "--trainer.devices=2"], "give ddp"),
    "ranks by fork": ([*FIT, "--run=new", "--trainer.strategy=ddp_notebook", "--trainer.devices=2"], "give ddp"),
    "no such clipping": ([*FIT, "--run=new", "--trainer.gradient_clip_algorithm=size"], "gradient_clip_algorithm"),
    "accumulation that changes": (
        [
            *FIT,
            "--run=new",
            "--trainer.callbacks=GradientAccumulationScheduler",
            "--trainer.callbacks.scheduling={0: 2}",
        ],
        "GradientAccumulationScheduler cannot be used: accumulation follows from",
    ),
    "a batch size that is found": ([*FIT, "--run=new", "--trainer.callbacks=BatchSizeFinder"], "micro_batch_size"),
    "a rate that is found": (
        [*FIT, "--run=new", "--trainer.callbacks=LearningRateFinder"],
        "LearningRateFinder cannot",
    ),
    "averages of Lightning's": ([*FIT, "--run=new", "--trainer.callbacks=EMAWeightAveraging"], "see ema.decays"),
    "averages by epochs": (
        [*FIT, "--run=new", "--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1"],
        "StochasticWeightAveraging cannot be used",
    ),
    "two averages of one name": ([*FIT, "--run=new", "--ema.decays=[0.9, 0.9]"], "must differ"),
    "a schedule of what is not given": (
        [*FIT, "--run=new", "--model.init_args.lr_schedule=torch.optim.lr_scheduler.ReduceLROnPlateau"],
        "must include a monitor",
    ),
    "nothing to test": (["test", "--config", TOY, "--run=folder", "--trainer.limit_test_batches=0"], "nothing to test"),
    "nothing to validate": (
        ["validate", "--config", TOY, "--run=folder", "--trainer.limit_val_batches=0"],
        "limit_val_batches is 0: there is nothing to validate",
    ),
    "nothing to predict": (["predict", "--config", TOY, "--run=folder", "--trainer.limit_predict_batches=0"], "is 0"),
    "several machines without a directory": ([*FIT, "--trainer.num_nodes=2"], "give --run DIR"),
    "batch in unequal parts": ([*FIT, "--data.init_args.micro_batch_size=5"], "micro_batch_size 5 does not divide"),
    "ends in disorder": ([*FIT, "--model.init_args.schedule.init_args.logsnr_min=20"], "logsnr_min"),
    "guidance of nothing": (
        [*FIT, "--model.init_args.sampler=DiffusionSampler", "--model.init_args.sampler.guidance=ClassifierFree"],
        "conditioner",
    ),
    "a field of a part without a class": (
        [*FIT, "--model.init_args.sampler.steps=5"],
        "model.init_args.sampler: lightning_gen.diffusion.Sampler is abstract: name one of AdaptiveSampler, Diff",
    ),
    "no file type": (["sample", "nowhere", "--out", "x.gif"], "x.gif"),
    # files
    "no such config": (["fit", "--config", "whol.yaml"], "no config file whol.yaml, did you mean whole.yaml?"),
    "no such part of a config": (["fit", "--config", "dangling.yaml"], "no config file parts/nowhere.yaml"),
    "no such benchmark config": (["benchmark", "--config", "nowhere.yaml"], "nowhere.yaml"),
    "no YAML": (["fit", "--config", "torn.yaml"], "torn.yaml, line 3, is not valid YAML"),
    "no YAML in a part": (["fit", "--config", "holds_torn.yaml"], "torn.yaml, line 3, is not valid YAML"),
    "empty config": (["fit", "--config", "empty.yaml"], "empty.yaml is empty"),
    "a list for a config": (["fit", "--config", "list.yaml"], "list.yaml is not a config"),
    "a picture for a config": (["fit", "--config", str(ROOT / ".github" / "digits_compare.png")], "it is no text"),
    "a directory for a config": (["fit", "--config", "folder"], "folder is a directory"),
    "neither model nor data": (["fit"], "give --config FILE, or --model and --data"),
    "no model": (["fit", "--data=TwoMoons"], "there is no model"),
    "no data": (["fit", f"--model={MODEL}"], "there is no data"),
    "no such run": (["evaluate", "nowhere"], "nowhere"),
    "no such run to test": (["test", "--run", "nowhere"], "no run or checkpoint at nowhere"),
    "no run to test": (["test"], "test needs --run DIR"),
    "a run without a checkpoint": (["evaluate", "folder"], "folder holds no checkpoint"),
    "a foreign checkpoint": (["evaluate", "text.ckpt"], "text.ckpt cannot be read as a checkpoint"),
    "resuming from a foreign checkpoint": ([*FIT, "--ckpt_path=text.ckpt"], "text.ckpt cannot be read as a checkpoint"),
    "resuming from nothing": ([*FIT, "--ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
    "judging a foreign checkpoint": (["test", "--config", TOY, "--ckpt_path=text.ckpt"], "text.ckpt cannot be read"),
    "weights of nothing": ([*FIT, "--init_from=nowhere"], "nowhere"),
    "a file for a run": ([*FIT, "--run", "text.ckpt"], "text.ckpt"),
    # the machine
    "no such accelerator": ([*FIT, "--trainer.accelerator=gpuu"], "'gpuu', did you mean gpu?"),
    "no TPU": ([*FIT, "--trainer.accelerator=tpu"], "no tpu on this machine"),
    "no such strategy": ([*FIT, "--trainer.strategy=ddpp"], "'ddpp', did you mean ddp?"),
    "no such device": (["sample", "folder", "--device=cuda:77"], "no device 'cuda:77'"),
    "devices of zero": ([*FIT, "--trainer.devices=0"], "devices='0'"),
    "interval below zero": ([*FIT, "--trainer.val_check_interval=-1"], "val_check_interval"),
    "overfitting below zero": ([*FIT, "--trainer.overfit_batches=-3"], "overfit_batches"),
    # labels
    "labels counted from one": (
        ["fit", "--config", str(ROOT / "configs/experiment/digits_cvae.yaml"), "--run=new", "--data=from_one.FromOne"],
        "labels of 10 classes are 0 to 9, not 1 to 10",
    ),
    # images and texts
    "no images": (["pack", "folder"], "folder holds no images"),
    "images without training": (["pack", "held_out"], "held_out has test/ and no train/"),
    "an image that is none": (["pack", "torn_image"], "the image train/cat/0.png cannot be read"),
    "torn labels": (["pack", "torn_labels"], "dataset.json is no label file of StyleGAN or EDM"),
    "a text in UTF-16": (
        ["fit", f"--model={MODEL}", "--data=datamodules.Text", "--data.init_args.path=wide.txt", "--run=new"],
        "wide.txt holds NUL characters, as UTF-16 does: convert it to UTF-8",
    ),
    # users' classes
    "a network built otherwise": (
        [*FIT, "--run=new", "--model.init_args.network=torch.nn.ReLU"],
        "it is built as Net(shape, out_channels, cond_dim) and called as net(x, logsnr, cond)",
    ),
    "a network called otherwise": (
        [*FIT, "--run=new", "--model.init_args.network=torch.nn.Identity"],
        "it is built as Net(shape, out_channels, cond_dim) and called as net(x, logsnr, cond)",
    ),
    # arguments of W&B's logger
    "a prefix for W&B": (
        [*FIT, "--run=new", "--trainer.logger=WandbLogger", "--trainer.logger.prefix=x"],
        "trainer.logger.prefix is 'x': metrics keep their names",
    ),
    "another folder for W&B": (
        [*FIT, "--run=new", "--trainer.logger=WandbLogger", "--trainer.logger.dir=x"],
        "logger.dir",
    ),
    "an id that W&B refuses": (
        [*FIT, "--run=new", "--trainer.logger=WandbLogger", "--trainer.logger.id=a/b"],
        "logger.id",
    ),
    # settings of nothing
    "a setting of a model that nothing names": (
        ["fit", "--model.init_args.optimizer.lr", "1e-3"],
        "model.init_args.optimizer.lr is a setting of a class that nothing names: give --config FILE",
    ),
    "a flag before the config": (
        ["fit", "--trainer.max_steps=many", "--config", TOY],
        "trainer.max_steps must be of type",
    ),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with the files above."""
    for name, text in TEXT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder):
    return {str(f.relative_to(folder)): f.is_file() and f.read_bytes() for f in folder.rglob("*") if f.name != "runs"}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line_and_status_2(name, capsys, here):
    before = content(here)
    args, said = BAD[name]
    assert main(args) == 2
    out, error = capsys.readouterr()
    assert error.count("\n") == 1 and error.startswith("lightning-gen") and len(error) < 400 and out == ""
    assert said in error
    after = {path: text for path, text in content(here).items() if "__pycache__" not in path}
    assert after == before, "something was left behind, or overwritten"


def test_debug_shows_the_traceback_wherever_it_stands(here):
    import argparse

    for args in (["--debug", "fit", "--trainer.max_stepz=3"], ["fit", "--trainer.max_stepz=3", "--debug"]):
        with pytest.raises(argparse.ArgumentError):
            main(args)


BUG = """
from lightning_gen.diffusion import GaussianDiffusion

class Buggy(GaussianDiffusion):
    def training_loss(self, x, y=None):
        {bug}
"""


@pytest.mark.parametrize(
    ("bug", "error"),
    [
        ("return x.nonexistent", AttributeError),
        ("import torch; return torch.nn.Embedding(1, 1, padding_idx=3)", Exception),
    ],
)
def test_a_bug_in_a_users_class_keeps_its_traceback(bug, error, here, monkeypatch):
    (here / "mine.py").write_text(BUG.format(bug=bug))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    quick = ["--data.init_args.num_train=64", "--data.init_args.num_val=8", "--data.init_args.num_test=8"]
    with pytest.raises(error):
        main([*FIT, "--model.class_path=mine.Buggy", "--trainer.max_steps=1", "--data.init_args.batch_size=8", *quick])


def test_a_closed_pipe_is_no_error(here):
    """`lightning-gen --help | head`: nothing reads any more, and nothing is said of it."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lightning_gen", "--help"],
            stdout=write,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            check=False,
        )
    finally:
        os.close(write)
    assert done.stderr == b"" and done.returncode == 141
