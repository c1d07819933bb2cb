"""Masks of what is known of an instance."""

from __future__ import annotations

from torch import Tensor

from lightning_gen.errors import UserError


def as_mask(mask: Tensor, x: Tensor) -> Tensor:
    """A mask as bool of x's shape [B, ...] and on its device.

    Raises:
        UserError: for floats, or a shape that does not broadcast.
    """
    if mask.is_floating_point() or mask.is_complex():
        raise UserError(f"a mask is bool or integers, true or not 0 where the data are known, not {mask.dtype}")
    try:
        return (mask != 0).to(x.device).expand(x.shape)
    except RuntimeError as error:
        shapes = f"a mask of shape {tuple(mask.shape)} does not broadcast to data of shape {tuple(x.shape)}"
        raise UserError(shapes) from error
