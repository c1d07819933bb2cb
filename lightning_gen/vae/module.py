"""The LightningModules of the family: what latent-variable models share, and the VAE of one layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_gen.conditional import Conditional
from lightning_gen.errors import UserError
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.masks import as_mask
from lightning_gen.networks.factory import MAP, made
from lightning_gen.networks.maps import Network
from lightning_gen.powers import Imputation, LatentVariables
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.bounds import ElboEstimator, LikelihoodEstimator
from lightning_gen.vae.gaussians import Diagonal, PosteriorForm
from lightning_gen.vae.imputation import Imputer, PseudoGibbs
from lightning_gen.vae.latent_model import LatentModel
from lightning_gen.vae.objectives import ELBO, Objective
from lightning_gen.vae.observations import Observation
from lightning_gen.vae.priors import Prior, StandardNormal
from lightning_gen.vae.samplers import PriorSampler, Sampler
from lightning_gen.vae.single_layer import SingleLayer


class LatentVariableModule(Conditional, GenerativeModule, LatentVariables, Imputation):
    """What VAEs of any depth share. One of them defines `make`.

    Args:
        observation: p(x | z).
        objective: what training minimises.
        sampler: how samples are drawn by default.
        bound: how the likelihood is estimated by default.
        conditioner: makes from num_classes what turns y into the networks' `cond`; None for an unconditional model.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        observation: Observation,
        objective: Objective | None = None,
        sampler: Sampler | None = None,
        bound: LikelihoodEstimator | None = None,
        conditioner: Callable[[int | None], nn.Module] | None = None,
        optimizer: Callable[[Any], Optimizer] = lambda params: AdamW(params, lr=1e-3, weight_decay=0.0, fused=True),
        lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
        compile: bool = False,
        eval_draws: int = 1,
    ) -> None:
        super().__init__(shape, levels, num_classes, optimizer, lr_schedule, compile, eval_draws)
        observation.bind(self.shape, levels)
        self.observation = observation
        self.objective, self.sampler = objective or ELBO(), sampler or PriorSampler()
        self.bound, self.conditioner_factory = bound or ElboEstimator(), conditioner
        self.imputer: Imputer = PseudoGibbs()
        self.conditioner: nn.Module | None = None

    @property
    @abstractmethod
    def model(self) -> LatentModel:
        """The networks as a `LatentModel`."""

    @abstractmethod
    def make(self, cond_dim: int | None) -> None:
        """Makes the networks, given how many features their condition has."""

    @property
    @abstractmethod
    def num_layers(self) -> int:
        """Of latents."""

    @property
    def splits(self) -> bool:
        """Whether each layer's divergence is a sum over dimensions."""
        return True

    def check(self) -> None:
        """Refuses, at construction, what has no meaning."""
        self.objective.check(self.num_layers, self.splits)
        self.bound.check(self.num_layers)

    def build(self) -> None:
        self.make(self.build_conditioner())

    def training_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Nats of each example."""
        parts, passed = self.objective(self.model, x, self.condition(y), self.draws(x).own, self._step())
        if self.training:
            with torch.no_grad():
                self.observation.observe(passed.out.detach(), x)
        return parts

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        estimator: LikelihoodEstimator | None = None,
        draws: int = 1,
        rng: RandomSource | None = None,
    ) -> Likelihood:
        self.check_data(x)
        estimator = estimator or self.bound
        estimator.check(self.num_layers)
        rng = rng if rng is not None else self.default_rng(len(x))
        return estimator(self.model, x, self.condition(self.given(y, len(x))), draws, rng)

    @torch.no_grad()
    def sample(
        self,
        num: int,
        y: Tensor | None = None,
        *,
        sampler: Sampler | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        rng = rng if rng is not None else self.default_rng(num)
        y = self.given_or_drawn(y, num, rng)
        return (sampler or self.sampler)(self.model, num, self.condition(y), rng)

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None = None, *, rng: RandomSource | None = None) -> Tensor:
        self.check_data(x)
        return self.model.encode(x, self.condition(self.given(y, len(x))), rng)

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.observation.mode(self.model.decode(z, self.condition(self.given(y, len(z)))))

    @torch.no_grad()
    def expected(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.observation.mean(self.model.decode(z, self.condition(self.given(y, len(z)))))

    @torch.no_grad()
    def impute(
        self,
        x: Tensor,
        mask: Tensor,
        y: Tensor | None = None,
        *,
        imputer: Imputer | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        self.check_data(x)
        rng = rng if rng is not None else self.default_rng(len(x))
        cond = self.condition(self.given(y, len(x)))
        return (imputer or self.imputer)(self.model, x, as_mask(mask, x), cond, rng)

    def _step(self) -> int | None:
        """Optimizer steps made, in training and in its validation."""
        trainer = self._trainer
        return trainer.global_step if trainer is not None and trainer.state.fn == "fit" else None


class VAE(LatentVariableModule):
    """A variational autoencoder with one layer of latents; conditional with a conditioner, an IWAE by its objective.

    Args:
        encoder: makes the network from data to the posterior's features.
        decoder: makes the network from latents to what the observation model takes.
        latent_dim: d.
        posterior: which Gaussian q(z | x) is.
        prior: p(z).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        encoder: Network,
        decoder: Network,
        observation: Observation,
        latent_dim: int = 50,
        posterior: PosteriorForm | None = None,
        prior: Prior | None = None,
        objective: Objective | None = None,
        sampler: Sampler | None = None,
        bound: LikelihoodEstimator | None = None,
        conditioner: Callable[[int | None], nn.Module] | None = None,
        optimizer: Callable[[Any], Optimizer] = lambda params: AdamW(params, lr=1e-3, weight_decay=0.0, fused=True),
        lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
        compile: bool = False,
        eval_draws: int = 1,
    ) -> None:
        super().__init__(
            shape,
            levels,
            num_classes,
            observation,
            objective,
            sampler,
            bound,
            conditioner,
            optimizer,
            lr_schedule,
            compile,
            eval_draws,
        )
        if latent_dim < 1:
            raise UserError(f"latent_dim must be at least 1, got {latent_dim}")
        self.encoder_factory, self.decoder_factory, self.latent_dim = encoder, decoder, latent_dim
        self.posterior = posterior or Diagonal()
        self.prior = prior or StandardNormal()
        self.prior.bind(latent_dim, self.shape)
        self.check()

    @property
    def num_layers(self) -> int:
        return 1

    @property
    def splits(self) -> bool:
        return self.posterior.splits and isinstance(self.prior, StandardNormal)

    @property
    def latents(self) -> int:
        return self.latent_dim

    def check(self) -> None:
        super().check()
        self.posterior.features(self.latent_dim)  # refuses a covariance that is too large
        if self.prior.needs_encoder and self.conditional:
            raise UserError(
                f"{type(self.prior).__name__} asks the encoder for posteriors without a condition, which a conditional "
                "model has none of: choose the prior GaussianMixture or StandardNormal"
            )

    def make(self, cond_dim: int | None) -> None:
        self.encoder = made(
            self.encoder_factory,
            self.shape,
            (self.posterior.features(self.latent_dim),),
            cond_dim,
            key="encoder",
            like=MAP,
        )
        self.decoder = made(
            self.decoder_factory,
            (self.latent_dim,),
            self.observation.out_shape,
            cond_dim,
            key="decoder",
            like=MAP,
        )

    def networks(self) -> Iterator[nn.Module]:
        yield self.encoder
        yield self.decoder

    @property
    def model(self) -> SingleLayer:
        parts = (self.encoder, self.decoder, self.posterior, self.prior, self.observation)
        return SingleLayer(*parts, self.latent_dim)

    @torch.no_grad()
    def initialize(self, x: Tensor, y: Tensor | None = None) -> None:
        """Starts the decoder at the data's own frequencies (Burda et al. 2016, sec. 5.1), the prior among the data."""
        self.decoder.start_at(self.observation.initial(x))
        self.prior.initialize(self.observation.encode(x))
