"""lightning-gen VERB ...: the verb is known before anything heavy is imported."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable

_VERBS = {
    "fit": ("lightning_gen.cli", "fit", "train, or resume, the run directory --run"),
    "validate": ("lightning_gen.cli", "validate", "the validation metrics of a run"),
    "test": ("lightning_gen.cli", "test", "the test metrics of a run"),
    "predict": ("lightning_gen.cli", "predict", "per-example log-likelihoods of the test split, as CSV"),
    "evaluate": ("lightning_gen.evaluation.evaluate", "evaluate", "FD and bits/dim of a run or checkpoint, as JSON"),
    "sample": ("lightning_gen.evaluation.sample", "sample", "a sheet of samples of a run or checkpoint"),
    "benchmark": ("lightning_gen.benchmark.run", "benchmark", "train, evaluate and rank a grid of models"),
    "extractor": ("lightning_gen.evaluation.train_extractor", "extractor", "train a shipped feature extractor again"),
}

_HELP = """usage: lightning-gen VERB [options]

A bench for generative models on PyTorch Lightning.

{verbs}

lightning-gen VERB --help shows a verb's options. The last line a verb prints is the path of what it made.
"""


def _help() -> str:
    return _HELP.format(verbs="\n".join(f"  {verb:<10} {text}" for verb, (_, _, text) in _VERBS.items()))


def _users_error(error: BaseException) -> Exception | None:
    """The error that bad input raised, however deep a parser or an instantiator has wrapped it; None for a bug."""
    from lightning_gen.errors import UserError

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error if isinstance(error, argparse.ArgumentError) else None


def _call(function: Callable[..., object], prog: str, args: list[str]) -> object:
    """Calls a typed function with the arguments of a command line: what has no default is positional."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=prog, exit_on_error=False, description=(function.__doc__ or "").partition("\n")[0])
    # `evaluate RUN`, but `benchmark --config FILE`, like the Trainer's verbs
    parser.add_function_arguments(function, as_positional="config" not in function.__annotations__)
    return function(**parser.instantiate_classes(parser.parse_args(args)).as_dict())


def main(args: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status (2 for bad input)."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0
    if args[0] == "--version":
        from lightning_gen import __version__

        print(__version__)
        return 0
    verb, rest = args[0], args[1:]
    if verb not in _VERBS:
        import difflib

        near = difflib.get_close_matches(verb, _VERBS, n=1)
        hint = f", did you mean {near[0]}?" if near else f": one of {', '.join(_VERBS)}"
        print(f"lightning-gen: unknown verb {verb!r}{hint}", file=sys.stderr)
        return 2
    debug = "--debug" in rest
    rest = [a for a in rest if a != "--debug"]
    from lightning_gen.errors import UserError, essence

    # Configs name the user's own classes, which lie where the command is given.
    package = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.getcwd(), *(p for p in sys.path if p not in ("", package, os.getcwd()))]
    module, function, _ = _VERBS[verb]
    try:
        if module == "lightning_gen.cli":
            from lightning_gen.cli import run_verb

            made = run_verb(verb, rest)
        else:
            made = _call(getattr(importlib.import_module(module), function), f"lightning-gen {verb}", rest)
    except KeyboardInterrupt:
        print(f"lightning-gen {verb}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        cause = _users_error(error)
        if debug or cause is None:
            raise
        text = str(cause) if isinstance(cause, UserError) else essence(str(cause))
        print(f"lightning-gen {verb}: {' '.join(text.split())}", file=sys.stderr)
        return 2
    if made is not None:
        print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
