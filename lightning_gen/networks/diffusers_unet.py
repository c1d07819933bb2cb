"""Hugging Face's `UNet2DModel`, called as the networks here are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.networks.layers import check_condition, zero

NATS = (-20.0, 20.0)
"""The log-SNRs that stand for the timesteps 1000 and 0 on which such networks are trained. Others go on in line."""


class DiffusersUNet(nn.Module):
    """A `UNet2DModel` (diffusers), its timestep made of log-SNR, its class embedding of the condition.

    The timestep is 25 (20 - logsnr), in float32 up to its sines, so that a thousand noise levels stay a thousand also
    under autocast. The last convolution is set to zero: so is the output until it is trained. The defaults are the
    35.7 M network of DDPM's CIFAR-10 results, with attention heads of 8 channels.

    Args:
        shape: of the data, (C, H, W); H and W must be multiples of 2^(levels - 1), which odd sizes are not.
        out_channels: of the output [B, out_channels, H, W].
        cond_dim: features of the condition; None for a network without one.
        block_out_channels: one a level, finest first.
        down_block_types: diffusers' names of the levels' blocks, finest first.
        up_block_types: the same on the way up, coarsest first.
        layers_per_block: residual blocks a level on the way down; one more on the way up.
        attention_head_dim: channels of each attention head; None for one head.
        norm_num_groups: of the GroupNorms.
        dropout: probability, inside every block.
        resnet_time_scale_shift: "default" adds the embedding, "scale_shift" modulates norms by it.
        options: any further argument of `UNet2DModel`.

    Raises:
        UserError: if diffusers is missing or refuses the arguments, for data that are not images, for sizes that do not
            halve that often.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        cond_dim: int | None = None,
        block_out_channels: Sequence[int] = (128, 256, 256, 256),
        down_block_types: Sequence[str] = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types: Sequence[str] = ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block: int = 2,
        attention_head_dim: int | None = 8,
        norm_num_groups: int = 32,
        dropout: float = 0.0,
        resnet_time_scale_shift: str = "default",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        try:
            from diffusers import UNet2DModel
        except ImportError as error:
            raise UserError("DiffusersUNet needs diffusers: pip install 'lightning_gen[diffusers]'") from error
        if len(shape) != 3:
            raise UserError(f"DiffusersUNet takes images (C, H, W), the data have shape {tuple(shape)}")
        factor = 2 ** (len(block_out_channels) - 1)
        if shape[1] % factor or shape[2] % factor:
            raise UserError(
                f"UNet2DModel of {len(block_out_channels)} levels takes images of multiples of {factor} pixels, these "
                f"have {shape[1]}x{shape[2]}: give fewer block_out_channels"
            )
        own = dict(
            sample_size=tuple(shape[1:]),
            in_channels=shape[0],
            out_channels=out_channels,
            time_embedding_type="positional",  # the others take the noise's scale or whole numbers
            class_embed_type=None if cond_dim is None else "identity",
            num_class_embeds=None,
            block_out_channels=tuple(block_out_channels),
            down_block_types=tuple(down_block_types),
            up_block_types=tuple(up_block_types),
            layers_per_block=layers_per_block,
            attention_head_dim=attention_head_dim,
            norm_num_groups=norm_num_groups,
            dropout=dropout,
            resnet_time_scale_shift=resnet_time_scale_shift,
        )
        if clash := sorted(own.keys() & (options or {}).keys()):
            raise UserError(f"DiffusersUNet sets {clash[0]} itself: take it out of options")
        try:
            self.unet = UNet2DModel(**own, **(options or {}))
        except (TypeError, ValueError) as error:
            raise UserError(f"UNet2DModel does not take these arguments: {error}") from error
        zero(self.unet.conv_out)
        width = self.unet.time_embedding.linear_2.out_features
        self.cond = None if cond_dim is None else nn.Linear(cond_dim, width)

    def forward(self, x: Tensor, logsnr: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], logsnr [B] in nats, cond [B, cond_dim] or None -> [B, out_channels, H, W] in x's dtype."""
        check_condition(cond, wanted=self.cond is not None)
        low, high = NATS
        timestep = 1000.0 * (high - logsnr.float()) / (high - low)
        labels = None if self.cond is None else self.cond(cond)
        return self.unet(x, timestep, labels, return_dict=False)[0].to(x.dtype)
