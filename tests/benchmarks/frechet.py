"""What a Frechet distance costs: the project's beside the matrix root of scipy, and beside one matrix product.

    OMP_NUM_THREADS=1 python tests/benchmarks/frechet.py [--dim 2048] [--turns 5]

Seconds on one thread, medians over turns taken one after the other, so that a noisy machine slows all alike. At 2048
features the distance shall take less than 1.5 s, or less than 4 products of two such matrices.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import linalg

from lightning_gen.evaluation.frechet import FeatureStatistics, Moments, Reference, frechet_distance


def moments(dim: int, seed: int) -> Moments:
    """Of 2.5 dim correlated normal vectors."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator) / dim**0.5
    sums = FeatureStatistics(dim)
    sums.update(torch.randn(5 * dim // 2, dim, generator=generator) @ mix)
    return sums.compute()


def by_matrix_root(a: Moments, b: Moments) -> float:
    """As the metric was first published."""
    root = linalg.sqrtm(a.cov.numpy() @ b.cov.numpy())
    return float((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace()) - 2 * np.trace(root).real


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    generated, real = moments(given.dim, 0), moments(given.dim, 1)
    reference = Reference.from_moments(real)
    contests: dict[str, tuple[int, Callable[[], object]]] = {
        "product": (given.turns, lambda: generated.cov @ real.cov),
        "distance": (given.turns, lambda: frechet_distance(generated, reference)),
        "reference": (given.turns, lambda: Reference.from_moments(real)),
        "sqrtm": (1, lambda: by_matrix_root(generated, real)),
    }
    times: dict[str, list[float]] = {name: [] for name in contests}
    for turn in range(given.turns):
        for name, (turns, work) in contests.items():
            if turn < turns:
                began = time.perf_counter()
                work()
                times[name].append(time.perf_counter() - began)
    for name, seconds in times.items():
        print(f"{name:10} {statistics.median(seconds):7.3f} s")
    print(f"agreement  {abs(frechet_distance(generated, reference) / by_matrix_root(generated, real) - 1):.1e}")


if __name__ == "__main__":
    main()
