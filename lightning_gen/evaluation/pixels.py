"""The one place where a family's integers become 8-bit pixels, for extractors and for pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.errors import UserError


def to_uint8(x: Tensor, levels: int | None) -> Tensor:
    """Pixels 255 x / (levels - 1), rounded half to even and clamped to {0..255}.

    Args:
        x: values in {0..levels-1}, any shape and any real dtype. Floats between the integers are allowed.
        levels: of the data set; None means real vectors, which have no pixels.

    Returns:
        uint8, the shape of `x`. With 256 levels every value is its own pixel.

    Raises:
        UserError: no levels or fewer than two, or values that are not finite (a sampler that diverged must not be
            scored as black and white).
    """
    if levels is None or levels < 2:
        raise UserError(f"only data with at least two levels have pixels; these have levels = {levels}")
    if x.is_floating_point() and not torch.isfinite(x).all():
        raise UserError("values that are NaN or infinite have no pixels")
    # 255 x is exact in float32 up to 65793 levels, so that ties round alike on every device
    return x.float().mul(255.0).div(levels - 1).round().clamp(0, 255).to(torch.uint8)
