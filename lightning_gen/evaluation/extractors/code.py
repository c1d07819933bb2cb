"""What tells the code of one network from that of another: features that are kept are of one version of it."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_gen.errors import UserError


def described(network: nn.Module, *makers: Any) -> str:
    """The classes of the network and of all its submodules, with those they inherit from, and what their code is.

    Code of an installed distribution goes by its version, without what tells builds apart ("+cu128"). Any other goes by
    its whole file: `forward` may call a function that stands beside it. Own files that such a file imports are not
    followed, except where the network has submodules of their classes. Graphs (TorchScript, torch.fx) go by their own
    code.

    Args:
        makers: further classes and functions whose code counts, such as the function that made the network.

    Raises:
        UserError: a class whose code is in no file.
    """
    parts = list(network.named_modules())
    bases = {base for _, part in parts for base in type(part).__mro__ if base is not object}
    kinds = torch.jit.ScriptModule | torch.fx.GraphModule
    graphs = [getattr(part, "code", "") for _, part in parts if isinstance(part, kinds)]  # a scripted list has none
    names = [f"{name}: {type(part).__qualname__}" for name, part in parts]
    return json.dumps([names, graphs, sorted({_origin(thing) for thing in [*bases, *makers]})])


def version_of(package: str) -> str | None:
    """ "torchvision 0.29.2" of an importable package; None where no distribution is installed under that name."""
    found = _distributions().get(package, ())
    return " ".join(f"{name} {metadata.version(name).partition('+')[0]}" for name in sorted(set(found))) or None


def _origin(thing: Any) -> str:
    """The version of the distribution that a class or a function is from, or the hash of its file.

    Torch has no version here: its layers mean the same in all, to rounding, and numbers of two versions may stand in one
    table, which says so. What is kept of features is kept by torch's version.
    """
    module = sys.modules.get(thing.__module__)
    file = getattr(module, "__file__", None)
    package = thing.__module__.partition(".")[0]
    if package in sys.stdlib_module_names or package in ("builtins", "torch"):
        return package
    # an editable install has a version too, which stays as its files change
    installed = file and {"site-packages", "dist-packages"} & set(Path(file).parts)
    version = version_of(package) if installed else None
    return version or hashlib.sha256(_source(thing, file)).hexdigest()


def _source(thing: Any, file: str | None) -> bytes:
    try:
        return Path(file).read_bytes() if file else inspect.getsource(thing).encode()
    except (OSError, TypeError) as error:
        raise UserError(
            f"the code of {thing.__module__}.{thing.__qualname__} is in no file, and features that were kept of another "
            "version could not be told from its own: write it to a file for --extractor"
        ) from error


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())
