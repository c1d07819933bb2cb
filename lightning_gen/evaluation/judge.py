"""Measures models on one data set under one protocol, alone or among several ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_gen.errors import NoLikelihood, UserError, WeightsUnavailable
from lightning_gen.evaluation import measure
from lightning_gen.evaluation.extractors import Extractor, choose
from lightning_gen.evaluation.features import FeatureCollector, Features
from lightning_gen.evaluation.fidelity import check_counts, fidelity
from lightning_gen.evaluation.frechet import Reference
from lightning_gen.evaluation.likelihoods import likelihood, likelihood_metrics
from lightning_gen.evaluation.measured import SHEET, Measured
from lightning_gen.evaluation.parts import Parts
from lightning_gen.evaluation.progress import SILENT, Progress, Stopwatch
from lightning_gen.evaluation.protocol import Protocol
from lightning_gen.evaluation.provenance import provenance
from lightning_gen.evaluation.ranks import ALONE, Ranks
from lightning_gen.evaluation.reference import DataFeatures
from lightning_gen.evaluation.subject import digest_of_weights
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.random_source import GeneratorSource
from lightning_gen.specs import build, describe, overridden

FLOOR, CEILING = "floor", "ceiling"


class Judge:
    """Measures any number of models on one data set under one protocol; reference and extractor are made once.

    Among several ranks each measures its share; the first has the result. Where neither the protocol nor the data set
    names an extractor, or no samples are asked for, there is no distance, and the likelihood is all there is.

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
    ) -> None:
        self.data, self.device, self.ranks, self.show = data, device, ranks, show
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
            advance = show.stage(f"features of {protocol.reference}", len(ranks.share(len(self.split))))
            with self.clock.on("reference"):
                self._reference = self._data_features.of(self.split.x, self.split.fingerprint(), advance, root=True)

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

    def depends_on(self, module: GenerativeModule) -> dict[str, Any]:
        """{kind of `Parts`: primitives on which its parts depend}."""
        own = self.settings()
        common = [digest_of_weights(module), *(own[key] for key in ("seed", "device", "torch", "version", "commit"))]
        sampler = overridden(getattr(module, "sampler", None), self.protocol.sampler)
        data = [own[key] for key in ("reference_fingerprint", "draws")]
        return {
            "samples": [*common, describe(sampler)],
            "likelihood": [*common, *data, describe(self._estimator(module))],
        }

    # ---- data ------------------------------------------------------------------------------------------------------

    def baselines(self, floor: str | None = None) -> dict[str, Measured]:
        """What real data score, and noise, as if a model had made them; nothing without a distance.

        Args:
            floor: the split that stands for perfect samples; the data set's own choice by default.
        """
        if self.extractor is None:
            return {}
        name = floor or getattr(self.data, "floor", "val")
        if name == self.protocol.reference:  # to itself the distance is 0
            name = "test" if name != "test" else "val"
        num = self.protocol.num_samples
        rng = GeneratorSource(self.protocol.seed).fork("ceiling")
        shape = (num, *self.data.shape)
        levels = self.data.levels
        noise = rng.normal(shape) if levels is None else rng.integers(levels, shape).to(self.split.x.dtype)
        real = self._split(name)
        found = {}
        for label, x, source, content in (
            (FLOOR, real.x[:num], f"real data, split {name!r}", real.fingerprint()),
            (CEILING, noise, "noise", ["noise", self.protocol.seed, list(shape)]),
        ):
            if len(x) > self.extractor.num_features:
                with self.clock.on("floor and ceiling"):
                    found[label] = self.of_data(x, source, content)
        return found

    def of_data(self, x: Tensor, source: str, content: Any) -> Measured:
        """A set of data as if a model had made it.

        Args:
            source: what it is, for people.
            content: primitives that tell it from any other data.
        """
        if self.extractor is None or self._data_features is None:
            raise UserError("data have no likelihood, and without an extractor no distance")
        advance = self.show.stage(f"features of {source}", len(self.ranks.share(len(x))))
        made = self._data_features.of(x, content, advance)
        metrics = self._fidelity(None if made is None else made[0])
        settings = self.settings() | {"num_samples": len(x), "source": source, "draws": 0}
        return Measured(metrics, settings, x[:SHEET])

    def _fidelity(self, features: Features | None) -> dict[str, float]:
        """The distances of these features to the reference; empty on ranks that have neither."""
        if features is None or self._reference is None or self.extractor is None:
            return {}
        reference, root = self._reference
        return fidelity(features, reference, root, self.extractor, self.protocol.seed)

    # ---- models ----------------------------------------------------------------------------------------------------

    def of_model(self, module: GenerativeModule, parts: Parts | None = None, with_likelihood: bool = True) -> Measured:
        """The model's distances and likelihood, as far as there are such; on ranks other than the first without metrics.

        Args:
            parts: keeps what is done, for an evaluation that may be cut.
            with_likelihood: False where somebody else takes it as the protocol says.

        Raises:
            UserError: there is neither.
        """
        protocol, parts = self.protocol, parts or Parts()
        sampler = overridden(getattr(module, "sampler", None), protocol.sampler)
        module.to(self.device).eval()
        features, kept = self._drawn(module, sampler, parts)
        found = self._likelihood(module, parts) if protocol.likelihood.draws and with_likelihood else None
        with self.clock.on("waiting for ranks"):
            shares = self.ranks.exchange((kept, None if found is None else [part.state() for part in found]))
        sheet = torch.cat([batch for batches, _ in shares for batch in batches])[:SHEET] if self.num_drawn else None
        measured = None
        if all(states is not None for _, states in shares):
            measured = Likelihood.concatenated([Likelihood.from_state(s) for _, states in shares for s in states])
        with self.clock.on("distances"):
            metrics = self._fidelity(features)
        if measured is not None:
            metrics |= likelihood_metrics(measured)
        if measured is None and self.extractor is None and with_likelihood:
            raise UserError(
                f"nothing to measure: {type(module).__name__} has no likelihood, and {self.left_out or 'no samples'} "
                "(give --extractor)"
            )
        settings = {
            **self.settings(),
            "sampler": describe(sampler),
            "nfe": getattr(sampler, "nfe", None),
            "weights": module.weights,
            "model": type(module).__name__,
            "likelihood_kind": measured.kind if measured is not None else None,
        }
        if protocol.likelihood.draws:
            settings["estimator"] = describe(self._estimator(module))
        return Measured(metrics, settings, sheet, measured)

    def _estimator(self, module: GenerativeModule) -> Any:
        return overridden(getattr(module, "bound", None), self.protocol.likelihood.estimator)

    def _drawn(self, module: GenerativeModule, sampler: Any, parts: Parts) -> tuple[Features | None, list[Tensor]]:
        """Features of all ranks' samples, on the first; and this rank's part of the sheet."""
        share = self.ranks.share(self.num_drawn)
        advance = self.ranks.watching(self.show.stage("sampling", len(share)))
        how = {"batch_size": self.protocol.batch_size, "seed": self.protocol.seed, "sampler": sampler}

        def draw(gap: range) -> Iterator[Tensor]:
            return measure.samples(module, gap, **how, advance=advance)

        drawn = parts.resumed("samples", share, draw, Tensor.cpu, Tensor.clone, advance)
        collector = None
        if self.extractor is not None:
            collector = FeatureCollector(self.extractor, self.device, self.ranks, share.start)
        kept: list[Tensor] = []
        position = share.start
        for batch in self.clock.each("sampling", drawn):
            if position < SHEET:
                kept.append(batch[: SHEET - position].cpu())
            position += len(batch)
            if collector is not None:
                with self.clock.on("features"):
                    collector.add(batch.to(self.device), self.data.levels)
        if collector is None:
            return None, kept
        with self.clock.on("waiting for ranks"):
            self.ranks.exchange()
        return collector.gathered(), kept

    def _likelihood(self, module: GenerativeModule, parts: Parts) -> list[Likelihood] | None:
        """Of this rank's share of the reference split; None where the family has none."""
        share = self.ranks.share(len(self.split))
        advance = self.ranks.watching(self.show.stage("likelihood", len(share)))
        protocol = self.protocol
        how = {"batch_size": protocol.batch_size, "seed": protocol.seed, "draws": protocol.likelihood.draws}
        estimator = self._estimator(module)

        def take(gap: range) -> Iterator[Likelihood]:
            return likelihood(module, self.split, gap, **how, estimator=estimator, advance=advance)

        made = parts.resumed("likelihood", share, take, Likelihood.state, Likelihood.from_state, advance)
        with suppress(NoLikelihood):
            return list(self.clock.each("likelihood", made))
        return None

    def timing(self, parts: Parts | None = None) -> dict[str, Any]:
        """Where the time of this process went since the judge was made; and samples a second, of all ranks, in all of it,
        where one model was measured.

        Args:
            parts: what was given to `of_model`.
        """
        seconds = {"total": self.clock.total(), **self.clock.seconds}
        timing: dict[str, Any] = {"seconds": {what: round(value, 3) for what, value in seconds.items()}}
        timing["ranks"] = self.ranks.size
        if parts is not None and parts.reused:  # an earlier attempt's, whose time is not known
            timing["taken_up"] = dict(parts.reused)
        elif self.num_drawn:
            timing["images_per_s"] = round(self.num_drawn / seconds["total"], 3)
            timing["sampling_images_per_s"] = round(self.num_drawn / max(seconds["sampling"], 1e-9), 3)
        return timing
