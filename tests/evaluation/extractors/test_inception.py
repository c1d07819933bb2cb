"""Random Inception weights through this project, torch-fidelity and torchmetrics: the same features, the same numbers.

The images are enlarged to 75 pixels a side and not 299, in all three alike, where there are many of them.
"""

import pytest
import torch
from torch.utils.data import Dataset

from lightning_gen.evaluation.extractors import Inception
from lightning_gen.evaluation.frechet import FeatureStatistics, Reference, frechet_distance
from lightning_gen.evaluation.inception_score import inception_score
from lightning_gen.evaluation.kernel_distance import kernel_distance
from lightning_gen.evaluation.manifold import manifold_metrics

torch_fidelity = pytest.importorskip("torch_fidelity")
NUM = 150


class Pictures(Dataset):
    """As torch-fidelity takes them."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index]


@pytest.fixture(scope="module")
def sets(photographs):
    """Generated and real pictures."""
    return photographs(NUM, seed=1, shift=15.0), photographs(NUM, seed=2)


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_fidelity.FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 75)
        yield patch


@pytest.fixture(scope="module")
def ours(inception_weights, sets):
    extractor = Inception(inception_weights, layer="64")
    generated, real = (torch.cat([extractor(part, 256) for part in x.split(50)]) for x in sets)

    def moments(features):
        statistics = FeatureStatistics(extractor.num_features)
        statistics.update(features)
        return statistics.compute()

    return {
        "fid": frechet_distance(moments(generated), Reference.from_moments(moments(real))),
        "kid": kernel_distance(generated, real, num_blocks=1)[0],
        **manifold_metrics(generated, real),
    }


def test_torch_fidelity_gives_the_same_numbers(inception_weights, sets, ours):
    layers = {f"feature_layer_{metric}": "64" for metric in ("fid", "kid", "prc")}
    theirs = torch_fidelity.calculate_metrics(
        input1=Pictures(sets[0]),
        input2=Pictures(sets[1]),
        **{"fid": True, "kid": True, "prc": True, "cuda": False, "verbose": False, "cache": False},
        **{"kid_subsets": 1, "kid_subset_size": NUM, "save_cpu_ram": True, "batch_size": 50},
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=inception_weights,
        **layers,
    )
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert ours["precision"] == pytest.approx(theirs["precision"], rel=1e-5)
    assert ours["recall"] == pytest.approx(theirs["recall"], rel=1e-5)
    assert 0.1 < ours["precision"] < 0.9 and 0.1 < ours["recall"] < 0.9  # neither end, where anything would agree


def test_torchmetrics_gives_the_same_numbers(inception_weights, sets, ours):
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    fid = FrechetInceptionDistance(64, feature_extractor_weights_path=inception_weights, antialias=False)
    fid.set_dtype(torch.float64)
    kid = KernelInceptionDistance(fid.inception, subsets=1, subset_size=NUM)
    for metric in (fid, kid):
        for x, real in zip(sets, (False, True)):
            for part in x.split(50):
                metric.update(part, real=real)
    assert ours["fid"] == pytest.approx(float(fid.compute()), rel=1e-5)
    assert ours["kid"] == pytest.approx(float(kid.compute()[0]), rel=1e-5)


def test_the_inception_score_is_of_the_same_logits(inception_weights, sets):
    extractor = Inception(inception_weights, layer="64")
    logits = extractor.logits(sets[0][:30], 256)
    theirs = torch_fidelity.calculate_metrics(
        input1=Pictures(sets[0][:30]),
        **{
            "isc": True,
            "isc_splits": 1,
            "samples_shuffle": False,
            "cuda": False,
            "verbose": False,
            "cache": False,
            "save_cpu_ram": True,
        },
        feature_extractor_weights_path=inception_weights,
    )["inception_score_mean"]
    assert inception_score(logits, splits=1)[0] == pytest.approx(theirs, rel=1e-5)
    assert theirs > 1.05


def test_the_features_are_those_of_the_libraries(inception_weights, photographs, small):
    from torchmetrics.image.fid import NoTrainInceptionV3

    small.undo()
    x = photographs(3, seed=3)
    wanted = ["2048", "logits_unbiased"]
    features, logits = Inception(inception_weights).features_and_logits(x, 256)
    theirs = torch_fidelity.FeatureExtractorInceptionV3("inception-v3-compat", wanted, inception_weights)(x)
    metrics = NoTrainInceptionV3("inception-v3-compat", wanted[:1], inception_weights, antialias=False)(x)
    assert features.shape == (3, 2048) and logits.shape == (3, 1008)
    scale = float(features.abs().max())
    torch.testing.assert_close(features, theirs[0], rtol=1e-6, atol=1e-6 * scale)
    torch.testing.assert_close(features, metrics, rtol=1e-6, atol=1e-6 * scale)
    torch.testing.assert_close(logits, theirs[1], rtol=1e-5, atol=1e-6 * float(logits.abs().max()))
    assert features.std(0).max() > 0.01 * scale
