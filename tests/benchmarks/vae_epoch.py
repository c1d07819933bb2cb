"""Where overhead shows: the small VAE of Burda et al. under `fit` beside a plain script over the same tensors.

    OMP_NUM_THREADS=1 python tests/benchmarks/vae_epoch.py [--turns 60] [--batch 20 100 200] [--samples 1 5]

The script is what one would write by hand: nn.Sequential, fused Adam, binary cross-entropy, the closed-form divergence (with
several samples the importance-weighted bound), a foreach average of the weights, greys binarised anew in every batch. Both
train 784-200-200-50 tanh on 55,000 greys of 28x28, in one process, taking turns of a few steps, in CPU time of the one thread.
Prints the medians in epochs a second and the median ratio of a turn to the next: at most 1.10 is the goal.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.base import DataModule, Examples
from lightning_gen.callbacks import EMA, Checkpoints, Progress, SampleSheet, Throughput
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.loggers import MetricsCSV
from lightning_gen.networks import PlainMLP
from lightning_gen.unprofiled import Unprofiled
from lightning_gen.vae import ELBO, IWAE, VAE, Bernoulli

NUM = 55_000


class Greys(DataModule):
    """Random greys of which training draws bits; a step's time does not depend on what they show."""

    shape, levels = (1, 28, 28), 2

    def load(self) -> dict[str, Examples]:
        x = torch.randint(256, (NUM, *self.shape), dtype=torch.uint8)
        self.greys = Examples(x)
        return {"train": Examples(x // 128), "val": Examples(x[:64] // 128)}

    def training_examples(self) -> Examples:
        self.split("train")
        return self.greys

    def augment(self, x: Tensor, rng) -> Tensor:
        return (rng.uniform(x.shape) < x / 255).to(torch.uint8)


class Script:
    """The plain loop."""

    def __init__(self, greys: Tensor, batch: int, samples: int) -> None:
        def mlp(*sizes: int) -> nn.Sequential:
            layers = [part for pair in zip(sizes, sizes[1:]) for part in (nn.Linear(*pair), nn.Tanh())]
            return nn.Sequential(*layers[:-1])

        self.encoder, self.decoder = mlp(784, 200, 200, 100), mlp(50, 200, 200, 784)
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-3, betas=(0.99, 0.999), eps=1e-4, fused=True)
        self.average = [p.detach().clone() for p in self.parameters]
        self.greys, self.batch, self.samples, self.order = greys.flatten(1), batch, samples, torch.arange(0)

    def step(self) -> None:
        if len(self.order) < self.batch:
            self.order = torch.randperm(NUM)
        rows, self.order = self.order[: self.batch], self.order[self.batch :]
        x = torch.bernoulli(self.greys[rows].float() / 255)
        mean, log_std = self.encoder(x).chunk(2, 1)
        eps = torch.randn(self.samples, *mean.shape)
        z = mean + log_std.exp() * eps
        logits = self.decoder(z)
        target = x.expand_as(logits)
        log_p = -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
        if self.samples == 1:
            loss = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(1).mean() - log_p.mean()
        else:
            log_w = log_p + (0.5 * (eps**2 - z**2) + log_std).sum(-1)
            loss = -(log_w.logsumexp(0) - math.log(self.samples)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 0.001)


class Turns(Callback):
    """After every block of the Trainer's steps, as many of the script's; times both."""

    def __init__(self, steps: int, batch: int, samples: int) -> None:
        self.steps, self.batch, self.samples = steps, batch, samples
        self.bench: list[float] = []
        self.bare: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self.script = Script(trainer.datamodule.greys.x, self.batch, self.samples)
        self.began = time.thread_time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: GenerativeModule, *args) -> None:
        if trainer.global_step % self.steps:
            return
        now = time.thread_time()
        self.bench.append((now - self.began) / self.steps)
        for _ in range(self.steps):
            self.script.step()
        self.bare.append((time.thread_time() - now) / self.steps)
        self.began = time.thread_time()


def contest(batch: int, samples: int, turns: int, steps: int = 10) -> tuple[float, float, float]:
    """(seconds a step of the bench, of the script, ratio): medians over the turns but the first, the ratio of each pair."""
    module = VAE(
        (1, 28, 28),
        2,
        None,
        encoder=PlainMLP,
        decoder=PlainMLP,
        observation=Bernoulli(),
        objective=ELBO() if samples == 1 else IWAE(samples),
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.99, 0.999), eps=1e-4, fused=True),
    )
    turn = Turns(steps, batch, samples)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=-1,
            max_steps=turns * steps,
            limit_val_batches=0,
            log_every_n_steps=NUM // batch,
            default_root_dir=folder,
            logger=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            profiler=Unprofiled(),
            callbacks=[Throughput(), EMA(), Checkpoints(10**9), SampleSheet(0), Progress(1e9), turn],
        )
        trainer.loggers = [MetricsCSV(Path(folder))]
        trainer.fit(module, Greys(batch_size=batch))
    ratio = statistics.median(a / b for a, b in zip(turn.bench[1:], turn.bare[1:]))
    return statistics.median(turn.bench[1:]), statistics.median(turn.bare[1:]), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--batch", type=int, nargs="+", default=[20, 100, 200])
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 5])
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print(f"{'batch':>5} {'K':>2} {'bench ms':>9} {'script ms':>9} {'epochs/s':>9} {'script':>9} {'ratio':>6}")
    for batch in given.batch:
        for samples in given.samples:
            bench, bare, ratio = contest(batch, samples, given.turns)
            rates = [batch / NUM / each for each in (bench, bare)]
            times = f"{1e3 * bench:9.3f} {1e3 * bare:9.3f} {rates[0]:9.3f} {rates[1]:9.3f}"
            print(f"{batch:5} {samples:2} {times} {ratio:6.3f}", flush=True)


if __name__ == "__main__":
    main()
