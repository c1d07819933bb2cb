"""What one evaluation gives, and the files it is written to."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_gen.display import display_of
from lightning_gen.errors import UserError
from lightning_gen.likelihood import Likelihood
from lightning_gen.run_directory import sealed, write_atomically, write_csv, written_together

ENDINGS = (".png", ".txt", ".csv", "_logsnr.csv", "_logsnr.png", ".json")
"""Endings of an evaluation's files. The JSON comes last, when all is there."""

SHEET = 64
"""Samples kept for the picture beside the numbers."""


@dataclass(frozen=True)
class Measured:
    """Numbers, how they were measured, a few samples, the likelihood of each example, and where the time went.

    Of text `symbols` says what the samples' levels stand for.
    """

    metrics: dict[str, float]
    settings: dict[str, Any]
    samples: Tensor | None = None
    likelihood: Likelihood | None = None
    timing: dict[str, Any] = field(default_factory=dict)
    symbols: str | None = None

    def write(self, folder: Path, name: str, levels: int | None, baselines: dict[str, Measured] | None = None) -> Path:
        """folder/NAME.json; NAME.png, of text NAME.txt, the samples; NAME.csv, the terms of each example; NAME_logsnr.csv and
        .png, where along log-SNR a bound is lost. They replace an earlier evaluation's together, or not at all.
        """
        with written_together(folder, name, ENDINGS) as partial:
            self._write(partial, name, levels, baselines or {})
        return folder / f"{name}.json"

    def _write(self, folder: Path, name: str, levels: int | None, baselines: dict[str, Measured]) -> None:
        display = display_of(levels, self.symbols)
        content: dict[str, Any] = {"metrics": self.metrics, "settings": self.settings}
        if self.samples is not None:
            with suppress(UserError):  # data that cannot be shown
                display.save(self.samples, folder / f"{name}{display.suffix}")
        if self.likelihood is not None:
            self._write_likelihood(self.likelihood, folder, name)
            content["examples_sha256"] = hashlib.sha256((folder / f"{name}.csv").read_bytes()).hexdigest()
        if baselines:
            content["baselines"] = {
                label: {
                    "metrics": row.metrics,
                    "settings": {key: row.settings[key] for key in ("num_samples", "source")},
                }
                for label, row in baselines.items()
            }
        if self.timing:
            content["timing"] = self.timing
        write_atomically(folder / f"{name}.json", json.dumps(sealed(content), indent=2) + "\n")

    @staticmethod
    def _write_likelihood(likelihood: Likelihood, folder: Path, name: str) -> None:
        columns = {"log_prob_nats": likelihood.log_prob, **likelihood.terms}
        rows = ([i, *row] for i, row in enumerate(zip(*(c.tolist() for c in columns.values()))))
        write_csv(folder / f"{name}.csv", ["index", *columns], rows)
        if likelihood.profile is None:
            return
        from lightning_gen.evaluation.logsnr_profile import plot, profile_curve

        curve = profile_curve(likelihood.profile)
        num_dims = None if likelihood.kind.startswith("density") else likelihood.num_dims
        write_csv(folder / f"{name}_logsnr.csv", *curve.table(num_dims))
        plot({name: curve}, folder / f"{name}_logsnr.png", num_dims)
