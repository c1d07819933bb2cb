"""Any network as an extractor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors import weights as files
from lightning_gen.evaluation.extractors.base import Extractor
from lightning_gen.evaluation.extractors.code import described
from lightning_gen.evaluation.pixels import to_uint8
from lightning_gen.precision import full_float32
from lightning_gen.random_source import derive_seed
from lightning_gen.specs import build, resolve


class ModuleFeatures(Extractor):
    """What an `nn.Module` gives, frozen and in evaluation mode, for images.

    It takes 8-bit pixels divided by 255, float32 [B, C, H, W] in [0, 1] with the channels that the data have, and gives
    [B, d], or [B, d, 1, 1]; its own normalisation is part of it. It computes in float32 whatever surrounds it. The digest
    changes with its code too, as `code.described` tells it.

    Args:
        module: dotted path of the class, or of a function that makes one.
        shape: of the data's images, (C, H, W): the number of features depends on it.
        arguments: of the class's constructor.
        weights: path of a state dict (safetensors, or saved by torch); without one the module stays as it was made.
        seed: of its initial weights.

    Raises:
        UserError: a module that cannot be built, that refuses such images, whose weights the file does not hold, or
            whose code is in no file.
    """

    VERSION = "module-1 pixels / 255, float32"
    """Part of the digest: to be raised whenever equal weights would give other features."""

    def __init__(
        self,
        module: str,
        shape: Sequence[int] | None = None,
        arguments: dict[str, Any] | None = None,
        weights: str | None = None,
        seed: int = 0,
    ) -> None:
        if shape is None:
            raise UserError(f"the number of features of {module} depends on the images: give --extractor.shape [C,H,W]")
        with torch.random.fork_rng(devices=[]), full_float32("cpu"):
            torch.manual_seed(derive_seed(seed, "extractor"))
            network = build({"class_path": module, "init_args": arguments or {}}, nn.Module)
        if weights is not None:
            path = files.existing(weights)
            try:
                network.load_state_dict(files.read_tensors(path))
            except RuntimeError as error:
                raise UserError(f"{path} does not hold weights of {module}: {files.one_line(error)}") from error
        self.name = module.rpartition(".")[2]
        self.shape = tuple(shape)
        self._network = network.float().eval().requires_grad_(False)
        self._device = torch.device("cpu")
        code = described(network, resolve(module))
        spec = json.dumps([self.VERSION, module, arguments or {}, code], sort_keys=True, default=str)
        self.digest = files.digest(spec, network.state_dict())
        try:
            self.num_features = self._features(torch.zeros(1, *self.shape, dtype=torch.uint8)).shape[1]
        except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
            raise UserError(f"{module} refuses images of shape {self.shape}: {files.one_line(error)}") from error

    def __call__(self, x: Tensor, levels: int | None) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise UserError(
                f"the extractor {self.name!r} is for shape {self.shape}, the data have {tuple(x.shape[1:])}"
            )
        return self._features(to_uint8(x, levels))

    def to(self, device: torch.device | str) -> Self:
        self._network.to(device)
        self._device = torch.device(device)
        return self

    @torch.no_grad()
    def _features(self, pixels: Tensor) -> Tensor:
        with full_float32(self._device):
            features = self._network(pixels.to(self._device).float() / 255)
        if not isinstance(features, Tensor) or features.ndim < 2 or features[0].numel() != features.shape[1]:
            found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(f"{self.name} gives {found} for {len(pixels)} images, an extractor's network gives [B, d]")
        return features.flatten(1).float()
