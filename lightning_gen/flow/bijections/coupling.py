"""Coupling: half of an example changes by a function whose parameters a network reads off the other half."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from lightning_gen.flow.bijections.base import Bijection, per_example
from lightning_gen.flow.bijections.coupling_masks import ChannelMask, Mask, MaskFactory
from lightning_gen.flow.bijections.transforms import Affine, Transform
from lightning_gen.networks.factory import MAP_WITH_OUTPUT, made
from lightning_gen.networks.layers import own_dtype, zero
from lightning_gen.networks.maps import Network


class HalfTransformed(Bijection):
    """A bijection within which a mask's active half changes, given the other.

    The network is any `Map`; its last layer starts at zero, and so the transform as the identity. In training it runs in the
    precision of its weights, or autocast's, and what it says is taken up in that of the states. Without gradients it runs in
    that of the states, whatever the weights are kept in: on the way back a given half that is a rounding off would else
    be another bfloat16 number.

    Args:
        mask: which half changes.
        transform: how.
        network: from what the mask shows to the transform's parameters.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cond_dim: int | None,
        mask: Mask,
        transform: Transform,
        network: Network,
        out_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(shape, cond_dim, out_shape)
        self.mask, self.transform = mask, transform
        self.network = made(
            network, mask.given_shape, mask.network_shape(transform.features), cond_dim, like=MAP_WITH_OUTPUT
        )
        zero(self.network.output)

    def change(self, given: Tensor, active: Tensor, cond: Tensor | None) -> tuple[Tensor, Tensor]:
        """What becomes of the active half, and the log-determinant [B]."""
        z, log_derivative = self.transform.forward(active, self._params(given, cond))
        return z, per_example(log_derivative)

    def restore(self, given: Tensor, z: Tensor, cond: Tensor | None) -> Tensor:
        """The active half, of what became of it."""
        return self.transform.inverse(z, self._params(given, cond))

    def _params(self, given: Tensor, cond: Tensor | None) -> Tensor:
        return self.mask.parameters_of(self._said(given, cond), self.transform.features)

    def _said(self, given: Tensor, cond: Tensor | None) -> Tensor:
        kept = own_dtype(self.network, given.dtype)
        if kept == given.dtype or torch.is_grad_enabled():
            return self.network(given.to(kept), cond).to(given.dtype)
        exact = {name: p.to(given.dtype) for name, p in self.network.named_parameters()}
        return functional_call(self.network, exact, (given, None if cond is None else cond.to(given.dtype)))


class Coupling(HalfTransformed):
    """z_active = transform(x_active; network(x_given)), z_given = x_given (Dinh et al. 2015, sec. 3.2).

    Additive, affine and spline couplings are couplings with such a transform.

    Args:
        network: of the transform's parameters.
        mask: makes what says which half changes.
        transform: of the active half; `Affine` by default.
        flip: whether the mask's other half is the active one.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cond_dim: int | None,
        network: Network,
        mask: MaskFactory = ChannelMask,
        transform: Transform | None = None,
        flip: bool = False,
    ) -> None:
        super().__init__(shape, cond_dim, mask(tuple(shape), flip), transform or Affine(), network)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        given, active = self.mask.split(x)
        z, log_det = self.change(given, active, cond)
        return self.mask.merge(x, z), log_det

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        given, active = self.mask.split(z)
        return self.mask.merge(z, self.restore(given, active, cond))
