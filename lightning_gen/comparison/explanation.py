"""What stands below a table: how its numbers were measured, and what its ranks and intervals say."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from lightning_gen.comparison.metrics import FD, LIKELIHOOD, SAMPLES
from lightning_gen.comparison.records import CEILING, FLOOR, Record
from lightning_gen.comparison.settings import CODE, described, some
from lightning_gen.comparison.standing import Standing
from lightning_gen.comparison.statistics import EXAMPLES, NOTHING, SEEDS, UNPAIRED

SPEED = "images/s"
"""The header of the training speed."""


def explanation(standing: Standing, headers: Collection[str]) -> list[str]:
    """Paragraphs: the measurement, the statistics, the unranked rows, and what differs or is missing.

    Args:
        headers: of the columns that are shown.
    """
    paragraphs = [
        " ".join(_measurement(standing, headers)),
        " ".join(_statistics(standing)),
        " ".join(_fixed(standing)),
        *_warnings(standing),
    ]
    return [paragraph for paragraph in paragraphs if paragraph]


def _measurement(standing: Standing, headers: Collection[str]) -> Iterator[str]:
    record = standing.records[0]
    s = record.settings
    split = f"{s.get('data')}'s {s.get('reference')} split ({s.get('reference_fingerprint')})"
    count = s.get("reference_count")
    distance = next((r for r in standing.records if FD.measured(r)), None)
    if distance is not None:
        of = distance.settings
        sizes = {r.settings.get("num_samples") for r in standing.records if FD.measured(r)}
        num = f"N = {of.get('num_samples')}" if len(sizes) == 1 else "N"
        yield (
            f"{standing.header(FD)}: Frechet distance in the features of `{of.get('extractor')}` "
            f"({of.get('extractor_digest')}) between {num} samples and {count} examples of {split}; its bias falls as 1/N, "
            "so only equal N compare."
        )
    elif any(metric.of == SAMPLES for metric in standing.measured):
        yield f"Samples are set against {count} examples of {split}."
    else:
        yield f"No feature extractor was named for {split}: there is no FD."
    if any(metric.of == SAMPLES for metric in standing.measured) and any(
        r.settings.get("sampler") for r in standing.records
    ):
        yield f"Samples: {described(standing.records, 'sampler')}; NFE {described(standing.records, 'nfe')}."
    yield f"Weights: {described(standing.records, 'weights')}."
    if any(record.kind for record in standing.records) and any(metric.of == LIKELIHOOD for metric in standing.shown):
        of_all = f"{count} " if count else ""
        yield (
            f"Likelihood: over all {of_all}examples of the split{_draws(standing)}; the noise of evaluation is shared by "
            f"all rows (seed {s.get('seed')})."
        )
    if SPEED in headers:
        yield f"{SPEED} is the median training speed."
    shared = [key for key in CODE if s.get(key) and all(r.settings.get(key) == s[key] for r in standing.records)]
    if shared:
        yield f"Code: {', '.join(f'{key} {s[key]}' for key in shared)}."


def _draws(standing: Standing) -> str:
    """ ", 16 noise draws each (elbo)", where a kind of likelihood has draws."""
    of_kind = {r.kind: r.settings.get("draws") for r in standing.records if r.kind}
    told = {kind: f"{draws} noise draw{'s' * (draws > 1)} each" for kind, draws in of_kind.items() if draws}
    if len(of_kind) == 1:
        return "".join(f", {text}" for text in told.values())
    return "".join(f", {text} for {kind}" for kind, text in told.items())


def _statistics(standing: Standing) -> Iterator[str]:
    counts = sorted({model.seeds for model in standing.models})
    if counts[-1] > 1:
        many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        yield f"Each row is the mean of {many} training seeds, ± the standard deviation over them."
    else:
        yield "Each row is one training seed, ± the standard error over examples or samples where it is known."
    yield from _differences(standing)
    if standing.ranked:
        yield from _ranks(standing)
    overs = {over for over, count in standing.pairs.items() if count} | _overs(standing)
    if overs & {SEEDS, UNPAIRED}:
        yield (
            "The intervals over training seeds are given one noise of evaluation: its own part in the numbers is not in "
            "them."
        )


def _overs(standing: Standing) -> set[str]:
    return {difference.over for row in standing.rows for difference in row.differences.values()}


def _differences(standing: Standing) -> Iterator[str]:
    names = list(dict.fromkeys(row.baseline.name for row in standing.rows if row.baseline and row.differences))
    if not names:
        return
    overs = _overs(standing)
    text = f"Δ is the row's number less that of {' or '.join(names)}"
    ways = []
    if SEEDS in overs:
        ways.append("± its 95 % t-interval, paired over the training seeds that both have")
    if UNPAIRED in overs:
        ways.append(
            "± Welch's 95 % interval, unpaired, over the training seeds of each, where they have fewer than two in common"
        )
    if EXAMPLES in overs:
        ways.append(
            "± its 95 % interval, paired over the examples: that says how far these two trained models differ, not what "
            "another seed would give"
        )
    yield "; ".join([text, *ways]) + "."


def _ranks(standing: Standing) -> Iterator[str]:
    metric = standing.metric
    kind = ", within a kind of likelihood only" if metric.of == LIKELIHOOD else ""
    count = sum(standing.pairs.values())
    unknown = standing.pairs.get(NOTHING, 0)
    pairs = f"{count} pair{'s were' if count > 1 else ' was'} compared"
    yield f"Rows are in the order of their {standing.header(metric)}{kind}."
    if unknown < count:
        yield (
            "A rank is the range of places that is left open: behind every model that is surely better and before every "
            "one that is surely worse, by a 95 % interval of their difference without 0. "
            f"{pairs}{', each at 95 % by itself, not all at once' * (count > 1)}."
        )
    if unknown:
        needs = "two training seeds of both models"
        if metric.of == LIKELIHOOD:
            needs += ", or of one run each the likelihood of every example"
        which = f"Ranks are by point estimates ({pairs})" if unknown == count else f"{unknown} are by point estimates"
        yield f"{which}, of which equal ones share their places: an interval of {metric.title} needs {needs}."


def _fixed(standing: Standing) -> Iterator[str]:
    told = [_of_data(record) for record in standing.fixed if record.settings.get("source")]
    others = list(dict.fromkeys(record.name for record in standing.fixed if not record.settings.get("source")))
    if others:
        told.append(
            f"{' and '.join(others)} {'are' if len(others) > 1 else 'is'} fitted to the training set in closed form"
        )
    if told:
        yield f"Rows without a rank: {'; '.join(told)}."
    missing = [name for name in (FLOOR, CEILING) if name not in {record.name for record in standing.fixed}]
    if missing and any(map(FD.measured, standing.records)):
        yield f"No {' and no '.join(missing)} that fits was measured beside these runs."


def _of_data(record: Record) -> str:
    num, data = record.settings.get("num_samples"), record.settings.get("data")
    what = f"{num} examples of {data}" if record.name == FLOOR else f"{num} examples"
    return f"{record.name} is {record.settings['source']} ({what})"


def _warnings(standing: Standing) -> Iterator[str]:
    for found in standing.disagreements:
        were = "were" if found.of == SAMPLES else "was"
        yield f"INCOMPARABLE: the {found.of} {were} measured differently ({found}), so these numbers are not ranked."
    for metric in standing.shown:
        gaps = [
            r
            for model in standing.models
            if model.measured(metric)
            for r in model.records
            if not math.isfinite(metric.value(r))
        ]
        if gaps:
            names = some([record.name for record in gaps], 6)
            yield f"{standing.header(metric)} is missing or not a finite number in {names}: a mean needs all its seeds."
    yield from _unequal_seeds(standing)
    yield from standing.notes


def _unequal_seeds(standing: Standing) -> Iterator[str]:
    """What a mean over all of a row's seeds and a difference over the shared ones have to do with each other."""
    rows: dict[tuple[int | None, ...], list[str]] = {}
    for model in standing.models:
        rows.setdefault(tuple(record.seed for record in model.records), []).append(model.name)
    if len(rows) > 1 and SEEDS in {*_overs(standing), *standing.pairs}:
        told = "; ".join(f"{', '.join(map(str, seeds))} in {some(names)}" for seeds, names in rows.items())
        yield (
            f"Unequal training seeds: {told}. A mean is over all seeds of its row, Δ and ranks over those that two rows "
            "share: they may point in different directions."
        )
