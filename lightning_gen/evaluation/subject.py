"""What was measured: which training, which seed of it, which weights."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_gen import loading
from lightning_gen.generative_module import CHECKPOINT_KEY


def subject(checkpoint: dict[str, Any], run: str | os.PathLike[str]) -> dict[str, Any]:
    """Settings that tell one training from another; runs of one `recipe_digest` and step are seeds of one model."""
    recipe = checkpoint[CHECKPOINT_KEY]["recipe"]
    without_seed = {key: value for key, value in recipe.items() if key != "seed"}
    text = json.dumps(without_seed, sort_keys=True, default=str)
    return {
        "run": Path(loading.folder_of(run)).resolve().name,
        "step": int(checkpoint["global_step"]),
        "training_seed": recipe.get("seed", 0),
        "recipe_digest": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def digest_of_weights(module: nn.Module) -> str:
    """16 hexadecimal digits of every parameter and buffer."""
    content = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return content.hexdigest()[:16]
