"""A tiny model of tiny data and a quick Trainer, so that laws of training are checked in milliseconds."""

import atexit
import csv
import logging
import os
import resource
import shutil
import signal
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

os.environ["LIGHTNING_GEN_CACHE"] = tempfile.mkdtemp(prefix="lightning_gen-")  # not the user's own
atexit.register(shutil.rmtree, os.environ["LIGHTNING_GEN_CACHE"], ignore_errors=True)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the layers are small: a second thread makes them slower

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from datamodules.base import DataModule, Examples
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.run_directory import checkpoint_files

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", module="lightning")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    torch.manual_seed(0)  # what a test leaves open (a network's start) is the same whatever ran before it


class TinyData(DataModule):
    """64 points of the plane on two lines; 10 of another draw to validate, 7 to test."""

    shape = (2,)

    def load(self) -> dict[str, Examples]:
        x = torch.randn(81, 2, generator=torch.Generator().manual_seed(5)) + torch.tensor([2.0, -1.0])
        return {"train": Examples(x[:64]), "val": Examples(x[64:74]), "test": Examples(x[74:])}


class TinyModel(GenerativeModule):
    """A denoiser with dropout and a count of its batches, and a likelihood of two terms."""

    def build(self) -> None:
        self.network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 2))
        with torch.no_grad():
            generator = torch.Generator().manual_seed(3)
            for p in self.network.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 2)
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def training_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        if self.training:
            self.batches += 1
        draws = self.draws(x)
        scale = draws.shared.uniform((draws.total,))[draws.rows]
        error = self.network(x + scale[:, None] * draws.own.normal(x.shape)) - x
        return {"loss": error.square().mean(), "scale": scale.mean()}

    def log_likelihood(self, x, y=None, *, estimator=None, draws=1, rng=None) -> Likelihood:
        rng = rng if rng is not None else self.default_rng(len(x))
        terms = {"near": torch.zeros(len(x)), "far": torch.zeros(len(x))}
        for _ in range(draws):
            error = (x - self.network(rng.normal(x.shape))).square()
            terms = {"near": terms["near"] - error[:, 0] / draws, "far": terms["far"] - error[:, 1] / draws}
        return Likelihood.from_terms(terms, "density-elbo", 2)

    @torch.no_grad()
    def sample(self, num, y=None, *, sampler=None, rng=None) -> Tensor:
        rng = rng if rng is not None else self.default_rng(num)
        return self.network(rng.normal((num, 2)))


@pytest.fixture
def no_wandb(tmp_path, monkeypatch):
    """Nothing from outside says which W&B there is: no key, no server, no proxy."""
    proxies = [f"{scheme}_proxy" for scheme in ("http", "https", "all", "no")]
    own = [name for name in os.environ if name.startswith("WANDB_")]
    for name in (*own, *proxies):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def data():
    """data(**kwargs): the tiny data, 8 examples a step unless told."""
    return lambda **kwargs: TinyData(**{"batch_size": 8, **kwargs})


@pytest.fixture
def model():
    """model(**kwargs): the tiny model of `data`, always from the same initial weights."""
    return lambda **kwargs: TinyModel((2,), None, None, **kwargs)


@pytest.fixture
def trainer(tmp_path):
    """trainer(max_steps, *callbacks, val_every=None, root=tmp_path, **kwargs): silent, on the CPU, counts steps."""

    def function(max_steps: int, *callbacks, val_every: int | None = None, root: Path = tmp_path, **kwargs) -> Trainer:
        quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0)
        steps = dict(max_epochs=-1, max_steps=max_steps, check_val_every_n_epoch=None, val_check_interval=val_every)
        steps |= dict(limit_val_batches=1.0 if val_every else 0, log_every_n_steps=1, use_distributed_sampler=False)
        saves = any(isinstance(callback, Checkpoint) for callback in callbacks)
        place = dict(accelerator="cpu", devices=1, default_root_dir=str(root), enable_checkpointing=saves)
        return Trainer(**{**quiet, **steps, **place, **kwargs}, callbacks=list(callbacks))

    return function


@pytest.fixture
def equal():
    """equal(a, b): two dictionaries of tensors hold the same names and the same bits."""

    def function(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
        return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)

    return function


@pytest.fixture
def small_files():
    """small_files(limit): within it no file grows beyond so many bytes, as on a full disk."""

    @contextmanager
    def function(limit: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return function


@pytest.fixture
def guarded():
    """A hang is a failure."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _content(run: Path) -> tuple[dict, list[dict[str, str]], dict[str, bytes]]:
    """What must be equal: the last checkpoint's training state, the CSV but for the speeds, the sheets."""
    checkpoint = torch.load(checkpoint_files(run)[0], weights_only=True)
    kept = ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "lightning_gen")
    with open(run / "metrics.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if not k.startswith("throughput")} for row in csv.DictReader(file)]
    drawn = (file for folder in ("samples", "reconstructions") for file in (run / folder).glob("*"))
    sheets = {f"{file.parent.name}/{file.name}": file.read_bytes() for file in drawn}
    return {key: checkpoint[key] for key in kept}, rows, sheets


def _same(a, b) -> bool:
    """Deep equality, tensors bit for bit."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


@pytest.fixture
def same_end():
    """same_end(run, whole): both run directories hold the same weights, averages, optimizer, metrics and sheets."""

    def function(run: Path, whole: Path) -> None:
        state, rows, sheets = _content(run)
        expected, expected_rows, expected_sheets = _content(whole)
        assert [row["step"] for row in rows] == [row["step"] for row in expected_rows]
        assert rows == expected_rows
        for key, value in expected.items():
            assert _same(state[key], value), key
        assert sheets == expected_sheets
        assert not [f.name for f in (run / "checkpoints").iterdir() if not f.name.endswith(".ckpt")]

    return function
