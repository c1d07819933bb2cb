"""T layers of latents in a Markov chain: p(z_T) p(z_{T-1} | z_T) ... p(x | z_1), and the two ways to infer them.

Layers are counted from the data, z_1 nearest. A diffusion is the special case whose inference is not learned: z_{i+1} is the
data under the noise of t = i/T, q is the noising chain, and all p share one denoiser. `BottomUp` then has its discrete
bound in expectation, `TopDown` term by term (tests/vae/test_diffusion_as_hierarchy.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_gen.broadcasting import repeated
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.gaussians import DiagonalGaussian
from lightning_gen.vae.latent_model import LatentModel, Pass
from lightning_gen.vae.observations import Observation


class Layer(NamedTuple):
    """A layer's latents z [N, *latent], what inference drew them from, and what generation says of them."""

    z: Tensor
    q: DiagonalGaussian
    p: DiagonalGaussian


class Generator(nn.Module, ABC):
    """The way down, p(z_T) p(z_{T-1} | z_T) ... p(z_1 | z_2) and what the observation model takes at z_1.

    A new one defines `shapes`, `conditional` and `observe`.

    Attributes:
        shapes: of each layer's latents, z_1's first.
    """

    shapes: list[tuple[int, ...]]

    def top(self, like: Tensor) -> DiagonalGaussian:
        """p(z_T) for as many rows as `like` has; N(0, I)."""
        zeros = like.new_zeros(len(like), *self.shapes[-1])
        return DiagonalGaussian(zeros, zeros)

    @abstractmethod
    def conditional(self, layer: int, above: Tensor, cond: Tensor | None) -> DiagonalGaussian:
        """p(z_layer | z_{layer+1}) of `above` [N, *latent], 1 <= layer < T."""

    @abstractmethod
    def observe(self, z: Tensor, cond: Tensor | None) -> Tensor:
        """What the observation model takes, at z_1 [N, *latent]."""

    def given(self, zs: list[Tensor], cond: Tensor | None) -> list[DiagonalGaussian]:
        """p of every layer, at samples of all layers."""
        below = [self.conditional(i, above, cond) for i, above in enumerate(zs[1:], start=1)]
        return [*below, self.top(zs[-1])]


class Inference(nn.Module, ABC):
    """The way up, or up and down again: q(z_1..z_T | x). A new one defines `begin` and `walk`."""

    @abstractmethod
    def begin(self, x: Tensor, cond: Tensor | None) -> Any:
        """What is computed of x, as the observation model encodes it, whatever the number of samples."""

    @abstractmethod
    def walk(self, generator: Generator, begun: Any, cond: Tensor | None, num: int, noise: list[Tensor]) -> list[Layer]:
        """Layers of `num` samples of each of B examples, num * B rows, all examples of the first sample first.

        Args:
            cond: repeated for each sample.
            noise: standard normal, [num * B, *latent] for each layer.
        """

    @abstractmethod
    def closed_form(self, layer: int, num_layers: int) -> bool:
        """Whether the mean of log q - log p of a layer, given the layers drawn before, is the divergence of q from p."""


class BottomUp(Inference):
    """q(z_1 | x) q(z_2 | z_1) ... q(z_T | z_{T-1}).

    Only the topmost divergence has a closed form: p(z_t | z_{t+1}) is conditioned on what is drawn after z_t. The others
    are sampled.
    """

    @abstractmethod
    def posterior(self, layer: int, below: Tensor, cond: Tensor | None) -> DiagonalGaussian:
        """q(z_layer | z_{layer-1}) of `below`; layer 1 has the encoded data below it."""

    def begin(self, x: Tensor, cond: Tensor | None) -> DiagonalGaussian:
        return self.posterior(1, x, cond)

    def walk(
        self, generator: Generator, begun: DiagonalGaussian, cond: Tensor | None, num: int, noise: list[Tensor]
    ) -> list[Layer]:
        qs = [DiagonalGaussian(*(repeated(p, num) for p in begun.parameters()))]
        zs = [qs[0].sample(noise[0][None])[0]]
        for layer, eps in enumerate(noise[1:], start=2):
            qs.append(self.posterior(layer, zs[-1], cond))
            zs.append(qs[-1].sample(eps[None])[0])
        return [Layer(*each) for each in zip(zs, qs, generator.given(zs, cond))]

    def closed_form(self, layer: int, num_layers: int) -> bool:
        return layer == num_layers


