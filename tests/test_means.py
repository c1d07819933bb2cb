"""Means over examples: numpy's, however the examples are cut."""

import numpy as np
import pytest
import torch

from lightning_gen.means import MeanOverExamples


def test_mean_and_standard_error():
    values = np.random.default_rng(0).normal(100.0, 3.0, 1001)
    means = MeanOverExamples()
    for part in np.array_split(values, [1, 17, 400, 999]):
        means.add("a", torch.from_numpy(part))
    mean, error = means.compute()["a"]
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(1001), rel=1e-8)


def test_low_precision_values_are_summed_in_float64():
    means = MeanOverExamples()
    for _ in range(300):
        means.add("a", torch.ones(10, dtype=torch.bfloat16))
    assert means.compute()["a"] == (1.0, 0.0)


def test_nothing_gives_nothing():
    assert MeanOverExamples().compute() == {}
