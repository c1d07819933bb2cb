"""A plain stack of convolutions at one resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.networks.layers import check_condition, zero
from lightning_gen.networks.maps import Map, check_positive


class ConvNet(Map):
    """Convolutions with an activation between: 3x3 first and last, 1x1 inside, as the couplings of Glow have them.

    The condition adds a linear map of it to the first layer's channels, at every pixel.

    Args:
        widths: channels of the hidden layers; may be empty: one 3x3 convolution.
        activation: makes the module after each hidden layer.

    Raises:
        UserError: for what are no images of one size, or widths that are not positive.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        cond_dim: int | None = None,
        widths: Sequence[int] = (512, 512),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(in_shape, out_shape, cond_dim)
        if widths:
            check_positive("ConvNet", widths=widths)
        if len(in_shape) != 3 or in_shape[1:] != tuple(out_shape[1:]):
            raise UserError(
                f"ConvNet maps an image (C, H, W) to one of its size, not shape {tuple(in_shape)} to {tuple(out_shape)}: "
                "choose PlainMLP or ResidualMLP for vectors"
            )
        channels = [in_shape[0], *widths]
        kernels = [3, *[1] * (len(widths) - 1)][: len(widths)]
        self.hidden = nn.ModuleList(
            nn.Conv2d(*pair, kernel, padding=kernel // 2) for *pair, kernel in zip(channels, widths, kernels)
        )
        self.activation = activation()
        if isinstance(self.activation, nn.ReLU):
            self.activation.inplace = True  # no derivative needs what a convolution put out
        first = widths[0] if widths else out_shape[0]
        self.of_condition = None if cond_dim is None else nn.Linear(cond_dim, first, bias=False)
        if self.of_condition is not None and not widths:
            zero(self.of_condition)  # of the last layer, then: who sets that to zero has a network that starts at zero
        self.output = nn.Conv2d(channels[-1], out_shape[0], 3, padding=1)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        check_condition(cond, wanted=self.of_condition is not None)
        # without norms channels last is the faster layout on a CPU at any size: 1x1 convolutions take half as long
        h = x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x
        for i, layer in enumerate((*self.hidden, self.output)):
            h = layer(h if i == 0 else self.activation(h))
            if i == 0 and cond is not None:
                h = h + self.of_condition(cond)[:, :, None, None]
        return h.to(x.dtype, memory_format=torch.contiguous_format)
