"""Objects as primitives, {"class_path", "init_args"}, and back."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from lightning_gen.errors import UserError


def build(spec: dict[str, Any], base: type, **given: Any) -> Any:
    """An object from {"class_path", "init_args"} as primitives, nested ones included; `given` are further arguments."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "object")
    spec = {"class_path": spec["class_path"], "init_args": {**spec.get("init_args", {}), **given}}
    return parser.instantiate_classes(parser.parse_object({"object": spec}))["object"]


def parameters(kind: type) -> list[str]:
    """Names of a class's constructor parameters."""
    return [name for name in inspect.signature(kind).parameters if name not in ("args", "kwargs")]


def resolve(class_path: str) -> Any:
    """The object a dotted path names.

    Raises:
        UserError: if nothing is there.
    """
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot import {class_path}: {error}") from error


def overridden(current: Any, spec: dict[str, Any] | None) -> Any:
    """`current` with the fields that `spec` names replaced, or what `spec` names whole."""
    if spec is None:
        return current
    if "class_path" in spec or current is None:
        return build(spec, object)
    given = {key: getattr(current, key) for key in parameters(type(current)) if hasattr(current, key)}
    unknown = spec.get("init_args", {}).keys() - given.keys()
    if unknown:
        raise UserError(f"{type(current).__name__} has no {sorted(unknown)[0]!r}, only {', '.join(given)}")
    return type(current)(**{**given, **spec.get("init_args", {})})


def describe(thing: Any) -> Any:
    """An object of configured parts as primitives: {"class_path", "init_args"}; anything else as itself."""
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    names = [name for name in parameters(type(thing)) if hasattr(thing, name)]
    kind = type(thing)
    return {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "init_args": {name: describe(getattr(thing, name)) for name in names},
    }
