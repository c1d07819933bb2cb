"""The U-Net's training step beside those of other projects, each about 2.6 M parameters, on 32x32 greyscale.

    OMP_NUM_THREADS=1 python tests/benchmarks/unet_step.py --rounds 9

A step is forward, squared error against noise, backward and fused AdamW. Times are those of the one thread on its core,
without the time that other programs take from it. The contestants take turns, one step each and round after round, so
that what else the machine does to caches and clocks falls on all alike; figures are medians over the rounds and the
ratio is the median of each round's time over ours. GF is counted by torch's own counter (convolutions and products of
matrices, forward and backward), so that a network that is merely smaller shows.

Peers are optional (`pip install diffusers==0.42.1 denoising-diffusion-pytorch==2.3.4 torchcfm==1.0.7`); one that is not
installed is said so. All have three levels, self-attention with four heads at 8x8, a second norm scaled and shifted by
the noise level in every block, and in groups of it eight where that can be chosen. They differ in: widths (ours 40, 80,
120; diffusers and torchcfm 32, 64, 96; denoising-diffusion-pytorch 32, 64, 128, whose blocks run before the width
changes), blocks (ours two a level down, two up, four at the coarsest; diffusers and torchcfm two down, three up, two
between; denoising-diffusion-pytorch two, two, two and one at the end), attention (ours after every block at 8x8, also
diffusers' and torchcfm's; denoising-diffusion-pytorch's once a level, linear at 32x32 and 16x16), norms (32 groups in
torchcfm, RMS over channels in denoising-diffusion-pytorch) and first convolution (7x7 in the latter, else 3x3).

`--keep_memory` tells glibc's allocator to keep what is freed, for all contestants: otherwise every large tensor of a
step is made of pages new from the kernel, which are zeroed first.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from lightning_gen.networks import UNet

Call = Callable[[nn.Module, Tensor, Tensor], Tensor]


def ours() -> tuple[nn.Module, Call]:
    network = UNet((1, 32, 32), 1, channels=40, multipliers=(1, 2, 3), blocks=2, attention=(8,), groups=8)
    return network, lambda network, x, t: network(x, t)


def ours_wider() -> tuple[nn.Module, Call]:
    """As many parameters, in fewer channels at the coarsest level and more, with more arithmetic, at the finest."""
    return UNet((1, 32, 32), 1, channels=48, multipliers=(1, 2, 2), blocks=2, attention=(8,), groups=8), ours()[1]


def ours_deeper() -> tuple[nn.Module, Call]:
    """The widths of diffusers' and torchcfm's here, multiples of 32, and three blocks a level."""
    return UNet((1, 32, 32), 1, channels=32, multipliers=(1, 2, 3), blocks=3, attention=(8,), groups=8), ours()[1]


def diffusers() -> tuple[nn.Module, Call]:
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        attention_head_dim=24,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
    )
    return network, lambda network, x, t: network(x, t).sample


def denoising_diffusion_pytorch() -> tuple[nn.Module, Call]:
    from denoising_diffusion_pytorch import Unet

    return Unet(32, channels=1, dim_mults=(1, 2, 4)), lambda network, x, t: network(x, t)


def torchcfm() -> tuple[nn.Module, Call]:
    from torchcfm.models.unet.unet import UNetModel

    network = UNetModel(
        image_size=32,
        in_channels=1,
        model_channels=32,
        out_channels=1,
        num_res_blocks=2,
        attention_resolutions=(4,),
        channel_mult=(1, 2, 3),
        num_heads=4,
        use_scale_shift_norm=True,
    )
    return network, lambda network, x, t: network(t, x)


PEERS = (diffusers, denoising_diffusion_pytorch, torchcfm)


@dataclass
class Contestant:
    """A network in one memory format, its optimizer, and the milliseconds that it took."""

    name: str
    network: nn.Module
    call: Call
    memory_format: torch.memory_format
    times: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.network.to(memory_format=self.memory_format)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), 1e-4, fused=True)

    def loss(self, x: Tensor, t: Tensor, noise: Tensor, bfloat16: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return mse_loss(self.call(self.network, x.to(memory_format=self.memory_format), t).float(), noise)

    def step(self, *batch: Tensor, bfloat16: bool) -> None:
        self.loss(*batch, bfloat16).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def forward(self, *batch: Tensor, bfloat16: bool) -> None:
        self.loss(*batch, bfloat16)

    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def flops(self, *batch: Tensor) -> int:
        """Of one step: two a multiply-add."""
        with FlopCounterMode(display=False) as counter:
            self.loss(*batch, bfloat16=False).backward()
        self.optimizer.zero_grad(set_to_none=True)
        return counter.get_total_flops()


def keep_memory() -> None:
    """From here on, large blocks come from glibc's heap, which never shrinks (mallopt(3))."""
    trim_threshold, mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, -1)
    libc.mallopt(mmap_max, 0)


