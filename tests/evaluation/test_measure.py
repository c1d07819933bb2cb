"""A measurement of some indices is the part of the measurement of all."""

import warnings

import torch

from lightning_gen.evaluation import measure
from lightning_gen.evaluation.extractors import RawFeatures


def built(model):
    module = model()
    module.configure_model()
    return module.eval()


def test_samples_of_some_indices_are_those_of_all(model):
    whole = torch.cat(list(measure.samples(built(model), range(150), 40, seed=1)))
    part = list(measure.samples(built(model), range(61, 132), 7, seed=1))
    assert [len(batch) for batch in part] == [7] * 10 + [1]
    torch.testing.assert_close(torch.cat(part), whole[61:132])
    assert list(measure.samples(built(model), range(5, 5), 7, seed=1)) == []


def test_likelihoods_of_some_indices_are_those_of_all(model, data):
    module, split, seen = built(model), data().split("train"), []
    whole = measure.concatenated(measure.likelihood(module, split, range(64), 64, 1, draws=2))
    shares = [range(0), range(0, 21), range(21, 64)]
    parts = [p for share in shares for p in measure.likelihood(module, split, share, 5, 1, 2, advance=seen.append)]
    several = measure.concatenated(parts)
    assert sum(seen) == 64 and several.kind == whole.kind and several.num_dims == whole.num_dims
    torch.testing.assert_close(several.log_prob, whole.log_prob, rtol=1e-5, atol=1e-5)
    assert several.terms.keys() == whole.terms.keys()
    for name, term in several.terms.items():
        torch.testing.assert_close(term, whole.terms[name], rtol=1e-5, atol=1e-5)


def test_sums_over_nothing_are_zeros_and_no_cause_of_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = measure.statistics(iter([]), None, RawFeatures())
        assert nothing.num_samples == 0 and nothing.update_called
    some = measure.statistics(iter([torch.ones(3, 2), torch.zeros(1, 2)]), None, RawFeatures())
    assert some.num_samples == 4 and some.feature_sum.tolist() == [3.0, 3.0]
