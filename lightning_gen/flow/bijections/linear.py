"""Invertible linear maps of the channels: the invertible 1x1 convolution, plain and by its LU decomposition."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from lightning_gen.flow.bijections.base import Bijection, pixels


class ChannelMixing(Bijection):
    """z = W x at every pixel (Kingma and Dhariwal 2018, sec. 3.2), on vectors a linear map.

    Neither direction is left to autocast: in bfloat16 the round trip is off by 2e-2. A new one says what W is.
    """

    @abstractmethod
    def weight(self) -> Tensor:
        """W, [C, C]."""

    @abstractmethod
    def log_abs_det(self) -> Tensor:
        """log |det W|, a scalar, nats."""

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            log_det = self.log_abs_det() * pixels(self.shape)
            return self._mixed(x, self.weight()), log_det.to(x.dtype).expand(len(x))

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            return self._mixed(z, torch.linalg.inv(self.weight().double()))

    @staticmethod
    def _mixed(x: Tensor, weight: Tensor) -> Tensor:
        # not as a convolution, which takes twice as long on a CPU, and which cuDNN rounds to TF32
        weight = weight.to(x.dtype)
        return x @ weight.T if x.ndim == 2 else (weight @ x.flatten(2)).reshape(x.shape)


def rotation(size: int) -> Tensor:
    """A random orthogonal matrix [size, size], of the Haar measure."""
    return nn.init.orthogonal_(torch.empty(size, size, dtype=torch.float32))


class InvertibleConv1x1(ChannelMixing):
    """W is free; it starts as a random rotation. log |det W| takes O(C^3)."""

    def __init__(self, shape: tuple[int, ...], cond_dim: int | None = None) -> None:
        super().__init__(shape, cond_dim)
        self.matrix = nn.Parameter(rotation(shape[0]).to(torch.get_default_dtype()))

    def weight(self) -> Tensor:
        return _exact(self.matrix)

    def log_abs_det(self) -> Tensor:
        return torch.linalg.slogdet(self.weight()).logabsdet


class LUConv1x1(ChannelMixing):
    """W = P L (U + diag(s)): P and the signs of s stay as they start, so W never becomes singular; log |det W| = sum log |s|.

    It starts as a random rotation (Kingma and Dhariwal 2018, eqs. 10 and 11).
    """

    def __init__(self, shape: tuple[int, ...], cond_dim: int | None = None) -> None:
        super().__init__(shape, cond_dim)
        # decomposed on the CPU: under a meta device there is nothing to decompose
        with torch.device("cpu"):
            permutation, lower, upper = torch.linalg.lu(rotation(shape[0]).double())
        scale = upper.diagonal()
        like = nn.Parameter(torch.empty(shape[0]))
        self.register_buffer("permutation", permutation.to(like))
        self.register_buffer("sign", scale.sign().to(like))
        self.lower = nn.Parameter(lower.tril(-1).to(like))
        self.upper = nn.Parameter(upper.triu(1).to(like))
        self.log_scale = nn.Parameter(scale.abs().log().to(like))

    def weight(self) -> Tensor:
        lower, upper, log_scale = (_exact(p) for p in (self.lower, self.upper, self.log_scale))
        lower = lower.tril(-1) + torch.eye(self.shape[0], dtype=lower.dtype, device=lower.device)
        upper = upper.triu(1) + torch.diag(self.sign.to(upper) * log_scale.exp())
        return self.permutation.to(lower) @ (lower @ upper)

    def log_abs_det(self) -> Tensor:
        return _exact(self.log_scale).sum()


def _exact(value: Tensor) -> Tensor:
    """In float32 at least."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
