"""What an extractor sees of a set of data: sums over all of it, and the features themselves of its first part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gen.errors import NonFiniteFeatures
from lightning_gen.evaluation.extractors import Classifier, Extractor
from lightning_gen.evaluation.frechet import FeatureStatistics, Moments
from lightning_gen.evaluation.ranks import ALONE, Ranks

KEPT = 50_000
"""Feature vectors that are kept of a set, its first by index. Moments are over all of it."""


@dataclass(frozen=True)
class Features:
    """Of a whole set, on the CPU.

    Attributes:
        moments: over all of the set.
        rows: [min(N, KEPT), d], float32, in the order of the set.
        logits: [min(N, KEPT), C], where the extractor is a classifier.
    """

    moments: Moments
    rows: Tensor
    logits: Tensor | None = None


class FeatureCollector:
    """Takes this rank's share of a set, batch by batch, and makes the `Features` of the whole.

    Args:
        extractor: of the features.
        device: of the model. Sums stay on a GPU, where NCCL reduces them; elsewhere they are taken on the CPU.
        start: index of the share's first example.
        what: the set is, for people.
    """

    def __init__(
        self,
        extractor: Extractor,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
        start: int = 0,
        what: str = "samples",
    ) -> None:
        self.extractor, self.ranks, self.what = extractor, ranks, what
        self._sums = FeatureStatistics(extractor.num_features, sync_on_compute=ranks.size > 1)
        self._sums.to(device if torch.device(device).type == "cuda" else "cpu")
        self._sums.update(torch.empty(0, extractor.num_features))  # torchmetrics warns of a rank that saw no batch
        self._rows: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._room = max(0, KEPT - start)
        self._seen = self._broken = 0

    def add(self, x: Tensor, levels: int | None) -> None:
        """A batch in the data's own domain; the next indices of the share."""
        if isinstance(self.extractor, Classifier):
            features, logits = self.extractor.features_and_logits(x, levels)
            self._logits.append(logits[: self._room].cpu())
        else:
            features = self.extractor(x, levels)
        self._sums.update(features)
        self._rows.append(features[: self._room].float().cpu())
        self._seen += len(x)
        self._broken += int((~torch.isfinite(features).all(1)).sum())
        self._room = max(0, self._room - len(x))

    def collect(self, batches: Iterable[Tensor], levels: int | None) -> None:
        """All of the share."""
        for batch in batches:
            self.add(batch, levels)

    def gathered(self) -> Features | None:
        """Of all ranks' shares, on the first; None on the others. All ranks meet here.

        Raises:
            NonFiniteFeatures: features are NaN or infinite; on all ranks.
            UserError: fewer than two examples in all.
        """
        counts = self.ranks.exchange((self._broken, self._seen))
        broken, num = (sum(column) for column in zip(*counts))
        if broken:  # known to all ranks
            raise NonFiniteFeatures(
                f"the extractor {self.extractor.name!r} gives NaN or infinite features for {broken} of {num} {self.what}: "
                "choose another --extractor"
            )
        parts = self.ranks.gather((self._rows, self._logits))
        moments = self._sums.compute()
        if parts is None:
            return None
        rows = torch.cat([row for rows, _ in parts for row in rows])
        logits = [row for _, logits in parts for row in logits]
        return Features(moments.to("cpu"), rows, torch.cat(logits) if logits else None)
