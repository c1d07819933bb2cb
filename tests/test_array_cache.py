"""What is made once: mapped afterwards, whole or made again, and never in the way."""

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_gen.array_cache import Column, cache_folder, cached, in_memory, look_up

ARRAYS = {"train.x": np.arange(6000, dtype=np.uint8).reshape(1000, 6), "train.y": np.arange(1000)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of its own for every test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LIGHTNING_GEN_CACHE", str(folder))
    return folder


class Maker:
    """Makes two arrays in chunks of 300 rows and counts how often."""

    def __init__(self, arrays=ARRAYS) -> None:
        self.arrays, self.calls = arrays, 0

    def __call__(self) -> Iterator[Column]:
        self.calls += 1
        for name, array in self.arrays.items():
            yield Column(name, array.shape, array.dtype.type, (array[k : k + 300] for k in range(0, len(array), 300)))


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


def test_what_was_made_is_mapped_and_not_made_again(cache):
    maker = Maker()
    first, second = cached("data", [1], maker), cached("data", [1], maker)
    assert maker.calls == 1
    assert look_up("data", [2]) is None and same(look_up("data", [1]), ARRAYS)
    assert same(first, ARRAYS) and same(first, second)
    assert all(isinstance(array, np.memmap) for array in (*first.values(), *second.values()))
    assert len(list(cache.iterdir())) == 1  # nothing partial is left


def test_another_key_or_name_is_another_entry():
    maker = Maker()
    for name, key in (("a", [1]), ("a", [2]), ("b", [1]), ("a", {"k": 1}), ("a", {"k": None})):
        cached(name, key, maker)
    assert maker.calls == 5


def test_a_mapped_array_becomes_a_tensor_in_silence_and_writing_to_it_reaches_no_file():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = torch.from_numpy(cached("data", [1], Maker())["train.x"])
        tensor.zero_()
    assert same(cached("data", [1], Maker()), ARRAYS)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("harm", [truncate, lambda file: os.truncate(file, 0), lambda file: file.unlink()])
@pytest.mark.parametrize("name", ["train.x.npy", "train.y.npy", "arrays.json"])
def test_an_entry_that_is_not_whole_is_made_again(cache, harm, name):
    maker = Maker()
    cached("data", [1], maker)
    harm(next(cache.glob(f"*/{name}")))
    assert same(cached("data", [1], maker), ARRAYS)
    calls = maker.calls
    cached("data", [1], maker)
    assert (calls, maker.calls) == (2, 2)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("name", ["train.x.npy", "train.y.npy", "arrays.json"])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_an_entry_in_which_a_bit_flipped_is_made_again(cache, name, share):
    maker = Maker()
    cached("data", [1], maker)
    file = next(cache.glob(f"*/{name}"))
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1
    file.write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert look_up("data", [1]) is None and same(cached("data", [1], maker), ARRAYS)
    assert all("is damaged: made again" in str(each.message) for each in said)
    assert same(look_up("data", [1]), ARRAYS) and maker.calls == 2 and len(list(cache.iterdir())) == 1


def test_a_folder_that_cannot_be_written_leaves_the_arrays_in_memory(cache):
    cache.write_text("a file stands where the folder should be")
    maker = Maker()
    with pytest.warns(UserWarning, match="cannot write .*LIGHTNING_GEN_CACHE names another folder"):
        found = cached("data", [1], maker)
    assert same(found, ARRAYS)
    assert not any(isinstance(array, np.memmap) for array in found.values())


def test_a_full_disk_leaves_nothing_half_written(cache, monkeypatch):
    def full(file, header):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        found = cached("data", [1], Maker())
    assert same(found, ARRAYS) and list(cache.iterdir()) == []


def test_what_the_maker_raises_is_not_taken_for_the_cache(cache):
    def broken():
        yield from Maker()()
        raise FileNotFoundError("the source is gone")

    with warnings.catch_warnings(), pytest.raises(FileNotFoundError, match="the source is gone"):
        warnings.simplefilter("error")
        cached("data", [1], broken)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("shape, dtype", [((1001, 6), np.uint8), ((1000, 5), np.uint8), ((1000, 6), np.int64)])
@pytest.mark.parametrize("make", [lambda columns: cached("data", [1], lambda: columns), in_memory])
def test_rows_other_than_announced_are_refused(make, shape, dtype, cache):
    with pytest.raises(ValueError, match=r"train\.x: .*rows"):
        make([Column("train.x", shape, dtype, [ARRAYS["train.x"]])])
    assert not cache.exists() or list(cache.iterdir()) == []


def test_rows_that_do_not_lie_together_are_written_in_order():
    turned = np.arange(12, dtype=np.uint8).reshape(3, 4).T
    assert same(cached("data", [1], Maker({"x": turned})), {"x": turned})


def test_many_that_make_one_entry_at_once_all_have_it(cache):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: cached("data", [1], Maker()), range(24)))
    assert all(same(arrays, ARRAYS) for arrays in found)
    assert len(list(cache.iterdir())) == 1


def test_the_folder_follows_the_environment(cache, monkeypatch, tmp_path):
    assert cache_folder() == cache
    monkeypatch.delenv("LIGHTNING_GEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "lightning_gen"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "lightning_gen"
