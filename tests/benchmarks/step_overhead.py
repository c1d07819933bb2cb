"""What the bench costs: a training step under the Trainer beside a bare loop over the same tensors.

    OMP_NUM_THREADS=1 python tests/benchmarks/step_overhead.py [--turns 60] [mlp unet]

Both train the same network on the same batches with fused AdamW, a clipped gradient and one foreach average, in one
process, taking turns of a few steps, so that a noisy machine slows both alike; times are those of the one thread on its
core, without the time that other programs take from it. The bench's turn has all that `fit` has: its loader, seeding of
every step, the watch for NaN, averages, logging to the CSV every 50 steps, checkpoints, progress. Prints the medians, and
the median ratio of a turn to the next: at most 1.10 for the MLP and 1.02 for the U-Net is the goal.
"""

from __future__ import annotations

import argparse
import copy
import functools
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from datamodules.base import DataModule, Examples
from lightning_gen.callbacks import EMA, Checkpoints, Progress, SampleSheet, Throughput
from lightning_gen.diffusion import GaussianDiffusion
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.loggers import MetricsCSV
from lightning_gen.networks import MLP, UNet
from lightning_gen.unprofiled import Unprofiled


class Noise(DataModule):
    """Random data of a shape: a step's time does not depend on what they show."""

    def __init__(self, shape: tuple[int, ...], levels: int | None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.shape, self.levels = shape, levels

    def load(self) -> dict[str, Examples]:
        x = torch.randint(self.levels, (2000, *self.shape), dtype=torch.uint8) if self.levels else None
        x = torch.randn(60_000, *self.shape) if x is None else x
        return {"train": Examples(x), "val": Examples(x[:64])}


class BareLoop(Callback):
    """After every block of the Trainer's steps, as many of its own on a copy of the module; times both."""

    def __init__(self, steps: int, clip: float) -> None:
        self.steps, self.clip = steps, clip
        self.bench: list[float] = []
        self.bare: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self.module = copy.deepcopy(pl_module.cpu())
        self.module.averages = None
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = self.module.optimizer_factory(self.parameters)
        self.average = [p.detach().clone() for p in self.parameters]
        self.batches = iter(trainer.datamodule.train_dataloader())
        self.began = time.thread_time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: GenerativeModule, *args) -> None:
        if trainer.global_step % self.steps:
            return
        now = time.thread_time()
        self.bench.append((now - self.began) / self.steps)
        for _ in range(self.steps):
            batch = next(self.batches)
            self.optimizer.zero_grad(set_to_none=True)
            self.module.training_loss(batch.x)["loss"].mean().backward()
            nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
            self.optimizer.step()
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 0.001)
        self.bare.append((time.thread_time() - now) / self.steps)
        self.began = time.thread_time()


CONTESTS = {
    # name: (network, shape, levels, batch, steps a turn)
    "mlp": (functools.partial(MLP, width=128, depth=3), (2,), None, 512, 10),
    "unet": (functools.partial(UNet, channels=32, multipliers=[1, 2, 2], blocks=1), (1, 16, 16), 256, 64, 3),
}


def contest(name: str, turns: int) -> tuple[float, float, float]:
    """(seconds a step of the bench, of the bare loop, ratio): medians over the turns but the first, the ratio of each pair."""
    network, shape, levels, batch, steps = CONTESTS[name]
    module = GaussianDiffusion(shape, levels, None, network)
    data = Noise(shape, levels, batch_size=batch)
    bare = BareLoop(steps, clip=1.0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=-1,
            max_steps=turns * steps,
            limit_val_batches=0,
            log_every_n_steps=50,
            gradient_clip_val=1.0,
            default_root_dir=folder,
            logger=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            profiler=Unprofiled(),
            callbacks=[Throughput(), EMA(), Checkpoints(10**9), SampleSheet(0), Progress(1e9), bare],
        )
        trainer.loggers = [MetricsCSV(Path(folder))]
        trainer.fit(module, data)
    ratio = statistics.median(a / b for a, b in zip(bare.bench[1:], bare.bare[1:]))
    return statistics.median(bare.bench[1:]), statistics.median(bare.bare[1:]), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("contests", nargs="*", default=list(CONTESTS))
    parser.add_argument("--turns", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print(f"{'':6} {'bench ms':>9} {'bare ms':>9} {'ratio':>6}")
    for name in given.contests:
        bench, bare, ratio = contest(name, given.turns)
        print(f"{name:6} {1e3 * bench:9.3f} {1e3 * bare:9.3f} {ratio:6.3f}", flush=True)


if __name__ == "__main__":
    main()
