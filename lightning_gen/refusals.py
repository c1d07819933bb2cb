"""What the parser of a command line refuses, in one line: unknown keys and classes, wrong values, unreadable files.

Nothing is looked up but after a refusal. Of jsonargparse's words as little is read as can be: which key, which value.
What could have been meant comes from the parser that refused, found in the error's traceback; so should the words
change, the line becomes the parser's own and is still true.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import inspect
import itertools
import os
import pkgutil
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_gen.errors import UserError, essence
from lightning_gen.run_directory import find_checkpoint

_CONFIG = (".yaml", ".yml", ".json")

SPEC = "object"
"""The key under which `specs.build` parses an object by itself; what is below it is named without it."""


def links(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was raised from; what a parser met while it tried one type after another counts too.

    A bug that shows itself while another error is handled does not come from that error, and ends the chain.
    """
    link: BaseException | None = error
    while link is not None:
        yield link
        follows = link.__cause__
        if follows is None and not link.__suppress_context__ and origin(link).startswith("jsonargparse"):
            follows = link.__context__
        link = follows


def frames(error: BaseException) -> Iterator[Any]:
    """The frames that an error passed through, outermost first."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def origin(error: BaseException) -> str:
    """The module that raised an error."""
    return next((f.f_globals.get("__name__", "") for f in reversed(list(frames(error)))), "")


def nearest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """', did you mean X?', or nothing where no name is near; a name with its section left out, or cut short, is near."""
    known = sorted({k for k in known if k and not k.startswith("_")})
    match = [k for k in known if k.endswith(f".{name}")]
    match = match or difflib.get_close_matches(name, known, n=1) or [k for k in known if k.startswith(name)]
    return f", did you mean {prefix}{match[0]}?" if match else ""


def refusal(error: BaseException, verb: str, args: list[str]) -> str | None:
    """One line for an error of parsing a command line or a config; None where the error is another."""
    chain = list(links(error))
    if not any(isinstance(link, (argparse.ArgumentError, UnicodeDecodeError, yaml.YAMLError)) for link in chain):
        return None
    broken = next(broken_files(args), None)
    if broken is not None:
        return broken
    if not isinstance(error, argparse.ArgumentError):
        return None  # some other file: not the parser's affair
    return explained(error, verb, args)[1] or essence(str(error))


def explained(error: argparse.ArgumentError, verb: str = "", args: Sequence[str] = ()) -> tuple[list[str], str | None]:
    """(names of the nested keys, what is wrong with the innermost in one line) of a parser's refusal; None where its words
    are not understood. Without a verb it is an object's parser that refused.
    """
    key, complaint = _complaint(str(error))
    parsers = [p for link in links(error) for p in _parsers(link)]
    lines = (
        each(key, complaint, parsers, verb, args)
        for each in (_other_lightning, _missing, _unknown_key, _unknown_class, _wrong_type)
    )
    return key, next((line for line in lines if line is not None), None)


def _complaint(message: str) -> tuple[list[str], str]:
    """(names of the nested keys, what is said of the innermost), in a message that indents what lies deeper."""
    names: list[str] = []
    depth, said = -1, message.splitlines()
    for number, text in enumerate(message.splitlines()):
        indent = len(text) - len(text.lstrip(" -"))
        match = re.search(r'Parser key "([^"]+)":(.*)', text)
        if match is not None and indent > depth:
            names.append(match[1])
            depth, said = indent, [match[2]]
            rest = message.splitlines()[number + 1 :]
            said += itertools.takewhile(lambda t, depth=depth: not t or len(t) - len(t.lstrip(" -")) > depth, rest)
    return names, "\n".join(said)


def _parsers(error: BaseException) -> Iterator[argparse.ArgumentParser]:
    """The parsers that an error passed through, outermost first."""
    for frame in frames(error):
        parser = frame.f_locals.get("self")
        if isinstance(parser, argparse.ArgumentParser):
            yield parser


def _keys(parser: argparse.ArgumentParser, verb: str) -> Iterator[str]:
    """The keys that a parser knows; those of the verb, where it has verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            if verb in action.choices:
                yield from _keys(action.choices[verb], verb)
        elif action.dest != argparse.SUPPRESS:
            yield action.dest


# ---- what is said of a key ----------------------------------------------------------------------------------------


def _place(key: list[str], *below: str) -> str:
    """Nested keys as they are written: those of an object that is built by itself as `specs.nested` reads them."""
    return ".".join([*key[1:], *below]) if key[:1] == [SPEC] else ".init_args.".join([*key, *below])


def _at(key: list[str]) -> str:
    return f"{_place(key)}: " if _place(key) else ""


