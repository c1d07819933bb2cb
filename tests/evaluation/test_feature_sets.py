import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_gen.errors import UserError
from lightning_gen.evaluation import kernel_distance, manifold
from lightning_gen.evaluation.feature_sets import moments_of, require_sound, shuffled
from lightning_gen.evaluation.inception_score import inception_score

OF_PAIRS = {"kernel distance": kernel_distance.kernel_distance, "manifold": manifold.manifold_metrics}


@pytest.mark.parametrize("num", [0, 1, 7, 100])
def test_an_order_holds_every_index_once(num):
    assert sorted(shuffled(num, 3).tolist()) == list(range(num))


def test_the_order_is_pinned():
    assert shuffled(8, 0).tolist() == [6, 2, 1, 7, 3, 0, 5, 4]  # else stored numbers would change with a release
    assert shuffled(8, 1).tolist() != shuffled(8, 0).tolist()


@pytest.mark.parametrize("measure", OF_PAIRS.values(), ids=OF_PAIRS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_values_that_are_not_finite_are_refused(measure, bad, side):
    sets = [torch.zeros(200, 3), torch.zeros(200, 3)]
    sets[side][17, 2] = bad
    with pytest.raises(UserError, match="NaN or infinite"):
        measure(*sets)


def test_how_many_are_not_finite_is_told():
    features = torch.zeros(600, 3)
    features[[5, 9, 300], 1] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    features[9] = float("nan")
    with pytest.raises(UserError, match="NaN or infinite for 3 of 600 examples: choose another --extractor"):
        require_sound(torch.zeros(7, 3), features)


def test_moments_do_not_depend_on_the_parts():
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    found = moments_of(features.split(7), 3)
    torch.testing.assert_close(found.mean, features.double().mean(0))
    torch.testing.assert_close(found.cov, features.double().T.cov())
    assert found.count == 50


@pytest.mark.parametrize("measure", OF_PAIRS.values(), ids=OF_PAIRS)
def test_sets_of_different_widths_are_refused(measure):
    with pytest.raises(UserError, match="samples have 3 features and the reference has 4"):
        measure(torch.zeros(200, 3), torch.zeros(200, 4))


def test_logits_are_looked_at_too():
    with pytest.raises(UserError, match="NaN or infinite"):
        inception_score(torch.full((20, 3), float("nan")))
    with pytest.raises(UserError, match=r"shape \(20,\)"):
        require_sound(torch.zeros(20))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor made inside."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("chunk", [16, 50])
def test_never_are_all_pairs_held(monkeypatch, chunk):
    x, y = torch.randn(2, 300, 4, generator=torch.Generator().manual_seed(0)).unbind()
    for module in (kernel_distance, manifold):
        monkeypatch.setattr(module, "CHUNK", chunk)
    for measure in (lambda: kernel_distance.kernel_distance(x, y, 1), lambda: manifold.manifold_metrics(x, y)):
        with Largest() as largest:
            measure()
        assert largest.elements <= max(300 * 5, chunk * chunk)