def contestants(channels_last: bool) -> Iterator[Contestant]:
    """Ours first; then the peers that are installed."""
    for build in (ours, ours_wider, ours_deeper, *PEERS):
        if build in PEERS and importlib.util.find_spec(build.__name__) is None:
            print(f"{build.__name__}: not installed")
            continue
        for memory_format in (torch.contiguous_format, torch.channels_last)[: 1 + channels_last]:
            torch.manual_seed(0)
            suffix = " channels_last" if memory_format is torch.channels_last else ""
            yield Contestant(build.__name__ + suffix, *build(), memory_format)


def race(rivals: list[Contestant], batch: tuple[Tensor, ...], precisions: list[str], rounds: int) -> None:
    """One step of each in turn, in each precision; the first round of each warms up and is not counted."""
    for precision in precisions:
        for verb in ("step", "forward"):
            for turn in range(rounds + 1):
                for rival in rivals:
                    start = time.thread_time()
                    getattr(rival, verb)(*batch, bfloat16=precision == "bf16")
                    if turn:
                        elapsed = 1e3 * (time.thread_time() - start)
                        rival.times.setdefault(f"{precision} {verb}", []).append(elapsed)


def report(rivals: list[Contestant], batch: tuple[Tensor, ...]) -> None:
    columns = list(rivals[0].times)
    print(f"{'median ms (ratio to ours), GF/s':42}{'M par.':>7}{'GF':>7}" + "".join(f"{name:>22}" for name in columns))
    for rival in rivals:
        gigaflops = rival.flops(*batch) / 1e9
        line = f"{rival.name:42}{rival.parameters() / 1e6:7.2f}{gigaflops:7.1f}"
        for column in columns:
            ratio = statistics.median(a / b for a, b in zip(rival.times[column], rivals[0].times[column]))
            milliseconds = statistics.median(rival.times[column])
            rate = f"{1e3 * gigaflops / milliseconds:5.0f}" if column.endswith("step") else ""
            line += f"{milliseconds:9.0f} ({ratio:.2f}){rate}".rjust(22)
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description="The U-Net's training step beside those of other projects.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--channels_last", action="store_true", help="each network in this memory format, too")
    parser.add_argument("--keep_memory", action="store_true", help="let the allocator keep what is freed")
    arguments = parser.parse_args()
    if arguments.keep_memory:
        keep_memory()

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, arguments.batch_size, 1, 32, 32, generator=generator)
    batch = (x, torch.rand(arguments.batch_size, generator=generator), noise)
    rivals = list(contestants(arguments.channels_last))
    race(rivals, batch, arguments.precisions, arguments.rounds)
    memory = "kept" if arguments.keep_memory else "returned"
    print(f"one thread, batch {arguments.batch_size}, {arguments.rounds} rounds, freed memory {memory}; ", end="")
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, load {os.getloadavg()[0]:.1f}")
    report(rivals, batch)


if __name__ == "__main__":
    main()
