"""Noise that moves levels to their neighbours first: D3PM's discretised Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv1d, one_hot

from lightning_gen.discrete_diffusion.processes.base import Process, log_normalized
from lightning_gen.precision import full_float32
from lightning_gen.random_source import RandomSource

LEAST = 1e-36
"""Probabilities below are taken for this one: float32 knows none smaller that has a logarithm to rely on."""


class DiscretizedGaussian(Process):
    """A step goes from level i to j != i with probability exp(-4 (i-j)^2 / ((L-1)^2 beta)) / Z, Z summing over all
    differences from -(L-1) to L-1, and stays with the rest of it (Austin et al. 2021, appendix A.2.3).

    The matrices are symmetric, so that levels far along are equally probable, but do not commute: Q_t has no closed form
    and is a product, of T matrices of L x L, made once. It takes 4 T L^2 bytes (260 MB at T = 1000, L = 256).
    """

    def build(self) -> None:
        log_kernel, log_stay = self._log_kernels()
        nothing = torch.zeros(1, self.levels, dtype=torch.float64)
        # Not buffers, which DistributedDataParallel would send to all ranks at every step.
        self._tables = {
            "log_kernel": torch.cat([nothing, log_kernel]).float(),
            "log_stay": torch.cat([nothing, log_stay]).float(),
            "cumulative": self._cumulative(log_kernel, log_stay),
        }
        self._between: dict[tuple[int, int], Tensor] = {}

    def _log_kernels(self) -> tuple[Tensor, Tensor]:
        """Logarithms [T, L], float64: of a step's probability by the difference of levels, and that a level stays."""
        levels = self.levels
        index = torch.arange(levels, dtype=torch.float64)
        alpha = self.schedule.alpha(torch.arange(self.steps + 1, dtype=torch.float64) / self.steps)
        beta = (1 - alpha[1:] / alpha[:-1])[:, None]
        log_kernel = -4 * index.square() / ((levels - 1) ** 2 * beta)  # [T, L], of a difference
        log_kernel = log_kernel - torch.log(2 * log_kernel.exp().sum(1, keepdim=True) - 1)
        # what stays: 1 minus the rest of its row, the differences down to 0 and up to L - 1
        tails = log_kernel.exp().masked_fill(index == 0, 0.0).cumsum(1)
        return log_kernel, torch.log(1 - tails - tails.flip(1))

    def left_at_end(self) -> float:
        """At a level at the edge, without the tables: each step convolves, and keeps at the edges what would leave."""
        log_kernel, log_stay = self._log_kernels()
        moves = log_kernel.exp()
        moves[:, 0] = 0
        p = one_hot(torch.tensor(0), self.levels).double()
        for kernel, stay in zip(torch.cat([moves.flip(1), moves[:, 1:]], 1), log_stay.exp()):
            p = conv1d(p[None, None], kernel[None, None], padding=self.levels - 1)[0, 0] + stay * p
        return (-torch.special.entr(p)).sum().item() + math.log(self.levels)

    def _table(self, name: str, device: torch.device) -> Tensor:
        """`log_kernel` or `log_stay` [T + 1, L], or `cumulative` [T + 1, L, L], moved to where it is asked for."""
        if self._tables[name].device != device:
            self._tables[name] = self._tables[name].to(device)
        return self._tables[name]

    @staticmethod
    def _matrix(log_kernel: Tensor, log_stay: Tensor) -> Tensor:
        """Q of one step, [L, L], float64."""
        index = torch.arange(len(log_kernel), device=log_kernel.device)
        off = log_kernel.double()[(index[:, None] - index).abs()]
        return torch.where(index[:, None] == index, log_stay.double(), off).exp()

    def _cumulative(self, log_kernel: Tensor, log_stay: Tensor) -> Tensor:
        """Q_t for i = 0..T, float32 [T + 1, L, L], multiplied in float64."""
        product = torch.eye(self.levels, dtype=torch.float64)
        found = torch.empty(self.steps + 1, self.levels, self.levels, dtype=torch.float32)
        found[0] = product
        for i in range(self.steps):
            product = product @ self._matrix(log_kernel[i], log_stay[i])
            found[i + 1] = product
        return found

    def _index(self, t: Tensor) -> Tensor:
        """i of t = i / T, int64."""
        return (t * self.steps).round().long()

    def log_forward(self, log_w: Tensor, t: Tensor) -> Tensor:
        matrix = self._table("cumulative", log_w.device)[self._index(t)].to(log_w.dtype)  # [L, L] or [B, L, L]
        with full_float32(log_w.device):  # autocast would take the product in 16 bits
            found = log_w.exp().flatten(1, -2) @ matrix
        log_p = found.clamp(min=LEAST).log().reshape(log_w.shape)
        # at t = 0 nothing has moved, and w may say less than float32 can multiply
        return torch.where((self._beside(t) == 0)[..., None], log_w, log_p)

    def log_spread(self, x0: Tensor, t: Tensor, dtype: torch.dtype) -> Tensor:
        # rows of the table: a product with the one-hot would be a hundred times the work
        return self._log_rows(self._table("cumulative", x0.device)[self._index(t)], x0).to(dtype)

    def _log_rows(self, matrix: Tensor, x: Tensor) -> Tensor:
        """Logarithms of the rows x of one matrix [L, L], or of each example's [B, L, L]: [B, *shape, L]."""
        matrix = matrix.expand(len(x), self.levels, self.levels)
        index = x.flatten(1)[..., None].expand(-1, -1, self.levels)
        return matrix.gather(1, index).reshape(*x.shape, self.levels).clamp(min=LEAST).log()

    def log_likelihood(self, x_t: Tensor, s: Tensor, t: Tensor, dtype: torch.dtype) -> Tensor:
        if s.ndim == 0 and t.ndim == 0:
            a, b = int(self._index(s)), int(self._index(t))
            if b - a > 1:
                return self._transition(a, b, x_t.device)[x_t].clamp(min=LEAST).log().to(dtype)
            return self._log_step(x_t, self._index(t).expand(len(x_t))).to(dtype)
        first, last = (self._index(each).expand(len(x_t)) for each in (s, t))
        found = self._log_step(x_t, last).to(dtype)
        for a, b in torch.stack([first, last], 1)[last - first != 1].unique(dim=0).tolist():
            rows = (first == a) & (last == b)
            found[rows] = self._transition(a, b, x_t.device)[x_t[rows]].clamp(min=LEAST).log().to(dtype)
        return found

    def _log_step(self, x_t: Tensor, last: Tensor) -> Tensor:
        """log Q_t|s[:, x_t] of the one step up to i = `last` [B]: [B, *shape, L]."""
        distance = (torch.arange(self.levels, device=x_t.device) - x_t[..., None]).abs()
        off, stay = (
            self._table(name, x_t.device)[last].gather(1, index.flatten(1)).reshape(index.shape)
            for name, index in (("log_kernel", distance), ("log_stay", x_t))
        )
        return torch.where(distance == 0, stay[..., None], off)

    def _transition(self, first: int, last: int, device: torch.device) -> Tensor:
        """Q_t|s transposed, so that row x_t has all states at s; kept, since every batch of samples walks the same grid."""
        if first == 0:
            return self._table("cumulative", device)[last].T
        if (first, last) not in self._between:
            log_kernel, log_stay = (self._table(name, device) for name in ("log_kernel", "log_stay"))
            product = torch.eye(self.levels, dtype=torch.float64, device=device)
            for i in range(first + 1, last + 1):
                product = product @ self._matrix(log_kernel[i], log_stay[i])
            self._between[first, last] = product.T.float().contiguous()
        return self._between[first, last].to(device)

    def nats(self, x0: Tensor, x_t: Tensor, log_w: Tensor, t: Tensor) -> Tensor:
        # of single steps, and known to be: nothing has to be read from the device
        step = self._log_step(x_t, self._index(t)).to(log_w.dtype)
        return self.steps * self._kl(x0, log_w, t - 1 / self.steps, step)

    def diffuse(self, x: Tensor, t: Tensor, rng: RandomSource, s: Tensor | None = None) -> Tensor:
        if s is None:
            matrix = self._table("cumulative", x.device)[self._index(t)]
        else:
            matrix = self._transition(int(self._index(s)), int(self._index(t)), x.device).T
        upto = matrix.double().cumsum(-1)  # [L, L], or [B, L, L] where examples are at times of their own
        # all rows behind one another, each a whole number higher than the one before: one search for all components
        rows = torch.arange(self.levels, dtype=torch.float64, device=x.device)
        upto = (upto / upto[..., -1:] + rows[:, None]).flatten(-2)
        at = x + rng.uniform(x.shape, torch.float64)
        found = torch.searchsorted(upto, at.flatten(1), right=True).reshape(x.shape)
        return (found - x * self.levels).clamp(0, self.levels - 1)

    def log_x0(self, x_t: Tensor, log_w: Tensor, t: Tensor) -> Tensor:
        columns = self._table("cumulative", x_t.device)[self._index(t)].mT  # Q_t[:, x_t]
        return log_normalized(log_w + self._log_rows(columns, x_t).to(log_w.dtype))

    def cross_entropy(self, x0: Tensor, x_t: Tensor, log_w: Tensor, t: Tensor) -> Tensor:
        return -self.log_x0(x_t, log_w, t).gather(-1, x0[..., None]).squeeze(-1)
