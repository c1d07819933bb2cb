"""lightning-gen VERB ...: the verb is known before anything heavy is imported."""

from __future__ import annotations

import importlib
import os
import sys

_STARTED_BY = os.getppid()

_VERBS = {
    "fit": ("lightning_gen.cli", "fit", "train, or resume, the run directory --run"),
    "validate": ("lightning_gen.cli", "validate", "the validation metrics of a run"),
    "test": ("lightning_gen.cli", "test", "the test metrics of a run"),
    "predict": ("lightning_gen.cli", "predict", "per-example log-likelihoods of the test split, as CSV"),
    "evaluate": ("lightning_gen.evaluation.evaluate", "evaluate", "FD and bits/dim of a run or checkpoint, as JSON"),
    "sample": ("lightning_gen.evaluation.sample", "sample", "a sheet of samples of a run or checkpoint"),
    "compare": (
        "lightning_gen.comparison.compare",
        "compare",
        "rank evaluated runs: means over seeds, differences with intervals",
    ),
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


def _reported(error: Exception, verb: str, args: list[str]) -> bool:
    """Prints the one line of an error that the user can mend; False for a bug."""
    from lightning_gen.diagnosis import diagnose, rank, rank_zero_fails_too

    line = diagnose(error, verb, args)
    if line is None:
        return False
    if rank() == 0:
        print(f"lightning-gen {verb}: {line}", file=sys.stderr)
    elif not rank_zero_fails_too(_STARTED_BY):
        print(f"lightning-gen {verb}, rank {rank()}: {line}", file=sys.stderr)
    return True


def _run(args: list[str]) -> int:
    """Runs one verb; returns the exit status."""
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
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
    # Configs name the user's own classes, which lie where the command is given.
    package = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.getcwd(), *(p for p in sys.path if p not in ("", package, os.getcwd()))]
    module, function, _ = _VERBS[verb]
    from lightning_gen.errors import Interrupted

    try:
        if module == "lightning_gen.cli":
            from lightning_gen.cli import run_verb

            made = run_verb(verb, rest)
        else:
            from lightning_gen.calling import call

            made = call(getattr(importlib.import_module(module), function), f"lightning-gen {verb}", rest)
    except Interrupted as stop:
        print(f"lightning-gen {verb}: {stop}", file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print(f"lightning-gen {verb}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # main's affair
        raise
    except Exception as error:
        if debug or not _reported(error, verb, rest):
            raise
        return 2
    if made is not None:
        print(made)
    return 0


def main(args: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status: 0, 2 for bad input, 130 for an interrupt, 141 where nobody reads."""
    try:
        try:
            return _run(list(sys.argv[1:] if args is None else args))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `lightning-gen ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
