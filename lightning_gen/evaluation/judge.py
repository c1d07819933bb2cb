"""Measures models on one data set under one protocol, alone or among several ranks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from lightning_gen.errors import NoLikelihood, UserError
from lightning_gen.evaluation import measure
from lightning_gen.evaluation.budget import within
from lightning_gen.evaluation.features import FeatureCollector, Features
from lightning_gen.evaluation.likelihoods import estimator_of, likelihood, likelihood_metrics
from lightning_gen.evaluation.measured import SHEET, Measured
from lightning_gen.evaluation.parts import Parts
from lightning_gen.evaluation.progress import Stopwatch
from lightning_gen.evaluation.protocol import Protocol
from lightning_gen.evaluation.provenance import digest_of_code
from lightning_gen.evaluation.subject import digest_of_weights
from lightning_gen.evaluation.yardstick import Yardstick
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.specs import describe, overridden


class Judge(Yardstick):
    """Measures any number of models on one data set under one protocol.

    Without a distance the likelihood is all there is.
    """

    def under(self, protocol: Protocol) -> Self:
        """A judge of the same yardstick, whose features are shared, that samples or bounds models as `protocol` says.

        Its times are its own.
        """
        num = self.protocol.num_samples if protocol.num_samples is None else protocol.num_samples
        protocol = replace(protocol, num_samples=num)
        own = {"sampler": None, "nfe": None, "likelihood": self.protocol.likelihood}
        if replace(protocol, **own) != replace(self.protocol, **own):
            raise ValueError("another reference, extractor, number of samples, batch size or seed needs another judge")
        other = copy.copy(self)
        other.protocol, other.clock = protocol, Stopwatch()
        return other

    def check(self, module: GenerativeModule) -> None:
        """Raises UserError where the protocol's sampler or estimator cannot be made of the module's own."""
        self._sampler(module)
        if self.protocol.likelihood.draws:
            self._estimator(module)

    def depends_on(self, module: GenerativeModule) -> dict[str, Any]:
        """{kind of `Parts`: primitives on which its parts depend}."""
        own, sampler = self.settings(), self._sampler(module)
        common = [digest_of_weights(module), module.recipe, digest_of_code()]
        common += [own[key] for key in ("seed", "device", "torch")]
        data = [own[key] for key in ("reference_fingerprint", "draws")]
        return {
            "samples": [*common, describe(sampler), *guides(sampler)],
            "likelihood": [*common, *data, describe(self._estimator(module))],
        }

    def of_model(self, module: GenerativeModule, parts: Parts | None = None, with_likelihood: bool = True) -> Measured:
        """The model's distances and likelihood, as far as there are such; on ranks other than the first without metrics.

        Args:
            parts: keeps what is done, for an evaluation that may be cut.
            with_likelihood: False where somebody else takes it as the protocol says.

        Raises:
            UserError: there is neither.
        """
        protocol, parts = self.protocol, parts or Parts()
        sampler = self._sampler(module)
        module.to(self.device).eval()
        features, kept = self._drawn(module, sampler, parts)
        found = self._likelihood(module, parts) if protocol.likelihood.draws and with_likelihood else None
        with self.clock.on("waiting for ranks"):
            states = None if found is None else [part.state() for part in found]
            shares = self.ranks.exchange((kept, states, getattr(sampler, "mean_nfe", None)))
        sheet = torch.cat([batch for batches, *_ in shares for batch in batches])[:SHEET] if self.num_drawn else None
        measured = None
        if all(states is not None for _, states, _ in shares):
            measured = Likelihood.concatenated([Likelihood.from_state(s) for _, states, _ in shares for s in states])
        of_likelihood = {} if measured is None else likelihood_metrics(measured)
        with self.clock.on("distances"):
            metrics = self._fidelity(features) | of_likelihood
        if measured is None and self.extractor is None and with_likelihood:
            raise UserError(
                f"nothing to measure: {type(module).__name__} has no likelihood, and {self.left_out or 'no samples'} "
                "(give --extractor)"
            )
        settings = {
            **self.settings(),
            "sampler": describe(sampler),
            **({"guides": asked} if (asked := guides(sampler)) else {}),
            **cost(sampler, [mean for *_, mean in shares if mean is not None]),
            "weights": module.weights,
            "model": type(module).__name__,
            "likelihood_kind": measured.kind if measured is not None else None,
        }
        if protocol.likelihood.draws:
            settings["estimator"] = describe(self._estimator(module))
            settings |= logsnr_ends(module)
        return Measured(metrics, settings, sheet, measured, symbols=module.symbols)

    def _sampler(self, module: GenerativeModule) -> Any:
        sampler = overridden(getattr(module, "sampler", None), self.protocol.sampler)
        return sampler if self.protocol.nfe is None else within(sampler, self.protocol.nfe)

    def _estimator(self, module: GenerativeModule) -> Any:
        return estimator_of(module, self.protocol.likelihood.estimator, "--likelihood.estimator")

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
        if parts is not None and parts.reused:  # an earlier attempt's or evaluation's, whose time is not in these
            timing["taken_up"] = dict(parts.reused)
        elif self.num_drawn:
            timing["images_per_s"] = round(self.num_drawn / seconds["total"], 3)
            timing["sampling_images_per_s"] = round(self.num_drawn / max(seconds["sampling"], 1e-9), 3)
        return timing


def logsnr_ends(module: GenerativeModule) -> dict[str, Any]:
    """`logsnr_ends`, log-SNR at the noise's and at the data's end, of a diffusion whose schedule does not learn them.

    Its likelihood depends on them: at another end another part of the noise is left to the decoder.
    """
    schedule = getattr(module, "schedule", None)
    ends = [getattr(schedule, name, None) for name in ("logsnr_min", "logsnr_max")]
    if None in ends or getattr(schedule, "learned", False):
        return {}
    return {"logsnr_ends": [round(end, 2) for end in ends]}


def guides(sampler: Any) -> list[str]:
    """Digests of the weights of further models that decide what is drawn, such as a classifier's."""
    return [digest_of_weights(model) for model in getattr(sampler, "further_models", ())]


def cost(sampler: Any, means: list[float]) -> dict[str, Any]:
    """`nfe`, network evaluations a sample, as a setting; `nfe_mean`, over the ranks' means, where it was each sample's own."""
    nfe = getattr(sampler, "nfe", None)
    return {"nfe": nfe, "nfe_mean": sum(means) / len(means)} if means else {"nfe": nfe}
