"""The one record in which every family reports a likelihood."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

_KINDS = re.compile(r"exact|elbo|iwae-\d+|dequantized|ode|density|density-elbo")


@dataclass(frozen=True)
class Likelihood:
    """Per-example log-likelihood, in nats.

    Attributes:
        log_prob: [B], nats. An estimate or a bound of log p(x), as `kind` says.
        terms: named contributions, each [B] in nats, that sum to `log_prob`.
        kind: `exact`, `elbo`, `iwae-K`, `dequantized` (log-probability of integers, the last three from below),
            `ode` (probability flow, an estimate), `density`, `density-elbo` (real vectors; never bits/dim of integers).
        num_dims: dimensions of one example, the divisor of bits/dim.

    Raises:
        ValueError: an unknown kind, or terms that do not sum to `log_prob`.
    """

    log_prob: Tensor
    kind: str
    num_dims: int
    terms: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _KINDS.fullmatch(self.kind):
            raise ValueError(f"unknown likelihood kind {self.kind!r}")
        for name, term in self.terms.items():
            if term.shape != self.log_prob.shape:
                raise ValueError(f"term {name!r} has shape {tuple(term.shape)}, log_prob {tuple(self.log_prob.shape)}")
        if self.terms:
            terms, log_prob = torch.stack([term.double() for term in self.terms.values()]), self.log_prob.double()
            # to the rounding of float32 sums of terms that may cancel; a diverged model's nan and inf may stay
            rounding = 1e-5 * terms.abs().sum(0)
            same = ((terms.sum(0) - log_prob).abs() <= rounding) | terms.sum(0).isclose(log_prob, 0, 0, equal_nan=True)
            if not same.all():
                raise ValueError(f"the terms {', '.join(self.terms)} do not sum to log_prob")

    @classmethod
    def from_terms(cls, terms: dict[str, Tensor], kind: str, num_dims: int) -> Likelihood:
        """The likelihood whose `log_prob` is the sum of `terms`, accumulated in float64."""
        terms = {name: term.double() for name, term in terms.items()}
        return cls(torch.stack(list(terms.values())).sum(0), kind, num_dims, terms)

    def bits_per_dim(self) -> Tensor:
        """[B], bits per dimension: -log_prob / (num_dims log 2)."""
        return -self.log_prob / (self.num_dims * math.log(2.0))
