"""Features of data are computed once, and again as soon as anything they depend on is another."""

from typing import ClassVar

import pytest
import torch

from lightning_gen.evaluation.extractors import Extractor
from lightning_gen.evaluation.frechet import Reference
from lightning_gen.evaluation.ranks import ALONE
from lightning_gen.evaluation.reference import DataFeatures, shared_examples


class Counting(Extractor):
    """The pixels as features; counts the images it has seen."""

    name, num_features, digest = "counting", 3, "a" * 16
    seen: ClassVar[int] = 0

    def __call__(self, x, levels):
        Counting.seen += len(x)
        return x.float() / (levels - 1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_GEN_CACHE", str(tmp_path / "cache"))
    Counting.seen = 0
    return tmp_path / "cache"


def images(seed=0):
    return torch.randint(17, (40, 3), generator=torch.Generator().manual_seed(seed)).byte()


def of(x, content="one", extractor=None, levels=17, batch_size=16, root=True):
    return DataFeatures(extractor or Counting(), levels, "cpu", ALONE, batch_size).of(x, content, "images", root=root)


def test_what_was_computed_is_found_and_is_the_same():
    first, root = of(images())
    again, its_root = of(images(), batch_size=7)
    assert Counting.seen == 40
    assert torch.equal(first.rows, again.rows) and torch.equal(first.moments.cov, again.moments.cov)
    assert torch.equal(root.root, its_root.root) and first.moments.count == again.moments.count == 40
    expected = images().float() / 16
    torch.testing.assert_close(first.rows, expected)
    torch.testing.assert_close(first.moments.cov, expected.double().T.cov(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(root.root @ root.root, first.moments.cov, rtol=1e-9, atol=1e-12)


def other_weights():
    extractor = Counting()
    extractor.digest = "b" * 16
    return extractor


@pytest.mark.parametrize(
    "changed",
    [
        {"content": "two"},
        {"content": ["one", "val"]},
        {"levels": 256},
        {"x": images()[:39]},
        {"extractor": other_weights()},
        {"root": False},
    ],
    ids=["data", "split", "levels", "count", "weights", "root"],
)
def test_anything_else_is_computed(changed):
    of(images())
    before = Counting.seen
    found, root = of(**{"x": images(), **changed})
    assert Counting.seen == before + len(found.rows)
    assert (root is None) == (changed == {"root": False})


def test_another_version_of_torch_computes_again(monkeypatch):
    of(images())
    monkeypatch.setattr(torch, "__version__", "0.0.1")
    of(images())
    assert Counting.seen == 80


def test_an_entry_that_is_cut_short_is_made_again(cache):
    of(images())
    file = next(cache.glob("features-*/rows.npy"))
    file.write_bytes(file.read_bytes()[:-8])
    found, _ = of(images())
    assert Counting.seen == 80 and len(found.rows) == 40


def test_only_the_first_rows_are_kept_and_moments_are_of_all(monkeypatch):
    from lightning_gen.evaluation import features

    monkeypatch.setattr(features, "KEPT", 25)
    found, _ = of(images())
    assert torch.equal(found.rows, images()[:25].float() / 16)
    assert found.moments.count == 40
    torch.testing.assert_close(found.moments.mean, (images().float() / 16).double().mean(0))


@pytest.mark.parametrize("real", [False, True])
def test_examples_are_told_from_others_byte_by_byte(real):
    x = images().float() / 7 if real else images()
    others = x[10:30].clone()
    others[0, 2] += 1
    assert shared_examples(x, others) == pytest.approx(19 / 40)
    assert shared_examples(x, others[:0]) == 0.0 and shared_examples(others, x) == pytest.approx(19 / 20)


def test_examples_are_compared_without_all_of_them_in_memory():
    class Large:
        """More than a chunk of examples, of which slices alone are tensors."""

        shape, dtype = torch.Size((2500, 3)), torch.uint8

        def __len__(self):
            return 2500

        def __getitem__(self, rows):
            assert 0 < len(range(2500)[rows]) <= 1024
            return torch.arange(2500)[rows, None].div(torch.tensor([1, 10, 100]), rounding_mode="floor").byte()

    few = Large()[990:1040]
    assert shared_examples(few, Large()) == 1 and shared_examples(Large(), few) == pytest.approx(50 / 2500)


def test_the_root_is_of_the_reference():
    _, root = of(images())
    assert isinstance(root, Reference) and root.root.dtype == torch.float64
