import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors import Classifier, RawFeatures


class Signs(Classifier):
    name, digest, num_features = "signs", "0" * 16, 2

    def features_and_logits(self, x, levels):
        return x, -x


def test_only_canonical_features_are_called_fid():
    extractor = Signs()
    assert extractor.label == "FD[signs]"
    extractor.canonical = True
    assert extractor.label == "FID"


def test_a_classifier_is_an_extractor_by_its_features():
    x = torch.ones(3, 2)
    assert torch.equal(Signs()(x, None), x) and torch.equal(Signs().logits(x, None), -x)


def test_raw_features_are_the_vectors():
    vectors = torch.randn(5, 2, dtype=torch.float64)
    features = RawFeatures()(vectors, None)
    assert features.dtype == torch.float32
    assert torch.equal(features, vectors.float())


@pytest.mark.parametrize(
    ("x", "levels"), [(torch.zeros(5, 3), None), (torch.zeros(5, 2), 17), (torch.zeros(5, 2).long(), None)]
)
def test_raw_features_refuse_other_data(x, levels):
    with pytest.raises(UserError, match="raw features are for real vectors"):
        RawFeatures(2)(x, levels)
