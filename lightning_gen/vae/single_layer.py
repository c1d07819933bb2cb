"""One layer of latents: p(z) p(x | z) with q(z | x) (Kingma and Welling 2014)."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_gen.broadcasting import repeated
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.gaussians import Gaussian, PosteriorForm, asked
from lightning_gen.vae.latent_model import LatentModel, Pass
from lightning_gen.vae.observations import Observation
from lightning_gen.vae.priors import Prior, PriorDistribution


class SingleLayer(LatentModel):
    """An encoder and a decoder.

    Args:
        encoder: from data to the posterior's features [B, F].
        decoder: from latents [B, d] to what the observation model takes.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        posterior: PosteriorForm,
        prior: Prior,
        observation: Observation,
        latents: int,
    ) -> None:
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.posterior, self.observation, self.latents = posterior, observation, latents

    def infer(self, x: Tensor, cond: Tensor | None) -> Gaussian:
        return self.posterior(asked(self.encoder, self.observation.encode(x), cond))

    def weigh(
        self,
        x: Tensor,
        inferred: Gaussian,
        cond: Tensor | None,
        num: int,
        rng: RandomSource,
        *,
        sampled: bool,
        path_only: bool = False,
    ) -> Pass:
        mean = inferred.mean
        z = inferred.sample(rng.normal((num * len(mean), self.latents), mean.dtype).view(num, *mean.shape))
        prior = self._prior()
        kl = None if sampled else prior.kl(inferred)
        if kl is None:
            posterior = inferred.detach() if path_only else inferred
            kl = (posterior.log_prob(z) - prior.log_prob(z))[..., None]
        else:
            kl = kl[None]
        out = asked(self.decoder, z.flatten(0, 1), repeated(cond, num))
        return Pass(self.observation.log_prob(out, x).view(num, -1), (kl,), (z,), out)

    def generate(self, num: int, cond: Tensor | None, rng: RandomSource, temperature: float) -> Tensor:
        return self.decode(self._prior().sample(num, rng, temperature), cond)

    def encode(self, x: Tensor, cond: Tensor | None, rng: RandomSource | None) -> Tensor:
        posterior = self.infer(x, cond)
        if rng is None:
            return posterior.mean
        return posterior.sample(rng.normal(posterior.mean.shape, posterior.mean.dtype)[None])[0]

    def decode(self, z: Tensor, cond: Tensor | None) -> Tensor:
        return asked(self.decoder, z, cond)

    def _prior(self) -> PriorDistribution:
        return self.prior.at(lambda inputs: self.posterior(asked(self.encoder, inputs, None)))
