"""What was measured: which training, which seed of it, which weights."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from lightning_gen import loading
from lightning_gen.evaluation.extractors.weights import digest
from lightning_gen.generative_module import CHECKPOINT_KEY
from lightning_gen.run_directory import flatten

_NO_MATTER = (
    *(f"data.init_args.{key}" for key in ("root", "download", "micro_batch_size", "eval_batch_size")),
    *(f"model.init_args.{key}" for key in ("compile", "eval_draws", "sampler", "bound", "imputer")),
)
"""Keys of a recipe, with all below them, that weights do not depend on; how they are judged is told by other settings."""


def subject(checkpoint: dict[str, Any], run: str | os.PathLike[str]) -> dict[str, Any]:
    """Settings that tell one training from another.

    Runs of one `recipe_digest` and step are seeds of one model: they share model, data and whatever else of the config
    weights depend on (precision, clipping, averages, the weights they started from), but for the seed.
    """
    ours = checkpoint[CHECKPOINT_KEY]
    keys = flatten({**ours["recipe"], "training": ours.get("training")})
    kept = {k: v for k, v in keys.items() if k != "seed" and not f"{k}.".startswith(tuple(f"{n}." for n in _NO_MATTER))}
    return {
        "run": Path(loading.folder_of(run)).resolve().name,
        "step": int(checkpoint["global_step"]),
        "training_seed": ours["recipe"].get("seed", 0),
        "recipe_digest": hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16],
    }


def digest_of_weights(module: nn.Module) -> str:
    """16 hexadecimal digits of every parameter and buffer."""
    return digest("", module.state_dict())
