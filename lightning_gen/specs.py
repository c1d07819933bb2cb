"""Objects as primitives, {"class_path", "init_args"}, and back."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

from lightning_gen.errors import UserError, essence
from lightning_gen.refusals import SPEC, explained


def build(spec: dict[str, Any], base: type, **given: Any) -> Any:
    """An object from {"class_path", "init_args"} as primitives, nested ones included; `given` are further arguments.

    A class may go by its bare name where it is an imported one below `base`, or below what its parameter takes.

    Raises:
        UserError: no such class below `base`, arguments it does not take, or what its constructor refuses.
    """
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, SPEC, fail_untyped=False)  # like the command line: research code
    spec = {"class_path": spec["class_path"], "init_args": {**spec.get("init_args", {}), **given}}
    try:
        return parser.instantiate(parser.parse_object({SPEC: spec}))[SPEC]
    except ArgumentError as error:
        key, reason = explained(error)
        if reason is not None and (key != [SPEC] or "." not in spec["class_path"]):  # it names the part, or the class
            raise UserError(reason) from error
        reason = reason or essence(str(error)).removeprefix(f"Problem with given class_path '{spec['class_path']}': ")
        raise UserError(f"cannot build {spec['class_path']}: {reason}") from error
    except ValueError as error:  # what the constructor raised, wrapped by the parser
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def parameters(kind: type) -> list[str]:
    """Names of a class's constructor parameters."""
    return [name for name in inspect.signature(kind).parameters if name not in ("args", "kwargs")]


def resolve(class_path: str) -> Any:
    """The object a dotted path names.

    Raises:
        UserError: if nothing is there.
    """
    module, _, name = class_path.rpartition(".")
    if not module:
        raise UserError(f"cannot import {class_path!r}: give its whole path, PACKAGE.{class_path or 'NAME'}")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot import {class_path}: {error}") from error


def overridden(current: Any, spec: str | dict[str, Any] | None) -> Any:
    """`current` with the fields that `spec` names replaced, or what `spec` names whole: a class path, {"class_path", ...}, or
    a bare name, which is looked for among the imported classes of its kind.

    A field that is an object itself may be overridden in part: {"steps": 20, "solver": {"eta": 1.0}}, or with dotted keys
    as command lines give them, {"solver.eta": 1.0}.

    Raises:
        UserError: where that cannot be built.
    """
    if spec is None:
        return current
    spec = nested({"class_path": spec} if isinstance(spec, str) else spec)
    if "class_path" in spec:
        return build(spec, _replaces(current, spec["class_path"]))
    if current is None:
        raise UserError("there is nothing to override: name a class_path")
    kind = type(current)
    given = {key: getattr(current, key) for key in parameters(kind) if hasattr(current, key)}
    changes = spec.get("init_args", {})
    unknown = changes.keys() - given.keys()
    if unknown:
        raise UserError(f"{kind.__name__} has no {sorted(unknown)[0]!r}, only {', '.join(given)}")
    for key, value in changes.items():
        if not isinstance(value, dict):
            continue
        if isinstance(value.get("class_path"), str):  # its own arguments may stand beside it
            changes[key] = nested(value)
        elif isinstance(given[key], (type(None), bool, int, float, str, list, tuple, dict)):
            raise UserError(
                f"there is no {key} whose {next(iter(value), 'fields')} could be set: name its class, {key}=CLASS"
            )
        else:
            changes[key] = overridden(given[key], value)
    return build({"class_path": _path(kind), "init_args": {**given, **changes}}, kind)


def _replaces(current: Any, class_path: str) -> type:
    """What an object that stands for `current` must be: of its most general abstract class, where it has one."""
    abstract = [kind for kind in type(current).__mro__ if inspect.isabstract(kind)]
    if abstract:
        return abstract[-1]
    return resolve(class_path) if current is None or "." in class_path else type(current)


def nested(spec: dict[str, Any]) -> dict[str, Any]:
    """{"steps": 5}, {"init_args.steps": 5} and {"solver": "DDIM", "solver.eta": 1}, as command lines give them, to
    {"init_args": {"steps": 5}} and {"init_args": {"solver": {"class_path": "DDIM", "eta": 1}}}.
    """
    whole: dict[str, Any] = {}
    for dotted, value in spec.items():
        *path, last = dotted.split(".")
        place = whole
        for part in path:
            inside = place.get(part, {})
            inside = {} if inside is None else inside
            place[part] = dict(inside) if isinstance(inside, dict) else {"class_path": inside}
            place = place[part]
        before = place.get(last)
        if isinstance(before, dict) and isinstance(value, (str, dict)):
            value = {**before, **(value if isinstance(value, dict) else {"class_path": value})}
        place[last] = value
    own = {key: value for key, value in whole.items() if key in ("class_path", "init_args")}
    bare = {key: value for key, value in whole.items() if key not in own}
    return {**own, "init_args": {**own.get("init_args", {}), **bare}}


def describe(thing: Any) -> Any:
    """An object of configured parts as primitives: {"class_path", "init_args"}; anything else as itself."""
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, (list, tuple)):
        return [describe(item) for item in thing]
    if isinstance(thing, dict):
        return {key: describe(item) for key, item in thing.items()}
    names = [name for name in parameters(type(thing)) if hasattr(thing, name)]
    return {
        "class_path": _path(type(thing)),
        "init_args": {name: describe(getattr(thing, name)) for name in names},
    }


def _path(kind: type) -> str:
    """The shortest path that names the class, its package's where that exports it: files may be split and joined."""
    parts = kind.__module__.split(".")
    for package in (".".join(parts[:end]) for end in range(1, len(parts))):
        if sys.modules[package].__dict__.get(kind.__qualname__) is kind:
            return f"{package}.{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"
