"""The one record in which every family reports a likelihood, and the importance-weighted bound that families share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource, StackedSource

_KINDS = re.compile(r"exact|elbo|iwae-\d+|dequantized|ode|density|density-elbo|density-iwae-\d+|density-ode")


@dataclass(frozen=True)
class Profile:
    """Where along log-SNR a diffusion's bound is lost, draw by draw. Tensors are [B, K], float32.

    Attributes:
        logsnr: log-SNR at which the draw asked the denoiser.
        density: nats lost per unit of log-SNR there: 1/2 |eps - eps_hat|^2 in continuous time.
        weight: 1 / the density with which log-SNR was drawn: the mean of density x weight over draws is the loss in nats.
        width: the density holds from `logsnr` to `logsnr + width`, a step of the T-step bound; 0 in continuous time.
        ends: lowest and highest log-SNR.
    """

    logsnr: Tensor
    density: Tensor
    weight: Tensor
    width: Tensor
    ends: tuple[float, float]

    def __post_init__(self) -> None:
        shapes = {tuple(column.shape) for column in self._columns().values()}
        if len(shapes) > 1 or self.logsnr.ndim != 2:
            raise ValueError(f"the columns of a profile share one shape [B, K], got {sorted(shapes)}")

    def nats(self) -> Tensor:
        """[B], what the bound loses between the ends: minus the diffusion term, but for the rounding of float32."""
        return (self.density.double() * self.weight.double()).mean(1)

    def to(self, device: torch.device | str) -> Profile:
        return Profile(**{name: column.to(device) for name, column in self._columns().items()}, ends=self.ends)

    @classmethod
    def concatenated(cls, parts: Sequence[Profile]) -> Profile:
        """The profile of all examples of the parts, in their order."""
        if len({(part.ends, part.logsnr.shape[1]) for part in parts}) != 1:
            raise ValueError("only profiles with the same ends and the same number of draws can be joined")
        columns = [part._columns() for part in parts]
        return cls(**{name: torch.cat([part[name] for part in columns]) for name in columns[0]}, ends=parts[0].ends)

    def state(self) -> dict[str, Any]:
        """Primitives and tensors, for `Profile(**state)`."""
        return {**self._columns(), "ends": self.ends}

    def _columns(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("logsnr", "density", "weight", "width")}


@dataclass(frozen=True)
class Likelihood:
    """Per-example log-likelihood, in nats.

    Attributes:
        log_prob: [B], nats. An estimate or a bound of log p(x), as `kind` says.
        terms: named contributions, each [B] in nats, that sum to `log_prob`.
        kind: `exact`, `elbo`, `iwae-K`, `dequantized` (log-probability of integers, the last three from below),
            `ode` (probability flow, an estimate), `density`, `density-elbo`, `density-iwae-K`, `density-ode` (real
            vectors; never bits/dim of integers).
        num_dims: dimensions of one example, the divisor of bits/dim.
        profile: of a diffusion, where along log-SNR its diffusion term is lost.

    Raises:
        ValueError: an unknown kind, terms that do not sum to `log_prob`, or a profile of other examples.
    """

    log_prob: Tensor
    kind: str
    num_dims: int
    terms: dict[str, Tensor] = field(default_factory=dict)
    profile: Profile | None = None

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
        if self.profile is not None and len(self.profile.logsnr) != len(self.log_prob):
            raise ValueError(f"a profile of {len(self.profile.logsnr)} examples beside {len(self.log_prob)} log_prob")

    @classmethod
    def from_terms(
        cls, terms: dict[str, Tensor], kind: str, num_dims: int, profile: Profile | None = None
    ) -> Likelihood:
        """The likelihood whose `log_prob` is the sum of `terms`, accumulated in float64."""
        terms = {name: term.double() for name, term in terms.items()}
        return cls(torch.stack(list(terms.values())).sum(0), kind, num_dims, terms, profile)

    def __len__(self) -> int:
        """B."""
        return len(self.log_prob)

    def bits_per_dim(self) -> Tensor:
        """[B], bits per dimension: -log_prob / (num_dims log 2)."""
        return -self.log_prob / (self.num_dims * math.log(2.0))

    def to(self, device: torch.device | str) -> Likelihood:
        terms = {name: term.to(device) for name, term in self.terms.items()}
        profile = None if self.profile is None else self.profile.to(device)
        return Likelihood(self.log_prob.to(device), self.kind, self.num_dims, terms, profile)

    @classmethod
    def concatenated(cls, parts: Sequence[Likelihood]) -> Likelihood:
        """The likelihood of all examples of the parts, in their order.

        Raises:
            ValueError: no parts, or parts that were not measured alike.
        """
        if len({(part.kind, part.num_dims, *part.terms, part.profile is None) for part in parts}) != 1:
            raise ValueError("only likelihoods of one kind, with the same terms, can be joined")
        terms = {name: torch.cat([part.terms[name] for part in parts]) for name in parts[0].terms}
        profiles = [part.profile for part in parts if part.profile is not None]
        profile = Profile.concatenated(profiles) if profiles else None
        log_prob = torch.cat([part.log_prob for part in parts])
        return cls(log_prob, parts[0].kind, parts[0].num_dims, terms, profile)

    def state(self) -> dict[str, Any]:
        """Primitives and tensors, which `torch.load(weights_only=True)` reads; `from_state` undoes it."""
        profile = None if self.profile is None else self.profile.state()
        values = {"log_prob": self.log_prob, "kind": self.kind, "num_dims": self.num_dims, "terms": dict(self.terms)}
        return {**values, "profile": profile}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Likelihood:
        profile = None if state["profile"] is None else Profile(**state["profile"])
        return cls(**{**state, "profile": profile})


def importance_weighted(log_weights: Iterable[Tensor], num_dims: int, *, integers: bool = True) -> Likelihood:
    """IWAE-K, log 1/K sum_k w_k: below log p(x) in expectation, rising with K (Burda et al. 2016, eq. 8).

    Summed in float64, one sample at a time: from an iterator K = 5000 takes the memory of one.

    Args:
        log_weights: log p(x, z_k) - log q(z_k | x) in nats for k = 1..K, each [B]; a [K, B] tensor is such a sequence.
        num_dims: dimensions of x.
        integers: whether p(x | z) is a probability; with a density the kind is `density-iwae-K`.

    Raises:
        ValueError: no samples, or samples that are not [B].
    """
    total, samples = None, 0
    for row in log_weights:
        if row.ndim != 1 or (total is not None and row.shape != total.shape):
            raise ValueError(f"log-weights come one [B] for each sample, not {tuple(row.shape)}")
        total = row.double() if total is None else torch.logaddexp(total, row.double())
        samples += 1
    if total is None:
        raise ValueError("an importance-weighted bound needs at least one sample")
    return Likelihood(total - math.log(samples), f"{'' if integers else 'density-'}iwae-{samples}", num_dims)


LogWeights = Callable[[int, RandomSource], Tensor]
"""(num, rng) -> [num, B], nats: log p(x, z) - log q(z | x) of x [B, ...] at `num` samples of z for each. What is drawn
from `rng` has num * B rows, all examples of the first sample first."""


class ImportanceWeighted:
    """IWAE-K of any family with latent variables, from a function that weighs samples of its posterior.

    Sample k draws from the source's fork ("draw", k), so that the first 5 of 50 samples are those of K = 5 and K = 1 is
    the ELBO of the same draws.

    Args:
        samples: K.
        at_once: samples in one call of the networks; changes speed, memory and rounding only.
    """

    def __init__(self, samples: int, at_once: int = 8) -> None:
        if samples < 1 or at_once < 1:
            raise UserError(
                f"importance weighting needs samples and at_once of at least 1, got {samples} and {at_once}"
            )
        self.samples, self.at_once = samples, at_once

    def __call__(
        self, log_weights: LogWeights, num_dims: int, draws: int, rng: RandomSource, *, integers: bool = True
    ) -> Likelihood:
        """The mean of `draws` bounds, each of K samples of its own; `kind` is `iwae-K`, or `density-iwae-K`."""
        if draws < 1:
            raise UserError(f"the bound needs at least one draw, got {draws}")
        starts = range(0, draws * self.samples, self.samples)
        bounds = [
            importance_weighted(self._rows(log_weights, start, rng), num_dims, integers=integers) for start in starts
        ]
        return replace(bounds[0], log_prob=torch.stack([bound.log_prob for bound in bounds]).mean(0))

    def _rows(self, log_weights: LogWeights, start: int, rng: RandomSource) -> Iterator[Tensor]:
        keys = range(start, start + self.samples)
        for i in range(0, self.samples, self.at_once):
            part = [rng.fork("draw", k) for k in keys[i : i + self.at_once]]
            yield from log_weights(len(part), StackedSource(part))
