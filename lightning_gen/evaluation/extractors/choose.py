"""Extractors by name, as flags and configs write them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors.base import Extractor, RawFeatures
from lightning_gen.evaluation.extractors.classifier import ShippedClassifier, shipped
from lightning_gen.evaluation.extractors.module import ModuleFeatures
from lightning_gen.evaluation.extractors.torch_fidelity_networks import INCEPTION, Inception, TorchFidelity, registered
from lightning_gen.refusals import nearest
from lightning_gen.specs import nested, parameters, resolve

Spec = dict[str, Any]
"""{"class_path", "init_args"}, as `specs.build` takes it."""


def choose(
    spec: str | Mapping[str, Any] | None, default: Spec | None = None, shape: Sequence[int] | None = None
) -> Spec | None:
    """What to build for `--extractor NAME`, `--extractor.layer 64` and the like.

    A name is that of a shipped classifier ("digits", "mnist"), "inception", one that torch-fidelity registers, "raw", or the
    dotted path of an `Extractor`, or of any `nn.Module` or function that makes one. The last two are wrapped in
    `ModuleFeatures`, whose own arguments (weights, seed, shape) are told from theirs by name.

    Args:
        spec: a name; {"class_path": a name, ...} with arguments in "init_args" or beside it; arguments alone, which override
            those of `default`, and where the data have no default are Inception's; None for the default.
        default: the data set's own.
        shape: of the data, for networks whose number of features depends on it.

    Raises:
        UserError: no such extractor; says what may have been meant. Or arguments alone that the default does not take.
    """
    if default is not None:
        default = choose(default, None, shape)
    if spec is None:
        return default
    if isinstance(spec, str):
        return _named(spec, {}, shape)
    given = nested(dict(spec))
    if "class_path" in given:
        return _named(given["class_path"], given["init_args"], shape)
    if default is None:
        return _named("inception", given["init_args"], shape)
    _require_taken(default, given["init_args"])
    return {**default, "init_args": {**default["init_args"], **given["init_args"]}}


def _require_taken(default: Spec, given: Mapping[str, Any]) -> None:
    """Raises UserError for arguments that the data set's own extractor has no parameter for."""
    kind = resolve(default["class_path"])
    taken = inspect.signature(kind).parameters
    unknown = sorted(given.keys() - taken.keys())
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        own = taken["name"].default if "name" in taken else kind.__name__
        raise UserError(
            f"the extractor {default['init_args'].get('name', own)!r} takes no {unknown[0]!r}: name the extractor "
            f"{'it is' if len(unknown) == 1 else 'they are'} for, such as --extractor inception"
        )


def _named(name: str, arguments: Mapping[str, Any], shape: Sequence[int] | None) -> Spec:
    if "." in name:
        return _at(name, arguments, shape)
    known = {"inception": (Inception, {}), INCEPTION: (Inception, {}), "raw": (RawFeatures, {})}
    known |= {each: (ShippedClassifier, {"name": each}) for each in shipped()}
    if name not in known:  # the library is not imported for the names above
        known = {each: (TorchFidelity, {"name": each}) for each in registered()} | known
    if name not in known:
        hint = (
            nearest(name, known) or f": --extractor is the dotted path of a class, or one of {', '.join(sorted(known))}"
        )
        raise UserError(f"there is no extractor {name!r}{hint}")
    kind, own = known[name]
    return _spec(kind, f"{__package__}.{kind.__name__}", {**own, **arguments}, shape)


def _at(path: str, arguments: Mapping[str, Any], shape: Sequence[int] | None) -> Spec:
    found = resolve(path)
    if inspect.isclass(found) and issubclass(found, Extractor):
        return _spec(found, path, arguments, shape)
    if not (inspect.isfunction(found) or (inspect.isclass(found) and issubclass(found, nn.Module))):
        raise UserError(f"{path} is neither an Extractor nor an nn.Module: --extractor takes the path of such a class")
    ours = {key: value for key, value in arguments.items() if key in ("weights", "seed", "shape")}
    its = {key: value for key, value in arguments.items() if key not in ours}
    given = {"module": path, "arguments": its, **ours}
    return _spec(ModuleFeatures, f"{__package__}.{ModuleFeatures.__name__}", given, shape)


def _spec(kind: type, path: str, arguments: Mapping[str, Any], shape: Sequence[int] | None) -> Spec:
    """With the data's shape, where an extractor asks for one."""
    asked = {"shape": list(shape)} if shape is not None and "shape" in parameters(kind) else {}
    return {"class_path": path, "init_args": {**asked, **arguments}}
