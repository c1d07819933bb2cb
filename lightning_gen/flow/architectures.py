"""Published flows, and the sequence of steps that they are made of, as chains of bijections."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from lightning_gen.errors import UserError
from lightning_gen.flow.bijections.actnorm import ActNorm
from lightning_gen.flow.bijections.base import Factory
from lightning_gen.flow.bijections.chain import Chain
from lightning_gen.flow.bijections.coupling import Coupling
from lightning_gen.flow.bijections.coupling_masks import ChannelMask, CheckerboardMask, MaskFactory, VectorMask
from lightning_gen.flow.bijections.elementwise import Elementwise
from lightning_gen.flow.bijections.linear import LUConv1x1
from lightning_gen.flow.bijections.shapes import Flatten, Squeeze
from lightning_gen.flow.bijections.split import Split
from lightning_gen.flow.bijections.transforms import Additive, Affine, Transform
from lightning_gen.networks.maps import Network
from lightning_gen.networks.plain_conv import ConvNet


class Steps(Chain):
    """Steps of normalization, mixing and coupling, on images and vectors.

    Args:
        network: of the couplings, called with (in_shape, out_shape, cond_dim).
        transform: of the couplings; `Affine` by default.
        steps: how many.
        mask: of the couplings.
        mixing: makes what mixes or reorders the channels before each coupling; None: the couplings take turns instead
            with the half that they change.
        norm: makes what comes first in each step; None for nothing.

    Raises:
        UserError: fewer than one step.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cond_dim: int | None,
        network: Network,
        transform: Transform | None = None,
        steps: int = 8,
        mask: MaskFactory = ChannelMask,
        mixing: Factory | None = None,
        norm: Factory | None = ActNorm,
    ) -> None:
        if steps < 1:
            raise UserError(f"a flow needs a step or more, not {steps}")

        def step(flip: bool) -> Factory:
            coupling = partial(Coupling, network=network, mask=mask, transform=transform, flip=flip and mixing is None)
            return partial(Chain, layers=[part for part in (norm, mixing, coupling) if part is not None])

        super().__init__(shape, cond_dim, [step(flip=i % 2 == 1) for i in range(steps)])


class NICE(Chain):
    """Additive couplings of alternate components, and a scale for each at the end (Dinh et al. 2015).

    Args:
        network: of the couplings.
        transform: of the couplings; `Additive` by default.
        steps: couplings.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cond_dim: int | None,
        network: Network,
        transform: Transform | None = None,
        steps: int = 4,
    ) -> None:
        couplings = partial(
            Steps, network=network, transform=transform or Additive(), steps=steps, mask=VectorMask, norm=None
        )
        scales = partial(Elementwise, transform=Affine(bound=None), per_channel=False)
        super().__init__(shape, cond_dim, [Flatten, couplings, scales])


class RealNVP(Chain):
    """Dinh et al. (2017): at each level three checkerboard couplings, a squeeze, three channel couplings, a split; at the
    last level four checkerboard couplings.

    Normalization is `ActNorm`, where the paper has a batch norm with running moments: the density of an example then does not
    depend on its batch. Latents that are split off have a learned prior, as Glow's.

    Args:
        network: of the couplings.
        transform: of the couplings; `Affine` by default.
        levels: how many resolutions; all but the last halve the image.
        norm: makes what comes before each coupling; None for nothing.
        prior_network: of the split-off latents' priors; one 3x3 convolution by default.

    Raises:
        UserError: fewer than one level, or an image that cannot be halved so often.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cond_dim: int | None,
        network: Network,
        transform: Transform | None = None,
        levels: int = 2,
        norm: Factory | None = ActNorm,
        prior_network: Network | None = None,
    ) -> None:
        _check("RealNVP", shape, levels)
        steps = partial(Steps, network=network, transform=transform, norm=norm)

        def level(index: int) -> Iterator[Factory]:
            if index == levels - 1:
                yield partial(steps, steps=4, mask=CheckerboardMask)
                yield Elementwise
                return
            yield partial(steps, steps=3, mask=CheckerboardMask)
            yield Squeeze
            yield partial(steps, steps=3)
            yield split_off(level(index + 1), prior_network)

        super().__init__(shape, cond_dim, [*level(0)])


class Glow(Chain):
    """Kingma and Dhariwal (2018): at each level a squeeze, `steps` steps of actnorm, invertible 1x1 convolution and
    coupling, and a split.

    Args:
        network: of the couplings.
        transform: of the couplings; `Affine` by default, with a bounded scale in the place of the paper's sigmoid.
        levels: L, how many resolutions; each halves the image.
        steps: K, at each level.
        mixing: makes what mixes the channels.
        norm: makes what comes first in each step; None for nothing.
        prior_network: of the split-off latents' priors; one 3x3 convolution by default.

    Raises:
        UserError: fewer than one level, or an image that cannot be halved so often.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cond_dim: int | None,
        network: Network,
        transform: Transform | None = None,
        levels: int = 3,
        steps: int = 16,
        mixing: Factory = LUConv1x1,
        norm: Factory | None = ActNorm,
        prior_network: Network | None = None,
    ) -> None:
        _check("Glow", shape, levels)

        def level(index: int) -> Iterator[Factory]:
            yield Squeeze
            yield partial(Steps, network=network, transform=transform, steps=steps, mixing=mixing, norm=norm)
            yield Elementwise if index == levels - 1 else split_off(level(index + 1), prior_network)

        super().__init__(shape, cond_dim, [*level(0)])


def split_off(rest: Iterator[Factory], prior_network: Network | None) -> Factory:
    """Half of the channels, with a prior of their own; the other half goes on through the rest."""
    return partial(Split, rest=partial(Chain, layers=[*rest]), network=prior_network or partial(ConvNet, widths=()))


def _check(name: str, shape: tuple[int, ...], levels: int) -> None:
    if len(shape) != 3:
        raise UserError(f"{name} is for images (C, H, W), not for data of shape {tuple(shape)}: choose Steps or NICE")
    if levels < 1:
        raise UserError(f"{name} needs a level or more, not {levels}")