def _missing(key: list[str], complaint: str, parsers: list, verb: str, args: Sequence[str]) -> str | None:
    match = re.search(r"are required: (.*)", complaint)
    if match is None:
        return None
    needed = [name.removeprefix(f"{verb}.") for name in match[1].split(", ")]
    owner = re.findall(r"class_path '(?:[\w.]+\.)?(\w+)'", complaint[: match.start()])
    if key and owner:
        flag = "" if key[0] == SPEC else "--"
        return f"{owner[-1]} needs {', '.join(needed)}: give {', '.join(flag + _place(key, name) for name in needed)}"
    if not {"model", "data"} & set(needed) or verb not in ("fit", "validate", "test", "predict"):
        return f"{', '.join(needed)} must be given: lightning-gen {verb} --help says how"
    run = next((value for option, value in options(args) if option == "run"), None)
    if verb == "fit":
        return f"there is no {' and no '.join(sorted(needed, reverse=True))}: give --config FILE, or --model and --data"
    if run is None:
        return f"{verb} needs --run DIR"
    try:
        find_checkpoint(run)
    except UserError as error:
        return str(error)
    return f"{run} holds no config.yaml: is it a run directory?"


def _other_lightning(key: list[str], complaint: str, parsers: list, verb: str, args: Sequence[str]) -> str | None:
    """A class of the package `pytorch_lightning`, whose classes are not those of `lightning`."""
    match = re.search(r"\bpytorch_lightning((?:\.\w+)+)", complaint)
    return match and f"{_at(key)}pytorch_lightning is another package: name lightning.pytorch{match[1]}"


def _unknown_key(key: list[str], complaint: str, parsers: list, verb: str, args: Sequence[str]) -> str | None:
    stray = re.search(r"unrecognized arguments: (\S+)", complaint)
    if stray is not None and not stray[1].startswith("-"):
        hint = f", did you mean --config {stray[1]}?" if stray[1].endswith(_CONFIG) else ""
        return f"{stray[1]!r} belongs to no option{hint}"
    match = re.search(r"(?:[Oo]ption|unrecognized arguments:) '?(?:--?)?([\w.-]+)", complaint)
    if match is None or not parsers:
        return None
    scope = _place(key, "")
    # the last parser is the innermost; a parser of verbs hands over to its verb's
    known = [name.removeprefix(f"{verb}.") for name in _keys(parsers[-1], verb)]
    hint = nearest(match[1], known, prefix=scope)
    if not verb:
        names = [name for name in known if name.rpartition(".")[2] != "help"]
        hint = hint or (f", only {', '.join(names)}" if names else ": it has none")
    hint = hint or f": lightning-gen {verb} --help shows them" + (" (or --help of its class)" if scope else "")
    return f"there is no key {scope + match[1]!r}{hint}"


def _unknown_class(key: list[str], complaint: str, parsers: list, verb: str, args: Sequence[str]) -> str | None:
    before = r"(?:import path(?: string| format)?: |Import path (?!does )|class_path '|path but (?!with )|class, but )"
    match = re.search(before + r"([\w.]+)", complaint)
    if match is None and key and "without class_path but with init_args" in complaint:
        nested = re.search(r"NestedArg\(key='([^']+)'", complaint)
        what = _place(key, nested[1]) if nested else f"{_place(key)}.init_args"
        where = "give --config FILE, or " if key[0] in ("model", "data") and len(key) == 1 else ""
        return f"{what} is a setting of a class that nothing names: {where}name it, {_place(key)}.class_path CLASS"
    if match is None or not key:
        return None
    path, at = match[1], _at(key)
    module, _, name = path.rpartition(".")
    if not module:
        kinds = _expected_classes(key[-1], parsers)
        known = _names_below(kinds)
        below = f" below {' and '.join(kind.__name__ for kind in kinds)}, only {', '.join(known)}" if known else ""
        return f"{at}there is no class {path!r}{nearest(path, known) or below}"
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            return f"{at}{module} cannot be imported: {error}"
        parent, _, missing = error.name.rpartition(".")
        where = importlib.import_module(parent).__path__ if parent else None
        modules = (m.name for m in pkgutil.iter_modules(where))
        hint = nearest(missing, modules, prefix=f"{parent}." if parent else "")
        return f"{at}there is no module {error.name!r}{hint}"
    except Exception as error:
        return f"{at}{module} cannot be imported: {type(error).__name__}: {error}"
    if hasattr(found, name):
        return _wrong_class(at, path, getattr(found, name), _expected_classes(key[-1], parsers))
    return f"{at}there is no class {path!r}{nearest(name, dir(found), prefix=f'{module}.')}"


def _wrong_class(at: str, path: str, found: Any, expected: list[type]) -> str | None:
    if inspect.isabstract(found):
        return f"{at}{path} is abstract: name one of {', '.join(_names_below([found])) or 'the classes below it'}"
    if not expected or (inspect.isclass(found) and issubclass(found, tuple(expected))):
        return None
    return f"{at}{path} is not a {' or a '.join(kind.__name__ for kind in expected)}"


