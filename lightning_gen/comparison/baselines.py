"""The rows beside the models: real data, noise and closed forms, as far as they were measured as the models were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from lightning_gen.comparison.records import CEILING, DATA_SETTINGS, FLOOR, Record
from lightning_gen.comparison.settings import ACROSS, Disagreement, disagreements


def distinct(baselines: Iterable[Record]) -> list[Record]:
    """Each baseline once: those of one name, labels, source and number of samples are one. The floor first, the ceiling
    last.
    """
    kept: dict[tuple[Any, ...], Record] = {}
    for baseline in baselines:
        how = (baseline.settings.get(key) for key in ("source", "num_samples", *DATA_SETTINGS))
        kept.setdefault((baseline.name, *baseline.labels.items(), *how), baseline)
    place = {FLOOR: -1, CEILING: 1}
    return sorted(kept.values(), key=lambda baseline: place.get(baseline.name, 0))


def fitting(baselines: Iterable[Record], records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Those that stand beside the models' numbers, and what is to be said of them and of those left out.

    How a model is sampled, averaged and bounded is its own: a closed form has it otherwise, and data have nothing of it.
    All else must agree with one of the models. A floor may be of fewer examples, where its split has no more.
    """
    kept, notes = [], []
    for baseline in distinct(baselines):
        clashes = [_clash(baseline, record) for record in records]
        clash = clashes[0] if clashes and None not in clashes else None
        if clash is not None:
            name = " ".join([baseline.name, *baseline.labels.values()])
            notes.append(f"Left out: {name}, which was measured otherwise ({clash}).")
            continue
        kept.append(baseline)
        most = max((_num(record) for record in records), default=0)
        if baseline.name == FLOOR and _num(baseline) < most:
            notes.append(
                f"{baseline.name} is of {_num(baseline)} examples, for its split has no more, and the models' samples are "
                f"{most}: of as many it would be lower."
            )
    return kept, notes


def _num(record: Record) -> int:
    return record.settings.get("num_samples") or 0


def _clash(baseline: Record, record: Record) -> Disagreement | None:
    if baseline.name == FLOOR and 0 < _num(baseline) < _num(record):
        baseline = replace(baseline, settings={**baseline.settings, "num_samples": _num(record)})
    return next(iter(disagreements([record, baseline], ACROSS)), None)
