"""Glow's training step beside normflows' own Glow of equal size, on 28x28 greyscale.

    OMP_NUM_THREADS=1 python tests/benchmarks/glow_step.py --levels 2 --steps 4 --hidden 64 --rounds 9

A step is forward, minus the mean log-density, backward and fused Adam. Times are
CPU seconds of the one thread. The two take turns, one step each and round after round, so that what else the machine does to
caches and clocks falls on both alike; figures are medians over the rounds, and the ratio is the median of the rounds' ratios.

Both have networks of a 3x3, a 1x1 and a 3x3 convolution with ReLUs, affine couplings, LU-decomposed 1x1 convolutions and
actnorms. They differ in the prior of what is split off (here a 3x3 convolution of the rest says it, in normflows it is a
Gaussian of one mean and scale a number) and in the scale (here bounded by tanh, there a sigmoid).
Peer: `pip install normflows`.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lightning_gen.flow import Glow, StandardNormal
from lightning_gen.networks import ConvNet

SHAPE = (1, 28, 28)


def ours(levels: int, steps: int, hidden: int, x: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    flow, base = (
        Glow(SHAPE, None, partial(ConvNet, widths=(hidden, hidden)), levels=levels, steps=steps),
        StandardNormal(),
    )
    with torch.no_grad():
        flow.initialize(x)

    def loss() -> Tensor:
        z, log_det = flow(x)
        return -(base.log_prob(z) + log_det).mean()

    return flow, loss


def theirs(levels: int, steps: int, hidden: int, x: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    import normflows as nf

    channels, height, width = SHAPE
    bases, merges, flows = [], [], []
    for i in range(levels):
        inside = channels * 2 ** (levels + 1 - i)
        flows.append([*(nf.flows.GlowBlock(inside, hidden) for _ in range(steps)), nf.flows.Squeeze()])
        halved = 2 ** (levels - i)
        latent = channels * 2 ** (levels + (1 if i == 0 else -i))
        bases.append(nf.distributions.DiagGaussian((latent, height // halved, width // halved)))
        merges += [nf.flows.Merge()] if i else []
    flow = nf.MultiscaleFlow(bases, flows, merges, class_cond=False)
    with torch.no_grad():
        flow.forward_kld(x)  # its actnorms start on the first batch that they see
    return flow, lambda: flow.forward_kld(x)


def step(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> float:
    """CPU seconds."""
    start = time.process_time()
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("levels", 2), ("steps", 4), ("hidden", 64), ("batch_size", 64), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="torch.lu is deprecated")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, contestants = torch.rand(args.batch_size, *SHAPE), {}
    for name, make in (("lightning_gen", ours), ("normflows", theirs)):
        flow, loss = make(args.levels, args.steps, args.hidden, x)
        contestants[name] = (torch.optim.Adam(flow.parameters(), 1e-4, fused=True), loss)
        print(f"{name}: {sum(p.numel() for p in flow.parameters()):,} parameters")
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(args.rounds + 2):
        for name, contestant in contestants.items():
            taken = step(*contestant)
            if round_ >= 2:  # the first are slower
                times[name].append(taken)
    for name, taken in times.items():
        ratio = statistics.median(t / o for t, o in zip(taken, times["lightning_gen"]))
        print(f"{name}: {1e3 * statistics.median(taken):.0f} ms a step, {ratio:.2f} times ours")


if __name__ == "__main__":
    main()
