"""A measurement of some indices is the part of the measurement of all."""

import torch

from lightning_gen.evaluation import measure


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
