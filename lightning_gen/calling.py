"""A typed function called with the arguments of a command line."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import json
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import docstring_parser
import yaml
from jsonargparse import ArgumentParser

from lightning_gen.errors import UserError


def call(function: Callable[..., Any], prog: str, args: Sequence[str]) -> Any:
    """Calls a function whose flags are its parameters; what has no default is positional."""
    return parsed(function, prog, args)()


def parsed(function: Callable[..., Any], prog: str, args: Sequence[str]) -> Callable[[], Any]:
    """The function with the arguments of a command line, still to be called.

    A list takes all the words there are (`compare RUN RUN`) and a switch none (`--force`), where jsonargparse by itself
    would have them written as [RUN,RUN] and true. Arbitrary arguments (`*overrides`) are what is another command's.
    """
    about = docstring_parser.parse(function.__doc__ or "")
    parser = ArgumentParser(prog=prog, exit_on_error=False, allow_abbrev=False, description=about.short_description)
    said = {parameter.arg_name: parameter.description for parameter in about.params}
    given = inspect.signature(function, eval_str=True).parameters.values()
    words = [p.name for p in given if p.annotation == list[str] and p.default is p.empty]
    switches = [p.name for p in given if p.annotation is bool and p.default is False]
    rest = [p.name for p in given if p.kind is p.VAR_POSITIONAL]
    for name in words:
        parser.add_argument(name, nargs="+", type=str, metavar=name.removesuffix("s").upper(), help=said.get(name))
    # `evaluate RUN`, but `benchmark --config FILE`, like the Trainer's verbs
    positional = "config" not in function.__annotations__
    parser.add_function_arguments(function, as_positional=positional, skip={*words, *switches, *rest})
    for name in switches:
        parser.add_argument(f"--{name}", action="store_true", help=said.get(name))
    specs = [name for p in given for name in _specs(p.name, p.annotation)]
    args = words_first(args, switches) if words else args
    others: list[str] = []
    if rest:
        args, others = passed_on(args, [p.name for p in given if p.name not in rest], switches)
    values = parser.instantiate(parser.parse_args(gathered(args, specs))).as_dict()
    before = [values.pop(p.name) for p in given if p.kind is p.POSITIONAL_OR_KEYWORD] if rest else []
    return functools.partial(function, *before, *others, **values)


def words_first(args: Sequence[str], switches: Sequence[str]) -> list[str]:
    """`a --name x b` as `a b --name x`: a parser takes the words that it was promised where it meets the first.

    Args:
        switches: options that take no value; all others take one.
    """
    words: list[str] = []
    options: list[str] = []
    rest = iter(args)
    for arg in rest:
        if not arg.startswith("-"):
            words.append(arg)
            continue
        options.append(arg)
        if arg.startswith("--") and "=" not in arg and arg[2:] not in (*switches, "help"):
            options += [value for value in (next(rest, None),) if value is not None]
    return [*words, *options]


def passed_on(args: Sequence[str], known: Sequence[str], switches: Sequence[str]) -> tuple[list[str], list[str]]:
    """(what is this command's own, what is another's): all after `--`, and each option that is not known, with its value.

    Args:
        known: options of this command, which may be written with - for _.
        switches: those that take no value.

    Raises:
        UserError: an option is nearly one of this command's; after `--` it is the other's for certain.
    """
    own: list[str] = []
    others: list[str] = []
    words = list(args)
    while words:
        word = words.pop(0)
        if word == "--":
            return own, others + words
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            own.append(word)
            continue
        plain = name.replace("-", "_")
        if plain in (*known, "help"):
            own.append(f"--{plain}{equals}{value}")
            if plain not in (*switches, "help") and not equals:
                own += words[:1]
                del words[:1]
            continue
        near = difflib.get_close_matches(plain, known, n=1, cutoff=0.75) or [k for k in known if k.startswith(plain)]
        if near and "." not in name:
            raise UserError(
                f"there is no option --{name}, did you mean --{near[0]}? What is passed on may stand after --"
            )
        others.append(word)
        if words and not equals and not words[0].startswith("--"):
            others.append(words.pop(0))
    return own, others


def gathered(args: Sequence[str], names: Sequence[str]) -> list[str]:
    """All that is said of each option in `names`, as one dictionary: jsonargparse forgets what came before.

    `--extractor NAME --extractor.layer 64` becomes `--extractor={"class_path": NAME, "layer": 64}`; an option that is
    given whole and alone stays as it is. `specs.nested` reads dotted keys.
    """
    others: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    words = list(args)
    while words:
        word = words.pop(0)
        option, equals, value = word.partition("=")
        option = option.removeprefix("--") if option.startswith("--") else ""
        name = next((name for name in names if option == name or option.startswith(f"{name}.")), None)
        if name is not None and not equals:  # an option where its value should be is the parser's to refuse
            value = words.pop(0) if words and not words[0].startswith("--") else None
        if name is None or value is None:
            others.append(word)
            continue
        found.setdefault(name, {})[option[len(name) + 1 :]] = _read(value) if option != name else value
    for name, said in found.items():
        whole = said.pop("", None)
        if said and whole is not None:
            read = _read(whole)
            said = {**(read if isinstance(read, dict) else {"class_path": whole}), **said}
        others.append(f"--{name}={json.dumps(said, default=str) if said else whole}")
    return others


def _read(text: str) -> Any:
    """A value as YAML has it; text that is none is itself."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _specs(name: str, annotation: Any) -> Iterator[str]:
    """Options below `name` that take dictionaries, in data classes too."""
    if dataclasses.is_dataclass(annotation):
        for key, hint in typing.get_type_hints(annotation).items():
            yield from _specs(f"{name}.{key}", hint)
    elif any(typing.get_origin(kind) is dict for kind in (annotation, *typing.get_args(annotation))):
        yield name
