"""A run of a small family of the user's own, made once: integers, an exact likelihood, and ways to fail."""

import pytest

from lightning_gen.__main__ import main

MINE = '''
import os, sys

import torch

from datamodules.base import DataModule, Examples
from lightning_gen.errors import NoLikelihood, UserError
from lightning_gen.evaluation.extractors import Extractor
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood


class Values(Extractor):
    name, num_features, digest = "values", 4, "0" * 16

    def __call__(self, x, levels):
        return x.flatten(1).float() / (levels - 1)


class Holes(Values):
    def __call__(self, x, levels):
        return super().__call__(x, levels) * (float("nan") if os.environ.get("RANK") == "1" else 1)


class Few(DataModule):
    shape, levels = (1, 2, 2), 5
    extractor = {"class_path": "coins_of_ranks.Values"}

    def load(self):
        x = torch.randint(5, (21, 1, 2, 2), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
        return {"train": Examples(x[:8]), "val": Examples(x[8:14]), "test": Examples(x[14:19]), "two": Examples(x[19:])}


class More(Few):
    def load(self):
        x = torch.randint(5, (140, 1, 2, 2), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
        return {"train": Examples(x[:40]), "val": Examples(x[40:90]), "test": Examples(x[90:])}


class Bare(Few):
    extractor = None


class Coins(GenerativeModule):
    def build(self):
        self.logits = torch.nn.Parameter(torch.linspace(-1, 1, 20).reshape(1, 2, 2, 5).sin())

    def log_prob(self, x):
        log_p = self.logits.log_softmax(-1).expand(len(x), *self.logits.shape)
        return log_p.gather(-1, x.long()[..., None]).flatten(1).sum(1)

    def log_likelihood(self, x, y=None, *, estimator=None, draws=1, rng=None):
        rng = rng or self.default_rng(len(x))
        noise = sum(rng.normal((len(x),)) for _ in range(draws)) / draws
        return Likelihood.from_terms({"pixels": self.log_prob(x), "noise": noise}, "elbo", 4)

    def training_loss(self, x, y=None):
        return {"loss": -self.log_prob(x).mean()}

    def sample(self, num, y=None, *, sampler=None, rng=None):
        if os.environ.get("FAILS") == os.environ.get("RANK", "0"):
            raise UserError("the coin is lost")
        u = (rng or self.default_rng(num)).uniform((num, *self.shape))[..., None]
        return (u > self.logits.softmax(-1).cumsum(-1)).sum(-1).clamp(max=self.levels - 1).to(torch.uint8)


class Mute(Coins):
    def log_likelihood(self, x, y=None, **kwargs):
        raise NoLikelihood("mute")


def spoken(args, folder):
    """What a task of a cluster's launcher does; its streams and its status go to files."""
    from lightning_gen.__main__ import main

    name = os.environ.get("SLURM_PROCID", os.environ.get("RANK"))
    sys.stdout, sys.stderr = (open(f"{folder}/{name}.{stream}", "w") for stream in ("out", "err"))
    try:
        status = main(args)
    except SystemExit as left:
        status = left.code
    sys.stdout.close(), sys.stderr.close()
    with open(f"{folder}/{name}.status", "w") as file:
        file.write(str(status))
'''


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Where the user stands: a folder with a module of their own, `coins_of_ranks`."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "coins_of_ranks.py").write_text(MINE)
    return folder


@pytest.fixture
def standing(place, monkeypatch):
    """The user's command is given there."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def trained(place, standing):
    """trained(model="Coins", data="Few"): a run of one step, made at the first call."""

    def function(model: str = "Coins", data: str = "Few"):
        run = place / f"{model}-{data}"
        if not run.exists():
            what = ["--model", f"coins_of_ranks.{model}", "--data", f"coins_of_ranks.{data}"]
            how = ["--data.init_args.batch_size=4", "--trainer.max_steps=1", "--trainer.accelerator=cpu"]
            assert main(["fit", *what, *how, "--samples.every_n_steps=0", "--run", str(run)]) == 0
        return run

    return function
