"""DenoisingAutoencoder: one LightningModule over the noise, the network and what stands around it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_gen.broadcasting import broadcast
from lightning_gen.conditional import Conditional, check_label_dropout
from lightning_gen.dae.denoisers import Denoiser, Informed, NetworkDenoiser
from lightning_gen.dae.iteration import iterate
from lightning_gen.dae.noises import FixedNoise, Noise
from lightning_gen.dae.preconditioning import Plain, Preconditioning
from lightning_gen.dae.samplers import Langevin, NoiseToManifold, Sampler
from lightning_gen.dae.weightings import Unweighted, Weighting
from lightning_gen.domains import domain_of
from lightning_gen.errors import NonFiniteSamples, UserError
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.masks import as_mask
from lightning_gen.networks.factory import made
from lightning_gen.powers import Attractors, Denoising, Imputation
from lightning_gen.random_source import RandomSource


class DenoisingAutoencoder(Conditional, GenerativeModule, Denoising, Imputation):
    """E[x0 | x0 + sigma eps], learned by least squares (Vincent et al. 2008). It has no likelihood, but knows the score.

    Integers are noised as points of [-1, 1], vectors as they are: all sigmas are in those units.

    Args:
        network: makes the network from (shape, out_channels, cond_dim); called as network(x, logsnr, cond), with
            logsnr = -2 log sigma. `lightning_gen.networks.NoiseBlind` makes one of an autoencoder that is not told.
        noise: the level, or the levels, at which it is trained.
        preconditioning: what stands around the network.
        weighting: what an error weighs at each level.
        sampler: how samples are drawn by default.
        conditioner: makes from num_classes what turns y into the network's `cond`; None for an unconditional model.
        label_dropout: share of training examples whose condition is dropped, so that it can be asked without one.

    Raises:
        UserError: where these do not go together; `check` says why.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        network: Callable[[tuple[int, ...], int, int | None], nn.Module],
        noise: Noise | None = None,
        preconditioning: Preconditioning | None = None,
        weighting: Weighting | None = None,
        sampler: Sampler | None = None,
        conditioner: Callable[[int | None], nn.Module] | None = None,
        label_dropout: float = 0.1,
        optimizer: Callable[[Any], Optimizer] = lambda params: AdamW(params, lr=1e-3, weight_decay=0.0, fused=True),
        lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__(shape, levels, num_classes, optimizer, lr_schedule, compile)
        self.network_factory, self.conditioner_factory = network, conditioner
        self.noise = noise or FixedNoise()
        self.preconditioning, self.weighting = preconditioning or Plain(), weighting or Unweighted()
        self.sampler = sampler or NoiseToManifold()
        self.imputer: Sampler = Langevin(levels=50, steps=20, step_size=0.5)
        self.label_dropout = label_dropout
        self.conditioner: nn.Module | None = None
        self.domain = domain_of(levels)
        self.check()

    def check(self) -> None:
        """Refuses, at construction, what has no meaning."""
        check_label_dropout(self.label_dropout)
        self.weighting.check(self.preconditioning)
        self.sampler.check(self.noise)

    def build(self) -> None:
        self.network = made(self.network_factory, self.shape, self.shape[0], self.build_conditioner())

    def networks(self):
        yield self.network

    @property
    def denoiser(self) -> Denoiser:
        """The network as a `Denoiser`."""
        return NetworkDenoiser(self.network, self.preconditioning, self.conditioner)

    def training_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """`loss`, the weighted squared error of each clean example per dimension, and `mse`, without the weights."""
        draws = self.draws(x)
        x0 = self.domain.encode(x)
        # Levels are stratified over the global batch, of which each rank takes its own part.
        u = (draws.rows + draws.shared.uniform((1,), torch.float64)) / draws.total
        sigma = self.noise.quantile(u)
        noisy = x0 + broadcast(sigma.to(x0.dtype), x0) * draws.own.normal(x0.shape)
        error = (self.reconstruct(noisy, sigma, y) - x0).square().flatten(1).mean(1)
        return {"loss": self.weighting(sigma) * error, "mse": error}

    def reconstruct(self, noisy: Tensor, sigma: Tensor, y: Tensor | None) -> Tensor:
        """What the loss compares with the clean data: the denoiser, some of whose conditions are dropped."""
        if self.conditioner is None:
            return self.denoiser(noisy, sigma)
        drop = self.draws(noisy).own.uniform((len(noisy),)) < self.label_dropout
        return self.denoiser(noisy, sigma, y, drop)

    def to_floats(self, x: Tensor) -> Tensor:
        return self.domain.encode(x)

    def to_data(self, x: Tensor) -> Tensor:
        return self.domain.decode(x)

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: Tensor | float, y: Tensor | None = None) -> Tensor:
        self._check_asked(x, sigma)
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        return self.denoiser(x, sigma, self.given(y, len(x), null=True))

    def score(self, x: Tensor, sigma: Tensor | float, y: Tensor | None = None) -> Tensor:
        """grad log p of the data under noise sigma, by Tweedie's formula: (D(x) - x) / sigma^2, floats [B, *shape]."""
        away = self.denoise(x, sigma, y) - x
        return away / broadcast(torch.as_tensor(sigma, dtype=x.dtype, device=x.device).square(), x)

    @torch.no_grad()
    def attractors(
        self,
        x: Tensor,
        *,
        eta: float = 1.0,
        steps: int = 100,
        y: Tensor | None = None,
        sigma: float | None = None,
        tolerance: float = 1e-4,
        stations: Sequence[int] = (),
    ) -> Attractors:
        sigma = self.noise.lowest if sigma is None else sigma
        self._check_asked(x, sigma)
        how = {"eta": eta, "steps": steps, "tolerance": tolerance, "stations": stations}
        return iterate(self.denoiser, x, sigma, self.given(y, len(x), null=True), **how)

    @torch.no_grad()
    def sample(
        self, num: int, y: Tensor | None = None, *, sampler: Sampler | None = None, rng: RandomSource | None = None
    ) -> Tensor:
        rng = rng if rng is not None else self.default_rng(num)
        y = self.given_or_drawn(y, num, rng)
        return self._drawn(self.denoiser, num, y, sampler, rng)

    @torch.no_grad()
    def impute(
        self,
        x: Tensor,
        mask: Tensor,
        y: Tensor | None = None,
        *,
        imputer: Sampler | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        """`imputer` is a sampler that is shown the known values at every step; by default `Langevin` of 1,000 steps of 0.5.

        A step sees the known values under noise of its level, so the holes must still move at levels far below what ties them
        to what is known: 200 steps of 0.1 end halfway (of unit normals with correlation 0.8, at slope 0.58 and variance 0.7 for
        0.8 and 0.36; the default's are 0.79 and 0.375). `NoiseToManifold` never comes back to what it has settled and does not
        sample the conditional. A model of one noise level conditions on the known values under that noise.
        """
        self.check_data(x)
        mask = as_mask(mask, x)
        rng = rng if rng is not None else self.default_rng(len(x))
        y = self.given(y, len(x), null=True)
        informed = Informed(self.denoiser, self.domain.encode(x), mask)
        return torch.where(mask, x, self._drawn(informed, len(x), y, imputer or self.imputer, rng))

    def _drawn(
        self, denoiser: Denoiser, num: int, y: Tensor | None, sampler: Sampler | None, rng: RandomSource
    ) -> Tensor:
        """Where a sampler ends that follows a denoiser."""
        sampler = sampler or self.sampler
        sampler.check(self.noise)
        trajectory = sampler.trajectory(denoiser, self.noise, (num, *self.shape), y, rng)
        x = deque(trajectory, maxlen=1).pop().x
        if not torch.isfinite(x).all():  # as integers they would be black images
            raise NonFiniteSamples(f"{sampler.description} gave samples that are not finite")
        return self.domain.decode(x)

    def check_level(self, sigma: Tensor) -> None:
        """Raises UserError for sigma, [] or [B], at which the model cannot be asked."""
        self.noise.check(sigma)

    def _check_asked(self, x: Tensor, sigma: Tensor | float) -> None:
        """Raises UserError for x or sigma of which the denoiser makes no sense."""
        if not x.is_floating_point():
            raise UserError(f"denoising is done among floats, as to_floats gives them: got {x.dtype}")
        self.check_level(torch.as_tensor(sigma).double())
