"""Classes of a user's own file, with and without types and defaults, through every verb that builds them."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule

import lightning_gen.families  # noqa: F401  so that bare names are known
from lightning_gen.__main__ import main
from lightning_gen.errors import UserError
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.loading import load
from lightning_gen.specs import build

MINE = """
import torch
from lightning.pytorch import Callback
from torch import nn
from datamodules.base import DataModule, Examples
from lightning_gen.diffusion.schedules.base import NoiseSchedule
from lightning_gen.flow.bijections.base import Bijection

class Net(nn.Module):
    def __init__(self, shape, out_channels, cond_dim, width{int}):
        super().__init__()
        self.first, self.second = nn.Linear(shape[0] + 1, width), nn.Linear(width, out_channels)

    def forward(self, x, logsnr, cond=None):
        return self.second(torch.tanh(self.first(torch.cat([x, logsnr[:, None] / 20], 1))))

class Sgd(torch.optim.SGD):
    def __init__(self, params, rate{float}):
        super().__init__(params, lr=rate)

class Falling(torch.optim.lr_scheduler.LambdaLR):
    def __init__(self, optimizer, after{int}):
        super().__init__(optimizer, lambda step: 1 / (1 + step / after))

class Line(NoiseSchedule):
    def __init__(self, end{float}):
        self.end = end
        super().__init__(-end, end)

    def _logsnr(self, u):
        return self.end * (1 - 2 * u)

    def _dlogsnr_du(self, u):
        return torch.full_like(u, -2 * self.end)

    def _time(self, logsnr):
        return (1 - logsnr / self.end) / 2

class Watch(Callback):
    def __init__(self, every{int}):
        self.every, self.seen = every, 0

    def on_train_batch_end(self, *args):
        self.seen += self.every

class Cloud(DataModule):
    shape = (2,)

    def __init__(self, count{int}, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def load(self):
        x = torch.randn(self.count, 2, generator=torch.Generator().manual_seed(0))
        return {{"train": Examples(x), "val": Examples(x[:8]), "test": Examples(x[8:16])}}

class Stretch(Bijection):
    def __init__(self, shape, cond_dim, by{float}):
        super().__init__(shape, cond_dim)
        self.log_scale = nn.Parameter(torch.full(shape, float(by)).log())

    def forward(self, x, cond=None):
        return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, z, cond=None):
        return z / self.log_scale.exp()
"""
VALUES = {"width": 4, "rate": 0.01, "after": 5, "end": 9.0, "every": 3, "count": 32, "by": 2.0}
TYPES = {"int": ": int", "float": ": float"}
TYPINGS = {
    "typed": (TYPES, False),
    "typed, defaults": (TYPES, True),
    "untyped": ({"int": "", "float": ""}, False),
    "untyped, defaults": ({"int": "", "float": ""}, True),
}
QUIET = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--samples.num=4", "--trainer.limit_val_batches=1"]


def spec(name, *settings):
    return {"class_path": f"mine.{name}", "init_args": {key: VALUES[key] for key in settings}}


def config(family):
    optimizer = {"optimizer": spec("Sgd", "rate"), "lr_schedule": spec("Falling", "after")}
    if family == "diffusion":
        parts = {"network": spec("Net", "width"), "schedule": spec("Line", "end"), "parameterization": "VPrediction"}
        kind = "GaussianDiffusion"
    else:
        parts, kind = {"flow": spec("Stretch", "by")}, "NormalizingFlow"
    data = spec("Cloud", "count")
    data["init_args"]["batch_size"] = 8
    callbacks = [spec("Watch", "every")]
    model = {"class_path": kind, "init_args": {**parts, **optimizer}}
    return {"model": model, "data": data, "trainer": {"max_steps": 2, "callbacks": callbacks}}


@pytest.fixture(params=["diffusion", "flow"])
def written(request, tmp_path, monkeypatch):
    """written(typing): mine.py and it.yaml of a family in the current folder; the config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(typing):
        types, defaults = TYPINGS[typing]
        text, whole = MINE, config(request.param)
        if defaults:
            for name, value in VALUES.items():
                kind = "float" if isinstance(value, float) else "int"
                text = text.replace(f"{name}{{{kind}}}", f"{name}{{{kind}}} = {value}")
            for part in (whole["data"], *whole["trainer"]["callbacks"], *whole["model"]["init_args"].values()):
                if isinstance(part, dict):
                    part["init_args"] = {k: v for k, v in part["init_args"].items() if k not in VALUES}
        (tmp_path / "mine.py").write_text(text.format(**types))
        (tmp_path / "it.yaml").write_text(yaml.safe_dump(whole))
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        importlib.invalidate_caches()
        return whole

    return write


def is_mine(model):
    return any(type(part).__module__ == "mine" for part in model.modules())


@pytest.mark.parametrize("typing", TYPINGS)
def test_a_users_class_is_built_whatever_its_constructor_says_of_types(written, typing):
    """As a checkpoint's recipe names it, by the verbs that have no command line of the Trainer's."""
    whole = written(typing)
    model = build(whole["model"], GenerativeModule, shape=[2], levels=None, num_classes=None)
    model.configure_model()
    assert is_mine(model)
    optimizer = model.optimizer_factory(list(model.parameters()))
    assert optimizer.param_groups[0]["lr"] == VALUES["rate"]
    assert type(model.lr_schedule_factory(optimizer)).__name__ == "Falling"
    assert len(build(whole["data"], LightningDataModule).load()["train"].x) == VALUES["count"]
    assert build(*whole["trainer"]["callbacks"], Callback).every == VALUES["every"]


def test_a_run_of_untyped_classes_is_fitted_resumed_evaluated_sampled_and_loaded(
    written, tmp_path, capsys, monkeypatch
):
    written("untyped")
    fit = ["fit", "--config", "it.yaml", "--run", "run", *QUIET]
    for args in (
        fit,
        [*fit, "--trainer.max_steps", "4"],
        ["evaluate", "run", "--num_samples", "8", "--batch_size", "4"],
        ["sample", "run", "--num", "4"],
    ):
        assert main(args) == 0, (args, capsys.readouterr().err)
    assert torch.load("run/checkpoints/step_00000004.ckpt", weights_only=True)["global_step"] == 4
    assert json.loads((tmp_path / "run" / "evaluation" / "default.json").read_text())["metrics"]
    model = load("run")
    assert model.sample(3).shape == (3, 2) and is_mine(model)
    # away from the user's file
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not Path(place or ".", "mine.py").exists()])
    sys.modules.pop("mine")
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=r"trained with mine\.\w+, and there is no module 'mine' here: .* PYTHONPATH"):
        load(tmp_path / "run")
    capsys.readouterr()
    for verb in ("evaluate", "sample"):
        assert main([verb, str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert "no module 'mine' here" in error and error.count("\n") == 1
