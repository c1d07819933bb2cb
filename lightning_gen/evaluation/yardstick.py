"""What models are measured against: a split of the data, the features it has, and how far real data and noise are from it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_gen.errors import NonFiniteFeatures, UserError, WeightsUnavailable
from lightning_gen.evaluation.extractors import Extractor, choose
from lightning_gen.evaluation.features import Features
from lightning_gen.evaluation.fidelity import check_counts, fidelity
from lightning_gen.evaluation.frechet import Reference
from lightning_gen.evaluation.measured import SHEET, Measured
from lightning_gen.evaluation.progress import SILENT, Progress, Stopwatch
from lightning_gen.evaluation.protocol import Protocol
from lightning_gen.evaluation.provenance import provenance
from lightning_gen.evaluation.ranks import ALONE, Ranks
from lightning_gen.evaluation.reference import DataFeatures, shared_examples
from lightning_gen.random_source import GeneratorSource
from lightning_gen.specs import build

FLOOR, CEILING = "floor", "ceiling"


class Yardstick:
    """A reference under a protocol, alone or among several ranks; all that is made of it is made once.

    Among several ranks each computes its share; the first has the result. Where neither the protocol nor the data set
    names an extractor, or no samples are asked for, there is no distance.

    Args:
        in_full: measure all there is, or the distances that one looks at in passing.

    Attributes:
        left_out: why there is no distance although the data set names an extractor; None where there is one.
    """

    def __init__(
        self,
        data: Any,
        protocol: Protocol,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
        show: Progress = SILENT,
        in_full: bool = True,
    ) -> None:
        self.data, self.device, self.ranks, self.show, self.in_full = data, device, ranks, show, in_full
        self.clock = Stopwatch()
        if ranks.size > 1:  # one process of each machine downloads and fills the cache, for the others to map
            if ranks.local_rank == 0:
                data.prepare_data()
            ranks.exchange()
        self.split = self._split(protocol.reference)
        self.protocol = replace(
            protocol, num_samples=len(self.split) if protocol.num_samples is None else protocol.num_samples
        )
        self.left_out: str | None = None
        self.extractor = self._extractor()
        self._reference: tuple[Features, Reference | None] | None = None
        self._data_features: DataFeatures | None = None
        if self.extractor is not None:
            check_counts(self.extractor, self.protocol.num_samples, len(self.split), protocol.reference)
            self._data_features = DataFeatures(
                self.extractor, data.levels, device, ranks, batch_size=self.protocol.batch_size
            )
            what = f"examples of the split {protocol.reference!r}"
            advance = show.stage(f"features of {protocol.reference}", len(ranks.share(len(self.split))))
            with self.clock.on("reference"):
                self._reference = self._data_features.of(
                    self.split.x, self.split.fingerprint(), what, advance, root=True
                )

    def _split(self, name: str) -> Any:
        try:
            return self.data.split(name)
        except KeyError as error:
            raise UserError(f"{type(self.data).__name__} has no split {name!r}") from error

    def _extractor(self) -> Extractor | None:
        """The extractor that is named; else the data set's own, if it can be had."""
        if not self.protocol.num_samples:
            self.left_out = "no samples are asked for"
            return None
        spec = choose(self.protocol.extractor, self.data.extractor, self.data.shape)
        if spec is None:
            self.left_out = f"no feature extractor for {type(self.data).__name__}"
            if not self.protocol.likelihood.draws:
                raise UserError(
                    f"nothing to measure: give {type(self.data).__name__} an --extractor, or --likelihood.draws of at least 1"
                )
            return None
        made, missing = None, None
        if self.ranks.local_rank == 0:  # one process of each machine downloads what is to be downloaded
            try:
                made = build(spec, Extractor)
            except WeightsUnavailable as error:
                missing = str(error)
        self.left_out = next(filter(None, self.ranks.exchange(missing)), None)
        if self.left_out is None:
            return (made or build(spec, Extractor)).to(self.device)
        if self.protocol.extractor is not None or not self.protocol.likelihood.draws:
            raise WeightsUnavailable(self.left_out)
        return None

    @property
    def num_drawn(self) -> int:
        """Samples drawn of each model: without a distance only those that are kept for the picture."""
        return self.protocol.num_samples if self.extractor else min(SHEET, self.protocol.num_samples)

    def settings(self) -> dict[str, Any]:
        """What holds for every model judged here, on any number of ranks."""
        extractor, own = self.extractor, self.protocol
        return {
            "num_samples": own.num_samples if extractor else None,
            "extractor": extractor.name if extractor else None,
            "extractor_label": extractor.label if extractor else None,
            "extractor_digest": extractor.digest if extractor else None,
            "data": type(self.data).__name__,
            "levels": self.data.levels,
            "reference": own.reference,
            "reference_count": len(self.split),
            "reference_fingerprint": self.split.fingerprint(),
            "draws": own.likelihood.draws,
            "batch_size": own.batch_size,
            "seed": own.seed,
            "device": torch.device(self.device).type,  # CPU and GPU generators draw different noise
            **provenance(),
        }

    # ---- data ------------------------------------------------------------------------------------------------------

    def baselines(self, floor: str | None = None) -> dict[str, Measured]:
        """What real data score, and noise, as if a model had made them; nothing without a distance.

        Args:
            floor: the split that stands for perfect samples; the data set's own choice by default.
        """
        if self.extractor is None:
            return {}
        num = self.protocol.num_samples
        rng = GeneratorSource(self.protocol.seed).fork("ceiling")
        shape = (num, *self.data.shape)
        levels = self.data.levels
        noise = rng.normal(shape) if levels is None else rng.integers(levels, shape).to(self.split.x.dtype)
        rows = [(CEILING, noise, "noise", ["noise", self.protocol.seed, list(shape)])]
        name = self._floor(floor)
        if name is not None:
            real = self._split(name)
            rows.insert(0, (FLOOR, real.x[:num], f"real data, split {name!r}", real.fingerprint()))
        found = {}
        for label, x, source, content in rows:
            if len(x) <= self.extractor.num_features:
                continue
            with self.clock.on("floor and ceiling"), suppress(NonFiniteFeatures):  # of noise; on all ranks alike
                found[label] = self.of_data(x, source, content)
        return found

    def _floor(self, name: str | None) -> str | None:
        """The first split that is not in the reference: the data set's own choice, test or val; or the one that is named.

        A tenth of its examples may be: two draws of simple data coincide now and then.

        Raises:
            UserError: the split that is named lies in the reference.
        """
        own = getattr(self.data, "floor", "val")
        if self.protocol.reference == "test" and (name or own) != "test":  # disjoint from all others
            return name or own
        for candidate in dict.fromkeys((name,) if name else (own, "test", "val")):
            if shared_examples(self._split(candidate).x, self.split.x) < 0.1:
                return candidate
        if name:
            raise UserError(
                f"the floor {name!r} lies in the reference {self.protocol.reference!r}: it must be held out of it"
            )
        return None

    def of_data(self, x: Tensor, source: str, content: Any) -> Measured:
        """A set of data as if a model had made it.

        Args:
            source: what it is, for people.
            content: primitives that tell it from any other data.
        """
        if self.extractor is None or self._data_features is None:
            raise UserError("data have no likelihood, and without an extractor no distance")
        advance = self.show.stage(f"features of {source}", len(self.ranks.share(len(x))))
        made = self._data_features.of(x, content, f"examples of {source}", advance)
        metrics = self._fidelity(None if made is None else made[0])
        settings = self.settings() | {"num_samples": len(x), "source": source, "draws": 0}
        return Measured(metrics, settings, x[:SHEET])

    def _fidelity(self, features: Features | None) -> dict[str, float]:
        """The distances of these features to the reference; empty on ranks that have neither."""
        if features is None or self._reference is None or self.extractor is None:
            return {}
        reference, root = self._reference
        return fidelity(
            features, reference, root, self.extractor, self.protocol.seed, self.device, in_full=self.in_full
        )
