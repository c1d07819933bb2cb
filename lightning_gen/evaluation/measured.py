"""What one evaluation gives, and the files it is written to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_gen.display import Display, display_of
from lightning_gen.errors import UserError
from lightning_gen.likelihood import Likelihood
from lightning_gen.run_directory import write_atomically, write_csv

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
        .png, where along log-SNR a bound is lost. The JSON comes last, when all is there.
        """
        folder.mkdir(parents=True, exist_ok=True)
        made = []
        display = display_of(levels, self.symbols)
        if self.samples is not None and _write_sheet(self.samples, display, folder / f"{name}{display.suffix}"):
            made.append(display.suffix)
        if self.likelihood is not None:
            made += self._write_likelihood(self.likelihood, folder, name)
        for ending in {".png", ".txt", ".csv", "_logsnr.csv", "_logsnr.png"} - {
            *made
        }:  # an earlier evaluation's, which had more
            (folder / f"{name}{ending}").unlink(missing_ok=True)
        content: dict[str, Any] = {"metrics": self.metrics, "settings": self.settings}
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
        write_atomically(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")
        return folder / f"{name}.json"

    @staticmethod
    def _write_likelihood(likelihood: Likelihood, folder: Path, name: str) -> list[str]:
        """Returns the endings of the files."""
        columns = {"log_prob_nats": likelihood.log_prob, **likelihood.terms}
        rows = ([i, *row] for i, row in enumerate(zip(*(c.tolist() for c in columns.values()))))
        write_csv(folder / f"{name}.csv", ["index", *columns], rows)
        if likelihood.profile is None:
            return [".csv"]
        from lightning_gen.evaluation.logsnr_profile import plot, profile_curve

        curve = profile_curve(likelihood.profile)
        num_dims = None if likelihood.kind.startswith("density") else likelihood.num_dims
        write_csv(folder / f"{name}_logsnr.csv", *curve.table(num_dims))
        plot({name: curve}, folder / f"{name}_logsnr.png", num_dims)
        return [".csv", "_logsnr.csv", "_logsnr.png"]


def _write_sheet(x: Tensor, display: Display, path: Path) -> bool:
    """False for data that cannot be shown."""
    try:
        display.save(x, path)
    except UserError:
        return False
    return True
