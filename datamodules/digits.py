"""scikit-learn's handwritten digits (Alpaydin & Kaynak 1998, the optdigits test set): 1797 upright 8x8 greys."""

from __future__ import annotations

from typing import Any

import torch

from datamodules.base import DataModule, Examples
from datamodules.stratify import stratified
from lightning_gen.random_source import derive_seed

SIZES = {"extractor": 447, "real": 600, "val": 150, "test": 600}
"""The disjoint parts of the 1797 images. `train`, what models are trained on, is `extractor` and `real` together."""


class Digits(DataModule):
    """Digits as integers {0..16}, uint8 [1, 8, 8], in class-stratified splits.

    `test` (600) is the reference of the Frechet distance: neither the models nor the shipped extractor have seen it.
    The extractor is fitted on `extractor` (447) alone, so that `real` (600), the other training images, is as new to it
    as `test` is: the distance from `real` to `test` is the floor of a table. Generated samples are 600 too: the bias of
    a Frechet distance falls as 1/N, so only equal N compare.

    Args:
        split_seed: which images are in which split. The shipped extractor belongs to 0; any other puts images that it
            was fitted on into `real` and `test`.
        kwargs: the batch sizes of `DataModule`.
    """

    shape = (1, 8, 8)
    levels = 17
    num_classes = 10
    floor = "real"
    extractor = {  # noqa: RUF012
        "class_path": "lightning_gen.evaluation.extractors.ShippedClassifier",
        "init_args": {"name": "digits"},
    }

    def __init__(self, split_seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.split_seed = split_seed

    def load(self) -> dict[str, Examples]:
        from sklearn.datasets import load_digits

        data = load_digits()
        x, y = torch.from_numpy(data.images).to(torch.uint8).unsqueeze(1), torch.from_numpy(data.target).long()
        parts = dict(zip(SIZES, stratified(y, list(SIZES.values()), derive_seed("digits", self.split_seed))))
        parts["train"] = torch.cat([parts["extractor"], parts["real"]]).sort().values
        return {name: Examples(x[index], y[index]) for name, index in parts.items()}


class BinaryDigits(Digits):
    """The same images in two levels, uint8 {0, 1}: 1 where the grey is at least half of the full one."""

    levels = 2

    def load(self) -> dict[str, Examples]:
        return {name: Examples((split.x >= 8).to(torch.uint8), split.y) for name, split in super().load().items()}
