"""Evaluations of one model under a benchmark: each is a file, skipped where it is there, and what they share is taken once."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_gen.benchmark.evaluations import Evaluation
from lightning_gen.errors import UserError
from lightning_gen.run_directory import unsealed, write_atomically

if TYPE_CHECKING:
    from lightning_gen.evaluation.judge import Judge
    from lightning_gen.generative_module import GenerativeModule


@dataclass(frozen=True)
class Measurement:
    """One evaluation of one model.

    Attributes:
        folder: of its files.
        name: of its files.
        evaluation: how the model is measured.
        model: what the model depends on: JSON of [arguments, text].
    """

    folder: Path
    name: str
    evaluation: Evaluation
    model: str

    @property
    def file(self) -> Path:
        """The file whose existence says that it was measured."""
        return self.folder / f"{self.name}.json"

    def fingerprint(self) -> str:
        """What the numbers depend on: under another they are measured again."""
        return json.dumps([self.model, self.evaluation.fields], sort_keys=True)

    def done(self) -> bool:
        """Whether it was measured, as this says, and its numbers are those that were written."""
        said = text_of(self.folder / f"{self.name}.job")
        return _is_whole(self.file) and _measuring(said) == _measuring(self.fingerprint())

    def close(self) -> None:
        """Says what was measured, once it is."""
        write_atomically(self.folder / f"{self.name}.job", self.fingerprint())


def text_of(path: Path) -> str | None:
    """None where there is no such file."""
    return path.read_text() if path.exists() else None


def _is_whole(file: Path) -> bool:
    """Whether an evaluation is there with the terms of its examples, and no bit of them has changed."""
    try:
        content, examples = unsealed(json.loads(file.read_text())), file.with_suffix(".csv")
        told = content.get("examples_sha256")
        return told is None or sha256(examples.read_bytes()).hexdigest() == told
    except (OSError, ValueError, AttributeError):
        return False


def of_seed(model: str) -> Any:
    """[arguments, text] without a seed of 0: that is `fit`'s own, and was not written while there was one seed."""
    try:
        arguments, text = json.loads(model)
    except (ValueError, TypeError):
        return model
    return [[each for each in arguments if each != "--seed_everything=0"], text]


def _measuring(said: str | None) -> Any:
    """What `Measurement.fingerprint` says, likewise."""
    try:
        model, fields = json.loads(said or "")
    except (ValueError, TypeError):
        return said
    return [of_seed(model), fields]


def measure(
    measurements: Sequence[Measurement],
    judge: Judge,
    load: Callable[[str], GenerativeModule],
    about: dict[str, Any],
    parts: Path,
) -> dict[str, UserError]:
    """Takes those that are not done, on the yardstick of `judge`; returns what was refused, by the evaluation's name.

    Those that share a likelihood follow each other, and the first takes it for all. Cut, it goes on where it was.

    Args:
        load: makes the model with these weights.
        about: settings to add.
        parts: the folder of what is half done.
    """
    from lightning_gen.evaluation.parts import Parts

    load = functools.lru_cache(maxsize=1)(load)
    waiting = [each for each in measurements if not each.done()]
    failed: dict[str, UserError] = {}
    kept = None
    for each in sorted(waiting, key=lambda each: each.evaluation.of_likelihood):
        try:
            module = load(each.evaluation.weights)
            own = judge.under(each.evaluation.protocol)
            kept = Parts.of(parts, own.depends_on(module), own.ranks)
            measured = own.of_model(module, kept)
        except UserError as error:  # this solver, say, diverges: the others need not
            failed[each.evaluation.name] = error
            each.file.unlink(missing_ok=True)  # of another fingerprint
            print(f"{each.name}: {error}", flush=True)
            continue
        measured.settings.update(about)
        measured.timing.update(own.timing(kept))
        measured.write(each.folder, each.name, module.levels)
        each.close()
        print(f"{each.name} measured in {measured.timing['seconds']['total']:.1f} s", flush=True)
    if kept is not None and not failed:
        kept.clear()
    return failed
