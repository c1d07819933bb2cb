"""Noise that knows no order among levels: a component is drawn anew, uniformly."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.discrete_diffusion.processes.base import Process
from lightning_gen.random_source import RandomSource


class Uniform(Process):
    """Q_t = alpha I + (1 - alpha) / L (Hoogeboom et al. 2021; Austin et al. 2021, appendix A.2.1)."""

    def log_forward(self, log_w: Tensor, t: Tensor) -> Tensor:
        alpha = self.alpha(t)[..., None]
        return torch.logaddexp(log_w + alpha.log().to(log_w), ((1 - alpha) / self.levels).log().to(log_w))

    def log_likelihood(self, x_t: Tensor, s: Tensor, t: Tensor, dtype: torch.dtype) -> Tensor:
        kept = self.alpha(t) / self.alpha(s)
        other = (1 - kept) / self.levels
        here, elsewhere = ((kept + other).log().to(dtype), other.log().to(dtype))
        at = torch.arange(self.levels, device=x_t.device) == x_t[..., None]
        return torch.where(at, here[..., None], elsewhere[..., None])

    def diffuse(self, x: Tensor, t: Tensor, rng: RandomSource, s: Tensor | None = None) -> Tensor:
        # float64: of 1 - alpha = 1e-5 the numbers of float32 make another
        kept = self.alpha(t) if s is None else self.alpha(t) / self.alpha(s)
        touched = rng.uniform(x.shape, torch.float64) < 1 - kept
        return torch.where(touched, rng.integers(self.levels, x.shape), x)

    def kl(self, x0: Tensor, x_t: Tensor, log_w: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """In closed form: but at x_0 and x_t the posterior is one number, so that one sum over the levels is all it takes."""
        levels, dtype = (
            self.levels,
            torch.float64,
        )  # in float32 its rounding, alike at all steps, adds up over the chain
        left = self.alpha(s)
        kept = self.alpha(t) / left
        # Q_t|s is b off its diagonal and a + b on it; one-hot w Q_s is c, and left + c at x_0
        a, b, c = kept.to(dtype), ((1 - kept) / levels).to(dtype), ((1 - left) / levels).to(dtype)
        left, same = left.to(dtype), x0 == x_t
        at_x0 = c + left
        total = b + a * torch.where(same, at_x0, c)
        rest = b * c / total  # the posterior at all other levels, at x_0, and at x_t
        q0 = torch.where(same, (a + b) * at_x0, b * at_x0) / total
        qt = torch.where(same, q0, (a + b) * c / total)

        f0, ft = torch.logaddexp(_at(log_w, x0, x_t).to(dtype) + left.log()[..., None], c.log()[..., None]).unbind(-1)
        # log (w Q_s) over all levels; at s = 0, where it may be -inf, `rest` is 0
        forward = torch.addcmul(
            c.to(log_w).clamp(min=torch.finfo(log_w.dtype).tiny)[..., None], log_w.exp(), left.to(log_w)[..., None]
        )
        others = forward.log().sum(-1, dtype=dtype) - f0 - torch.where(same, 0.0, ft)
        count = levels - 2 + same.to(dtype)
        entropy = torch.special.entr(q0) + count * torch.special.entr(rest)
        entropy = entropy + torch.where(same, 0.0, torch.special.entr(qt))
        log_p = q0 * f0 + rest * others + torch.where(same, 0.0, qt * ft)
        log_p = log_p + b.log() + qt * ((a + b) / b).log() - self._log_total(a, b, ft)
        return (-entropy - log_p).to(log_w.dtype)

    def cross_entropy(self, x0: Tensor, x_t: Tensor, log_w: Tensor, t: Tensor) -> Tensor:
        kept = self.alpha(t)
        a, b = kept.to(log_w.dtype), ((1 - kept) / self.levels).to(log_w.dtype)
        w0, wt = _at(log_w, x0, x_t).unbind(-1)
        return self._log_total(a, b, wt) - w0 - torch.where(x0 == x_t, a + b, b).log()

    @staticmethod
    def _log_total(a: Tensor, b: Tensor, log_p: Tensor) -> Tensor:
        """log sum_k p_k Q[k, x_t] of a distribution with log p at x_t, Q being b off its diagonal and a + b on it."""
        return torch.logaddexp(b.log(), a.log() + log_p)


def _at(log_w: Tensor, *levels: Tensor) -> Tensor:
    """log_w at several levels of each component, [B, *shape, n]."""
    return log_w.gather(-1, torch.stack(levels, -1))