class TopDown(Inference):
    """q(z_T | x) q(z_{T-1} | z_T, x) ... q(z_1 | z_2, x), beside the way down: each divergence has a closed form."""

    @abstractmethod
    def posterior(
        self, layer: int, features: Tensor, above: Tensor | None, p: DiagonalGaussian, cond: Tensor | None
    ) -> DiagonalGaussian:
        """q(z_layer | z_{layer+1}, x), given p(z_layer | z_{layer+1}); at the top there is nothing above."""

    @abstractmethod
    def begin(self, x: Tensor, cond: Tensor | None) -> list[Tensor]:
        """Features of x for each layer, z_1's first, [B, ...]."""

    def walk(
        self, generator: Generator, begun: list[Tensor], cond: Tensor | None, num: int, noise: list[Tensor]
    ) -> list[Layer]:
        layers: list[Layer] = []
        above, p = None, generator.top(noise[-1])
        for layer in range(len(noise), 0, -1):
            if above is not None:
                p = generator.conditional(layer, above, cond)
            q = self.posterior(layer, repeated(begun[layer - 1], num), above, p, cond)
            above = q.sample(noise[layer - 1][None])[0]
            layers.append(Layer(above, q, p))
        return layers[::-1]

    def closed_form(self, layer: int, num_layers: int) -> bool:
        return True


class Hierarchy(LatentModel):
    """A generator and an inference as one model.

    The latents of `encode` and `decode` are the noise of every layer, z_1's first: (z - mean) / std of p(z | above), which is
    standard normal in all layers under the model. Without a source `encode` takes each posterior's mean, given the means
    drawn before it.
    """

    def __init__(self, generator: Generator, inference: Inference, observation: Observation) -> None:
        self.generator, self.inference, self.observation = generator, inference, observation
        self.shapes = generator.shapes
        self.num_layers = len(self.shapes)
        self.latents = sum(prod(shape) for shape in self.shapes)

    def infer(self, x: Tensor, cond: Tensor | None) -> Any:
        return self.inference.begin(self.observation.encode(x), cond)

    def weigh(
        self,
        x: Tensor,
        inferred: Any,
        cond: Tensor | None,
        num: int,
        rng: RandomSource,
        *,
        sampled: bool,
        path_only: bool = False,
    ) -> Pass:
        if path_only:
            raise ValueError("a hierarchy's samples are inputs of further posteriors: there is no path of theirs alone")
        cond = repeated(cond, num)
        noise = [rng.normal((num * len(x), *shape)) for shape in self.shapes]
        layers = self.inference.walk(self.generator, inferred, cond, num, noise)
        kl = tuple(self._divergence(i, layer, sampled).unflatten(0, (num, -1)) for i, layer in enumerate(layers, 1))
        out = self.generator.observe(layers[0].z, cond)
        z = tuple(layer.z.unflatten(0, (num, -1)) for layer in layers)
        return Pass(self.observation.log_prob(out, x).view(num, -1), kl, z, out)

    def _divergence(self, number: int, layer: Layer, sampled: bool) -> Tensor:
        """[N, n] nats."""
        if not sampled and self.inference.closed_form(number, self.num_layers):
            return layer.q.kl_to(layer.p)
        z = layer.z[None]
        return (layer.q.log_prob(z) - layer.p.log_prob(z))[0, :, None]

    def generate(self, num: int, cond: Tensor | None, rng: RandomSource, temperature: float) -> Tensor:
        return self.decode(temperature * rng.normal((num, self.latents)), cond)

    def encode(self, x: Tensor, cond: Tensor | None, rng: RandomSource | None) -> Tensor:
        begun = self.infer(x, cond)
        sizes = [(len(x), *shape) for shape in self.shapes]
        noise = [torch.zeros(size, device=x.device) if rng is None else rng.normal(size) for size in sizes]
        layers = self.inference.walk(self.generator, begun, cond, 1, noise)
        return torch.cat([((z - p.mean) * torch.exp(-p.log_std)).flatten(1) for z, _, p in layers], 1)

    def decode(self, z: Tensor, cond: Tensor | None) -> Tensor:
        noise = z.split([prod(shape) for shape in self.shapes], dim=1)
        noise = [part.unflatten(1, shape) for part, shape in zip(noise, self.shapes)]
        sample = self.generator.top(z).sample(noise[-1][None])[0]
        for layer in range(self.num_layers - 1, 0, -1):
            sample = self.generator.conditional(layer, sample, cond).sample(noise[layer - 1][None])[0]
        return self.generator.observe(sample, cond)
