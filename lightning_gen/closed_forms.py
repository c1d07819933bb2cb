"""What x = alpha x0 + sigma eps says of x0 and of eps, where the distribution of x0 is known: the optimal denoisers.

Known are a finite set of examples, each as likely as another, or a Gaussian. Families give these their own scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import threshold

ELEMENTS = 1 << 22
"""Of the largest intermediate: 16 MiB in float32, whatever the numbers of examples, of queries and of dimensions."""

QUERIES = 1024
"""At a time."""

_NEGLIGIBLE = 1e-30
"""Weight that is as good as 0: the products of denormal numbers take many times as long."""


class Posterior(NamedTuple):
    """Moments of p(x0, eps | x) over flattened data.

    Attributes:
        x0: E[x0 | x], [B, D].
        eps: E[eps | x], [B, D]; alpha x0 + sigma eps = x.
        variance: of x0 given x, [B], the mean over the dimensions.
    """

    x0: Tensor
    eps: Tensor
    variance: Tensor


class Examples:
    """N examples, kept as they are given (as bytes, say) and turned into floats chunk by chunk.

    Args:
        x: [N, ...].
        encode: turns some of them into floats of the same shape; None where they are floats.
    """

    def __init__(self, x: Tensor, encode: Callable[[Tensor], Tensor] | None = None) -> None:
        self.x, self.encode = x, encode

    @property
    def dim(self) -> int:
        """D, of one example."""
        return self.x[0].numel()

    def chunks(self, num: int) -> Iterator[tuple[slice, Tensor]]:
        """(where, [num, D] floats), from first to last."""
        for first in range(0, len(self.x), num):
            where = slice(first, first + num)
            part = self.x[where] if self.encode is None else self.encode(self.x[where])
            yield where, part.flatten(1)


class TrainingSetPosterior:
    """x0 is one of N examples, uniformly: E[x0 | x] is their mean, weighted by softmax_i(-|x - alpha x_i|^2 / (2 sigma^2)).

    The softmax is taken online (Milakov and Gimelshein 2018): chunks of examples are met one after the other, each
    weighed against those before it in log space, so that memory is bounded by `elements`. Where gradients flow, the
    weights are kept for them: B x N numbers in all.

    Args:
        examples: [N, ...], N at least 1.
        labels: [N] int64; queries with a label see the examples that have it. None for no labels.
        encode: turns examples into floats, chunk by chunk; None where they are floats.
        elements: bounds the intermediates.
    """

    def __init__(
        self,
        examples: Tensor,
        labels: Tensor | None = None,
        encode: Callable[[Tensor], Tensor] | None = None,
        elements: int = ELEMENTS,
    ) -> None:
        self.examples, self.labels, self.elements = Examples(examples, encode), labels, elements
        # in float64: their differences are multiplied by 1 / sigma^2
        self.squares = torch.cat([part.double().square().sum(1) for _, part in self.examples.chunks(self._chunk(1))])

    def __call__(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float, y: Tensor | None = None) -> Posterior:
        """x [B, D], scales [], [B] or [B, 1], y [B] or None -> in x's dtype."""
        alpha, sigma = (torch.as_tensor(s, dtype=x.dtype, device=x.device) for s in (alpha, sigma))
        alpha, sigma = (s.reshape(-1, 1).expand(len(x), 1) for s in (alpha, sigma))
        y = y if self.labels is not None else None
        columns = [None] * -(-len(x) // QUERIES) if y is None else y.split(QUERIES)
        parts = [
            self._some(*some) for some in zip(x.split(QUERIES), alpha.split(QUERIES), sigma.split(QUERIES), columns)
        ]
        x0, variance = (torch.cat(column) for column in zip(*parts)) if parts else (x, x.sum(1))
        return Posterior(x0, (x - alpha * x0) / sigma, variance)

    def _chunk(self, queries: int) -> int:
        return max(1, self.elements // max(self.examples.dim, queries))

    def _some(self, x: Tensor, alpha: Tensor, sigma: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """E[x0 | x] [B, D] and the mean variance [B]."""
        precision, scaled = (alpha / sigma) ** 2, alpha / sigma**2 * x
        nothing = torch.finfo(x.dtype).min  # of no example of the class so far
        evidence, x0, square = x.new_full((len(x), 1), nothing), torch.zeros_like(x), x.new_zeros(len(x), 1)
        for where, examples in self.examples.chunks(self._chunk(len(x))):
            examples, squares = examples.to(x.dtype), self.squares[where].to(x.dtype)
            # -|x - alpha x_i|^2 / (2 sigma^2), less what all i share
            logits = torch.addcmul(scaled @ examples.T, precision, squares, value=-0.5)
            if y is not None:
                logits = logits.masked_fill(y[:, None] != self.labels[where][None], nothing)
            weights = logits.softmax(1)
            # log-sum-exp, of the chunk and then of all so far: exp itself is slow where it comes to nothing
            chunk = logits.amax(1, keepdim=True) - weights.amax(1, keepdim=True).log()
            weights = threshold(weights, _NEGLIGIBLE, 0.0)
            both = torch.logaddexp(evidence, chunk)
            old, new = (evidence - both).exp(), (chunk - both).exp()
            x0 = old * x0 + new * (weights @ examples)
            square = old * square + new * (weights @ squares[:, None])
            evidence = both
        x0 = x0.masked_fill(evidence <= 0.5 * nothing, torch.nan)
        return x0, (square[:, 0] - x0.square().sum(1)).clamp(min=0.0) / x0.shape[1]


class GaussianPosterior:
    """x0 ~ N(mean, Q diag(l) Q^T): the linear shrinkage that is the best linear denoiser of any data with those moments.

    E[x0 | x] = mean + Q diag(alpha l / (alpha^2 l + sigma^2)) Q^T (x - alpha mean), which at alpha = 1 is
    mean + C (C + sigma^2 I)^-1 (x - mean). Computed in float64.

    Args:
        mean: [D].
        covariance: [D, D], positive semi-definite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean = mean.double()
        values, self.vectors = torch.linalg.eigh(covariance.double())
        self.values = values.clamp_min(0.0)  # ascending

    @classmethod
    def fit(cls, examples: Tensor, encode: Callable[[Tensor], Tensor] | None = None) -> GaussianPosterior:
        """With the mean and the covariance of examples [N, ...], summed in float64 chunk by chunk.

        The eigenvectors are the right singular vectors of the centred data, and l their squared singular values over N.
        """
        data = Examples(examples, encode)
        chunk = max(1, ELEMENTS // data.dim)
        mean = sum(part.double().sum(0) for _, part in data.chunks(chunk)) / len(examples)
        centred = (part.double() - mean for _, part in data.chunks(chunk))
        return cls(mean, sum(part.T @ part for part in centred) / len(examples))

    def truncated(self, rank: int) -> GaussianPosterior:
        """Only the `rank` directions of most variance: the best linear denoiser of that rank, V V^T as sigma goes to 0.

        Reduced-rank regression keeps the directions of largest l / sqrt(l + sigma^2), at any sigma those of largest l.
        """
        cut = object.__new__(type(self))
        cut.mean, cut.vectors, cut.values = self.mean, self.vectors, self.values.clone()
        cut.values[: len(cut.values) - rank] = 0.0
        return cut

    def __call__(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Posterior:
        """x [B, D], scales [], [B] or [B, 1] -> float64."""
        alpha, sigma = (torch.as_tensor(s, device=x.device).double().reshape(-1, 1) for s in (alpha, sigma))
        total = alpha**2 * self.values + sigma**2
        whitened = (x.double() - alpha * self.mean) @ self.vectors / total
        x0 = self.mean + (whitened * alpha * self.values) @ self.vectors.T
        variance = (self.values * sigma**2 / total).mean(-1).expand(len(x))
        return Posterior(x0, sigma * whitened @ self.vectors.T, variance)

    def entropy(self) -> Tensor:
        """Differential entropy of the data, nats."""
        return 0.5 * (self.values.log() + 1 + torch.log(torch.tensor(2 * torch.pi))).sum()
