"""The metrics that tables show and rank by: what each is called, which way is better, and what it depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_gen.comparison.records import Record
from lightning_gen.errors import UserError

SAMPLES, LIKELIHOOD = "samples", "likelihood"
"""What a number is of: how it was measured must agree in other settings for the one than for the other."""


@dataclass(frozen=True)
class Metric:
    """A column of the table.

    Attributes:
        keys: in an evaluation's metrics, of which it has one.
        title: the column's header.
        of: `SAMPLES` or `LIKELIHOOD`.
        lower_is_better: its direction.
        share: of samples or of examples, from 0 to 1: such metrics are drawn on one axis.
    """

    keys: tuple[str, ...]
    title: str
    of: str = SAMPLES
    lower_is_better: bool = True
    share: bool = False

    @property
    def key(self) -> str:
        """Its name in the table's CSV."""
        return self.keys[0]

    def measured(self, record: Record) -> bool:
        return any(key in record.metrics for key in self.keys)

    def value(self, record: Record) -> float:
        """NaN where it was not measured."""
        return next((record.metrics[key] for key in self.keys if key in record.metrics), math.nan)

    def standard_error(self, record: Record) -> float:
        """Of this one number, NaN where it is not known; it says nothing of another training seed."""
        return next((record.metrics[f"{key}_se"] for key in self.keys if f"{key}_se" in record.metrics), math.nan)

    def header(self, record: Record) -> str:
        """The title, with the name of the features where it depends on them."""
        if self.key != "fd":
            return self.title
        extractor = record.settings.get("extractor")
        return record.settings.get("extractor_label") or (f"FD[{extractor}]" if extractor else self.title)


FD = Metric(("fd",), "FD")
BITS = Metric(("bits_per_dim",), "bits/dim", LIKELIHOOD)
FD_INF = Metric(("fd_inf",), "FD∞")
NATS = Metric(("log_prob_nats", "elbo_nats"), "log p, nats", LIKELIHOOD, lower_is_better=False)
METRICS = {
    metric.key: metric
    for metric in (
        FD,
        BITS,
        NATS,
        Metric(("fid",), "FID"),
        FD_INF,
        Metric(("kid",), "KID"),
        Metric(("precision",), "precision", lower_is_better=False, share=True),
        Metric(("recall",), "recall", lower_is_better=False, share=True),
        Metric(("density",), "density", lower_is_better=False),
        Metric(("coverage",), "coverage", lower_is_better=False, share=True),
        Metric(("inception_score",), "Inception score", lower_is_better=False),
    )
}
"""By the key of `--rank_by`."""


def named_metric(name: str) -> Metric:
    """The metric of one of its keys. Raises UserError where there is none."""
    found = next((metric for metric in METRICS.values() if name in metric.keys), None)
    if found is None:
        raise UserError(f"--rank_by {name}: there is no such metric; there are {', '.join(METRICS)}")
    return found


def ranking_metric(records: list[Record], rank_by: str | None = None) -> Metric:
    """What ranks these records: FD where all have it, else bits/dim, else nats, unless it is named.

    Raises:
        UserError: a metric of another name, or that no record has.
    """
    if rank_by is not None:
        metric = named_metric(rank_by)
        there = [key for key, other in METRICS.items() if any(map(other.measured, records))]
        if metric.key not in there:
            has = ", ".join(there) or "nothing that ranks"
            raise UserError(f"--rank_by {rank_by}: none of these evaluations has it; they have {has}")
        return metric
    usual = (FD, BITS, NATS)
    shared = [metric for metric in usual if all(map(metric.measured, records))]
    some = [metric for metric in usual if any(map(metric.measured, records))]
    if not some:
        raise UserError("these evaluations hold neither a Frechet distance nor a likelihood: there is nothing to rank")
    return (shared or some)[0]
