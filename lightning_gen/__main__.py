"""lightning-gen VERB ...: the verb is known before anything heavy is imported."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import nullcontext
from typing import Any

_STARTED_BY = os.getppid()

_VERBS = {
    "fit": ("lightning_gen.cli", "fit", "train, or resume, the run directory --run"),
    "validate": ("lightning_gen.cli", "validate", "the validation metrics of a run"),
    "test": ("lightning_gen.cli", "test", "the test metrics of a run"),
    "predict": ("lightning_gen.cli", "predict", "per-example log-likelihoods of the test split, as CSV"),
    "evaluate": ("lightning_gen.evaluation.evaluate", "evaluate", "FD and bits/dim of a run or checkpoint, as JSON"),
    "sample": ("lightning_gen.evaluation.sample", "sample", "a sheet of samples of a run or checkpoint"),
    "impute": ("lightning_gen.evaluation.impute", "impute", "holes of real examples filled by a model"),
    "attractors": (
        "lightning_gen.evaluation.attractors",
        "attractors",
        "where a denoising autoencoder leads images that it is shown again and again",
    ),
    "latents": ("lightning_gen.evaluation.latents", "latents", "pictures of a model's latents, and how they are used"),
    "density": (
        "lightning_gen.evaluation.density",
        "density",
        "a model's density in the plane beside that of its data",
    ),
    "compare": (
        "lightning_gen.comparison.compare",
        "compare",
        "rank evaluated runs: means over seeds, differences with intervals",
    ),
    "benchmark": ("lightning_gen.benchmark.run", "benchmark", "train, evaluate and rank a grid of models"),
    "sync": ("lightning_gen.wandb_sync", "sync", "send W&B what runs kept offline"),
    "launch": (
        "lightning_gen.launch.launch",
        "launch",
        "submit a run, a benchmark or an evaluation to a Slurm cluster",
    ),
    "pack": ("datamodules.pack", "pack", "pack a folder or a zip of images into shards that training streams"),
    "extractor": ("lightning_gen.evaluation.train_extractor", "extractor", "train a shipped feature extractor again"),
}

_HELP = """usage: lightning-gen VERB [options]

A bench for generative models on PyTorch Lightning.

{verbs}

lightning-gen VERB --help shows a verb's options. The last line a verb prints is the path of what it made.
"""


def _help() -> str:
    return _HELP.format(verbs="\n".join(f"  {verb:<10} {text}" for verb, (_, _, text) in _VERBS.items()))


def _reported(error: Exception, verb: str, args: list[str]) -> int | None:
    """Prints the one line of an error that the user can mend; returns its exit status, None for a bug."""
    from lightning_gen.diagnosis import diagnose, rank, rank_zero_fails_too, status

    line = diagnose(error, verb, args)
    if line is None:
        return None
    if rank() == 0:
        print(f"lightning-gen {verb}: {line}", file=sys.stderr)
    elif not rank_zero_fails_too(_STARTED_BY):
        print(f"lightning-gen {verb}, rank {rank()}: {line}", file=sys.stderr)
    return status(error, verb, args)


def _trains(verb: str, args: list[str]) -> bool:
    return verb == "fit" or (
        verb == "benchmark" and any(arg.partition("=")[0] in ("--cell", "--place") for arg in args)
    )


def _call(verb: str, args: list[str]) -> Any:
    """What the verb makes."""
    module, function, _ = _VERBS[verb]
    if module == "lightning_gen.cli":
        from lightning_gen.cli import run_verb

        return run_verb(verb, args)
    from lightning_gen.calling import call

    return call(getattr(importlib.import_module(module), function), f"lightning-gen {verb}", args)


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
    from lightning_gen.cluster import stop
    from lightning_gen.errors import Interrupted

    try:
        # Signals are listened for where training can end in good order; elsewhere they end the process, as ever.
        with stop.listening() if _trains(verb, rest) else nullcontext():
            made = _call(verb, rest)
    except Interrupted as interrupted:
        if interrupted.status:
            print(f"lightning-gen {verb}: {interrupted}", file=sys.stderr)
        return interrupted.status
    except KeyboardInterrupt:
        print(f"lightning-gen {verb}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # main's affair
        raise
    except Exception as error:
        status = None if debug else _reported(error, verb, rest)
        if status is None:
            raise
        return status
    if made is not None:
        print(made)
    return 0


def main(args: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status: 0, 2 for bad input, 69 for a rank that lost another, 75 for what is to be
    started again, 130 for an interrupt, 141 where nobody reads, 143 after SIGTERM.
    """
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