def _expected_classes(dest: str, parsers: list[argparse.ArgumentParser]) -> list[type]:
    """The classes that a key takes, subclasses apart; none where no parser tells."""
    known = [action for parser in parsers for action in parser._actions if action.dest.rpartition(".")[2] == dest]
    return list(_classes(getattr(known[-1], "_typehint", None))) if known else []


def _names_below(kinds: list[type]) -> list[str]:
    """Names of classes and of their imported subclasses, but for abstract and private ones, in order."""
    waiting, seen = list(kinds), set[type]()
    while waiting:
        kind = waiting.pop()
        if kind not in seen:
            seen.add(kind)
            waiting += type.__subclasses__(kind)
    return sorted({k.__name__ for k in seen if not inspect.isabstract(k) and not k.__name__.startswith("_")})


def _classes(hint: Any) -> Iterator[type]:
    """The classes in a type: of a union its members, of a callable what it returns."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Callable or str(hint).startswith(("typing.Callable", "collections.abc.Callable")):
        inner = inner[-1:]
    if inner:
        for part in inner:
            yield from _classes(part)
    elif inspect.isclass(hint) and hint.__module__ != "builtins":
        yield hint


def _wrong_type(key: list[str], complaint: str, parsers: list, verb: str, args: Sequence[str]) -> str | None:
    value = re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value: |$)", complaint, re.MULTILINE)
    kinds = re.findall(r"^[ -]*Expected an? (?!path |dot )(.*?)(?:\. Got value: .*)?$", complaint, re.MULTILINE)
    expected = list(dict.fromkeys(word for kind in kinds for word in _words(kind)))
    if not _place(key) or value is None or not expected:
        return None
    what = f"of type {expected[0]}" if len(expected) == 1 else f"one of {', '.join(expected)}"
    return f"{_place(key)} must be {what}, not {value[1]!r}"


def _words(kind: str) -> list[str]:
    """A type as messages show it, in short: a class by its name, a Literal by its values, None not at all."""
    shown = re.fullmatch(r"<class '(?:.*\.)?(\w+)'>", kind)
    literal = re.fullmatch(r"typing\.Literal(\[.*\])", kind)
    words = [shown[1]] if shown else [str(v) for v in ast.literal_eval(literal[1])] if literal else [kind]
    return [word for word in words if word != "NoneType"]


# ---- the files that a command line names --------------------------------------------------------------------------


def options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(option, value) of `--option value` and `--option=value`, in order."""
    for i, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if option.startswith("-") and (equals or i + 1 < len(args)):
            yield option.lstrip("-"), value if equals else args[i + 1]


def configs_first(args: Sequence[str]) -> list[str]:
    """The same arguments with --config before all flags, and a section's file before that section's: flags win over files
    wherever they stand. jsonargparse lets a file override the flags before it."""
    words, chosen = list(args), [[], [], []]
    while words:
        word = words.pop(0)
        option, equals, value = word.partition("=")
        taken = [word]
        if option.startswith("-") and not equals and words and not words[0].startswith("--"):
            value = words.pop(0)
            taken.append(value)
        section = option.startswith("--") and "." not in option and value.endswith(_CONFIG)
        chosen[0 if option in ("-c", "--config") else 1 if section else 2] += taken
    return [word for part in chosen for word in part]


def broken_files(args: list[str]) -> Iterator[str]:
    """What is wrong with the config files that a command line names, and with those that they name in turn."""
    for option, value in options(args):
        if option in ("c", "config") or value.endswith(_CONFIG):
            if option in ("c", "config") and not value.endswith(_CONFIG) and ("\n" in value or ":" in value):
                continue  # a config written out on the command line
            yield from _broken_file(Path(value), whole=option in ("c", "config"))


def _broken_file(path: Path, *, whole: bool) -> Iterator[str]:
    if path.is_dir():
        yield f"{path} is a directory, and a config is a file"
        return
    if not path.exists():
        yield f"there is no config file {path}{_nearest_file(path)}"
        return
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        yield f"{path}, line {mark.line + 1 if mark else 1}, is not valid YAML: {error.problem or error.context}"
        return
    except (yaml.YAMLError, UnicodeDecodeError):
        yield f"{path} is not a config: it is no text"
        return
    except OSError as error:
        yield f"cannot read the config file {path}: {error.strerror}"
        return
    if content is None:
        yield f"the config file {path} is empty"
    elif not isinstance(content, dict):
        yield f"{path} is not a config: it holds no keys"
    elif whole:
        for value in content.values():
            if isinstance(value, str) and value.endswith(_CONFIG):
                yield from _broken_file(Path(os.path.normpath(path.parent / value)), whole=False)


def _nearest_file(path: Path) -> str:
    """', did you mean X?' of the config files beside a path that is none."""
    files = [str(f) for suffix in _CONFIG for f in path.parent.glob(f"*{suffix}")] if path.parent.is_dir() else []
    return nearest(str(path), files)
