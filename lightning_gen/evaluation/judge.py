"""Measures models on one data set under one protocol, alone or among several ranks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_gen.errors import NoLikelihood, UserError
from lightning_gen.evaluation import measure
from lightning_gen.evaluation.extractors import Extractor
from lightning_gen.evaluation.frechet import FeatureStatistics, Reference, frechet_distance
from lightning_gen.evaluation.protocol import Protocol
from lightning_gen.evaluation.provenance import provenance
from lightning_gen.evaluation.ranks import ALONE, Ranks
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.run_directory import write_atomically, write_csv
from lightning_gen.specs import build, describe, overridden

SHEET = 64
"""Samples kept for the picture beside the numbers."""


@dataclass(frozen=True)
class Measured:
    """What one evaluation gives: numbers, how they were measured, a few samples, and the likelihood of each example."""

    metrics: dict[str, float]
    settings: dict[str, Any]
    samples: Tensor
    likelihood: Likelihood | None = None

    def write(self, folder: Path, name: str, levels: int | None) -> Path:
        """folder/NAME.json, NAME.png, and NAME.csv with the per-example terms; the JSON comes last, when all is there."""
        from lightning_gen.pictures import save_samples

        try:
            save_samples(self.samples, levels, folder / f"{name}.png")
        except UserError:  # data that have no picture
            folder.mkdir(parents=True, exist_ok=True)
        if self.likelihood is not None:
            columns = {"log_prob_nats": self.likelihood.log_prob, **self.likelihood.terms}
            rows = ([i, *row] for i, row in enumerate(zip(*(c.tolist() for c in columns.values()))))
            write_csv(folder / f"{name}.csv", ["index", *columns], rows)
        content = {"metrics": self.metrics, "settings": self.settings}
        write_atomically(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")
        return folder / f"{name}.json"


class Judge:
    """Measures any number of models on one data set under one protocol; reference and extractor are made once.

    Among several ranks each measures its share, and all come to the same result. Where neither the protocol nor the data
    set names an extractor there is no distance, and the likelihood is all there is.
    """

    def __init__(self, data: Any, protocol: Protocol, device: torch.device | str = "cpu", ranks: Ranks = ALONE) -> None:
        self.data, self.device, self.ranks = data, device, ranks
        if ranks.size > 1:  # one process of each machine downloads and fills the cache, for the others to map
            if ranks.local_rank == 0:
                data.prepare_data()
            ranks.exchange()
        spec = protocol.extractor or data.extractor
        if spec is None and not protocol.draws:
            raise UserError(f"nothing to measure: give {type(data).__name__} an --extractor, or --draws of at least 1")
        self.extractor: Extractor | None = None if spec is None else build(spec, Extractor).to(device)
        self.split = self._split(protocol.reference)
        self.protocol = replace(protocol, num_samples=protocol.num_samples or len(self.split))
        self.reference: Reference | None = None
        sums = self._statistics(self._share_of(self.split.x))
        if sums is not None:
            ranks.exchange()
            self.reference = Reference.from_moments(sums.compute().to("cpu"))

    def _split(self, name: str) -> Any:
        try:
            return self.data.split(name)
        except KeyError as error:
            raise UserError(f"{type(self.data).__name__} has no split {name!r}") from error

    def _share_of(self, x: Tensor) -> Iterator[Tensor]:
        share = self.ranks.share(len(x))
        return (x[i : min(i + self.protocol.batch_size, share.stop)] for i in share[:: self.protocol.batch_size])

    def _statistics(self, batches: Iterator[Tensor]) -> FeatureStatistics | None:
        """This rank's sums of the features; None without an extractor, the batches gone through all the same."""
        if self.extractor is None:
            for _ in batches:
                pass
            return None
        return measure.statistics(
            batches, self.data.levels, self.extractor, device=self.device, among_ranks=self.ranks.size > 1
        )

    def _distance(self, sums: FeatureStatistics | None) -> dict[str, float]:
        """{"fd": of all ranks' sums to the reference}, or nothing. The ranks must have met."""
        if sums is None or self.reference is None:
            return {}
        return {"fd": frechet_distance(sums.compute().to("cpu"), self.reference)}

    @property
    def num_drawn(self) -> int:
        """Samples drawn of each model: without a distance only those that are kept for the picture."""
        return self.protocol.num_samples if self.extractor else min(SHEET, self.protocol.num_samples)

    def work(self) -> int:
        """Samples and examples that make up this rank's share in the measurement of a model."""
        return len(self.ranks.share(self.num_drawn)) + len(
            self.ranks.share(len(self.split) * (self.protocol.draws > 0))
        )

    def settings(self) -> dict[str, Any]:
        """What holds for every model judged here, on any number of ranks."""
        return {
            "num_samples": self.protocol.num_samples if self.extractor else None,
            "extractor": self.extractor.name if self.extractor else None,
            "extractor_digest": self.extractor.digest if self.extractor else None,
            "data": type(self.data).__name__,
            "reference": self.protocol.reference,
            "reference_count": len(self.split),
            "reference_fingerprint": self.split.fingerprint(),
            "draws": self.protocol.draws,
            "batch_size": self.protocol.batch_size,
            "seed": self.protocol.seed,
            "device": torch.device(self.device).type,  # CPU and GPU generators draw different noise
            **provenance(),
        }

    def of_data(self, x: Tensor, label: str) -> Measured:
        """A set of data as if a model had made it: floor and ceiling rows."""
        sums = self._statistics(self._share_of(x))
        self.ranks.exchange()
        settings = self.settings()
        settings |= {"num_samples": len(x) if self.extractor else None, "source": label, "draws": 0}
        return Measured(self._distance(sums), settings, x[:SHEET])

    def of_model(self, module: GenerativeModule, advance: measure.Advance = int) -> Measured:
        """The model's Frechet distance and likelihood, as far as there are such.

        Raises:
            UserError: there is neither.
        """
        protocol, ranks = self.protocol, self.ranks
        sampler = overridden(getattr(module, "sampler", None), protocol.sampler)
        estimator = overridden(getattr(module, "bound", None), protocol.estimator) if protocol.draws else None
        share = ranks.share(self.num_drawn)
        kept: list[Tensor] = []

        def keep(batches: Iterator[Tensor]) -> Iterator[Tensor]:
            for batch in batches:
                if share.start + sum(map(len, kept)) < SHEET:
                    kept.append(batch.cpu())
                yield batch

        module.to(self.device).eval()
        how = {"batch_size": protocol.batch_size, "seed": protocol.seed, "advance": ranks.watching(advance)}
        sums = self._statistics(keep(measure.samples(module, share, **how, sampler=sampler)))
        parts: list[Likelihood] | None = None
        if protocol.draws:
            examples = ranks.share(len(self.split))
            with suppress(NoLikelihood):
                parts = measure.likelihood(
                    module, self.split, examples, **how, draws=protocol.draws, estimator=estimator
                )
        shares = ranks.exchange((kept, parts))
        sheet = torch.cat([batch for batches, _ in shares for batch in batches])[:SHEET]
        likelihood = None
        if all(parts is not None for _, parts in shares):
            likelihood = measure.concatenated([part for _, parts in shares for part in parts])
        metrics = self._distance(sums)
        if likelihood is not None:
            metrics.update(measure.likelihood_metrics(likelihood))
        if not metrics:
            raise UserError(
                f"nothing to measure: {type(module).__name__} has no likelihood, and no extractor is named for "
                f"{type(self.data).__name__} (give --extractor)"
            )
        settings = {
            **self.settings(),
            "sampler": describe(sampler),
            "nfe": getattr(sampler, "nfe", None),
            "weights": module.weights,
            "likelihood_kind": likelihood.kind if likelihood is not None else None,
        }
        if protocol.draws:
            settings["estimator"] = describe(estimator)
        return Measured(metrics, settings, sheet, likelihood)
