"""The same features through torch-fidelity and torchmetrics."""

import warnings

import pytest
import torch
from torch import nn

from lightning_gen.evaluation.feature_sets import shuffled
from lightning_gen.evaluation.frechet import FeatureStatistics, Reference, frechet_distance
from lightning_gen.evaluation.inception_score import inception_score
from lightning_gen.evaluation.kernel_distance import kernel_distance
from lightning_gen.evaluation.manifold import manifold_metrics

fidelity = pytest.importorskip("torch_fidelity")
from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc  # noqa: E402
from torchmetrics.image import FrechetInceptionDistance, InceptionScore, KernelInceptionDistance  # noqa: E402

NUM, DIM = 400, 24


def features_of(seed, scale):
    """Correlated, skewed, all positive, as an Inception's pooled features are."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0)) / DIM**0.5
    return nn.functional.softplus(scale * torch.randn(NUM, DIM, generator=generator) @ mix + 0.2)


GENERATED, REAL = features_of(1, 1.2), features_of(2, 1.0)
LOGITS = 4 * GENERATED[:, :10].double()


class AsTheyAre(nn.Module):
    """What torchmetrics takes for a network."""

    num_features = DIM

    def forward(self, features):
        return features


def agrees(value):
    return pytest.approx(value, rel=1e-5)


@pytest.fixture(scope="module")
def fid():
    sums = []
    for features in (GENERATED, REAL):
        sums.append(FeatureStatistics(DIM))
        sums[-1].update(features)
    return frechet_distance(sums[0].compute(), Reference.from_moments(sums[1].compute()))


def through_torchmetrics(metric):
    metric.update(REAL.double(), real=True)
    metric.update(GENERATED.double(), real=False)
    return metric.compute()


def test_fid_of_torch_fidelity(fid):
    stats = [metric_fid.fid_features_to_statistics(features.double()) for features in (GENERATED, REAL)]
    assert fid == agrees(metric_fid.fid_statistics_to_metric(*stats, False)["frechet_inception_distance"])


def test_fid_of_torchmetrics(fid):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = through_torchmetrics(FrechetInceptionDistance(feature=AsTheyAre()))
    assert fid == agrees(theirs.item())


def test_kid_of_torch_fidelity():
    theirs = metric_kid.kid_features_to_metric(
        GENERATED.double(), REAL.double(), kid_subsets=1, kid_subset_size=NUM, verbose=False
    )
    assert kernel_distance(GENERATED, REAL, 1)[0] == agrees(theirs["kernel_inception_distance_mean"])


def test_kid_of_torchmetrics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = KernelInceptionDistance(feature=AsTheyAre(), subsets=1, subset_size=NUM)
        theirs, _ = through_torchmetrics(metric)
    assert kernel_distance(GENERATED, REAL, 1)[0] == agrees(theirs.item())


@pytest.mark.parametrize("neighbours", [3, 5])
def test_precision_and_recall_of_torch_fidelity(neighbours):
    theirs = metric_prc.prc_features_to_metric(
        GENERATED.double(), REAL.double(), prc_neighborhood=neighbours, verbose=False
    )
    ours = manifold_metrics(GENERATED, REAL, k=neighbours)
    assert 0 < ours["recall"] < ours["precision"] < 1 or 0 < ours["precision"] < ours["recall"] < 1
    assert (ours["precision"], ours["recall"]) == agrees((theirs["precision"], theirs["recall"]))


@pytest.mark.parametrize("splits", [1, 7, 10])
def test_inception_score_of_torch_fidelity(splits):
    theirs = metric_isc.isc_features_to_metric(LOGITS, splits)
    score, error = inception_score(LOGITS, splits)
    assert score == agrees(theirs["inception_score_mean"])
    if splits > 1:  # theirs divides by the number of splits
        assert error * (splits - 1) ** 0.5 == agrees(theirs["inception_score_std"])


@pytest.mark.parametrize("splits", [1, 10])
def test_inception_score_of_torchmetrics(monkeypatch, splits):
    monkeypatch.setattr(torch, "randperm", lambda num: shuffled(num, 2020))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = InceptionScore(feature=AsTheyAre(), splits=splits)
        metric.update(LOGITS)
        theirs, _ = metric.compute()
    assert inception_score(LOGITS, splits)[0] == agrees(theirs.item())
