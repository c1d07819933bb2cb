"""What stands below a table: how its numbers were measured, and what its ranks and intervals say."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_gen.comparison.metrics import FD, LIKELIHOOD, SAMPLES
from lightning_gen.comparison.settings import CODE
from lightning_gen.comparison.standing import Standing


def explanation(standing: Standing) -> list[str]:
    """Paragraphs: the measurement, the statistics, the unranked rows, and what differs."""
    measured = " ".join(_measurement(standing))
    return [
        measured,
        " ".join(_statistics(standing)),
        *([_fixed(standing)] if standing.fixed else []),
        *_warnings(standing),
    ]


def _measurement(standing: Standing) -> Iterator[str]:
    record = standing.records[0]
    s = record.settings
    split = f"{s.get('data')}'s {s.get('reference')} split ({s.get('reference_fingerprint')})"
    count = s.get("reference_count")
    distance = next((r for r in standing.records if FD.measured(r)), None)
    if distance is not None:
        of = distance.settings
        yield (
            f"{standing.header(FD)}: Frechet distance in the features of `{of.get('extractor')}` "
            f"({of.get('extractor_digest')}) between N samples and {count} examples of {split}; its bias falls as 1/N, so "
            "only equal N compare."
        )
    elif any(metric.of == SAMPLES for metric in standing.measured):
        yield f"Samples are set against {count} examples of {split}."
    else:
        yield f"No feature extractor was named for {split}: there is no FD."
    likelihood = next((r for r in standing.records if r.kind), None)
    if likelihood is not None:
        draws = likelihood.settings.get("draws")
        yield (
            f"Likelihood: over all {count} examples of the split"
            + (f", {draws} noise draw{'s' * (draws > 1)} each" if draws else "")
            + f"; the noise of evaluation is shared by all rows (seed {s.get('seed')})."
        )
    yield "images/s is the median training speed."
    shared = [key for key in CODE if s.get(key) and all(r.settings.get(key) == s[key] for r in standing.records)]
    if shared:
        yield f"Code: {', '.join(f'{key} {s[key]}' for key in shared)}."


def _statistics(standing: Standing) -> Iterator[str]:
    counts = sorted({model.seeds for model in standing.models})
    several = counts[-1] > 1
    if several:
        many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        yield f"Each row is the mean of {many} training seeds, ± the standard deviation over them."
    else:
        yield "Each row is one training seed, ± the standard error over examples or samples where it is known."
    metric = standing.metric
    if not standing.comparable(metric):
        return
    kind = "; within a kind of likelihood only" if metric.of == LIKELIHOOD else ""
    yield f"Ranked by {standing.header(metric)}{kind}."
    overs = {d.over for row in standing.rows for d in row.differences.values()}
    yield from _differences(standing, overs)
    ranking = {row.differences[metric.key].over for row in standing.rows if metric.key in row.differences}
    if ranking - {""}:
        yield (
            "Rows marked = are ties: the 95 % interval of their paired difference to the group's first row includes 0. "
            "Each interval is taken by itself, not all at once."
        )
    if "" in ranking:
        some = "Rows" if ranking == {""} else "Rows without an interval"
        yield f"{some} are ranked by their point estimates: of one seed no interval of {metric.title} is known."


def _differences(standing: Standing, overs: set[str]) -> Iterator[str]:
    names = list(dict.fromkeys(row.baseline.name for row in standing.rows if row.baseline and row.differences))
    if not names:
        return
    text = f"Δ is the row's number less that of {' or '.join(names)}"
    ways = []
    if "seeds" in overs:
        ways.append("± its 95 % t-interval, paired over the training seeds that both have")
    if "examples" in overs:
        ways.append(
            "± its 95 % interval, paired over the examples: that says how far these two trained models differ, not what "
            "another seed would give"
        )
    yield "; ".join([text, *ways]) + "."


def _fixed(standing: Standing) -> str:
    told = [
        f"{record.name} is {record.settings['source']}" for record in standing.fixed if record.settings.get("source")
    ]
    others = [record.name for record in standing.fixed if not record.settings.get("source")]
    if others:
        told.append(
            f"{' and '.join(others)} {'are' if len(others) > 1 else 'is'} fitted to the training set in closed form"
        )
    return f"Rows without a rank: {'; '.join(told)}."


def _warnings(standing: Standing) -> Iterator[str]:
    for found in standing.disagreements:
        yield f"INCOMPARABLE: the {found.of} were measured differently ({found}), so these numbers are not ranked."
    yield from standing.notes
