"""Image data: splits that nothing but their seed moves, and what is done to the images in them."""

import importlib.util
import shutil
import sys
import weakref
from fractions import Fraction

import pytest
import torch
from torch.nn import functional

from datamodules.binarization import Dynamic, Static, Threshold
from datamodules.pixels import quantize, resize_images
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource

NAMES = ("train", "val", "test")


def keys(examples) -> list[tuple[int, int]]:
    return [tuple(pixels) for pixels in examples.x[:, 0, 0, :2].tolist()]


# Splits


@pytest.mark.parametrize(
    "names, sizes, images",
    [
        (("train",), (240, 30, 30), 300),
        (("train", "test"), (270, 30, 60), 360),
        (("train", "val"), (270, 40, 30), 340),
        (("train", "val", "test"), (300, 40, 60), 400),
    ],
)
def test_the_splits_are_the_source_each_image_once(parts, names, sizes, images):
    data = parts(*names)
    found = [key for name in NAMES for key in keys(data.split(name))]
    assert tuple(len(data.split(name)) for name in NAMES) == sizes
    assert len(found) == len(set(found)) == images


def test_a_part_of_the_source_is_a_split_of_its_own(memory):
    x, y = memory().read("test")
    test = memory(split_seed=9).split("test")
    assert sorted(zip(keys(test), test.y.tolist())) == sorted(
        zip((tuple(p) for p in x[:, 0, 0, :2].tolist()), y.tolist())
    )


@pytest.mark.parametrize(
    "options, image",
    [
        ({"levels": 8}, lambda x: quantize(x, 8)),
        ({"pad": 2}, lambda x: functional.pad(x, [2] * 4)),
        ({"resize": 4}, lambda x: resize_images(x, 4)),
        ({"resize": 4, "pad": 1, "levels": 16}, lambda x: quantize(functional.pad(resize_images(x, 4), [1] * 4), 16)),
        ({"binarization": Threshold()}, lambda x: (x >= 128).byte()),
        ({"horizontal_flip": True}, lambda x: x),
        ({"batch_size": 60, "eval_batch_size": 7}, lambda x: x),
    ],
)
def test_no_option_moves_an_image_to_another_place(memory, options, image):
    plain, other = memory(), memory(**options)
    torch.manual_seed(3)
    for name in NAMES:
        assert torch.equal(other.split(name).x, image(plain.split(name).x))
        assert torch.equal(other.split(name).y, plain.split(name).y)
        assert tuple(other.split(name).x.shape[1:]) == other.shape


def test_the_split_seed_moves_images_between_train_and_val_alone(memory):
    a, same, b = memory(), memory(), memory(split_seed=1)
    for name in NAMES:
        assert a.split(name).fingerprint() == same.split(name).fingerprint()
        assert (a.split(name).fingerprint() == b.split(name).fingerprint()) == (name == "test")
    assert sorted(keys(a.split("train")) + keys(a.split("val"))) == sorted(
        keys(b.split("train")) + keys(b.split("val"))
    )


def test_every_stretch_of_a_split_has_the_classes_in_their_shares(memory):
    data = memory()
    for name in NAMES:
        y = data.split(name).y
        for first, last in ((0, 20), (3, 28), (0, len(y))):
            assert (torch.bincount(y[first:last], minlength=5) - (min(last, len(y)) - first) / 5).abs().max() < 2


# Subsets and classes


def test_a_subset_is_the_beginning_of_its_split_and_leaves_the_others_whole(memory):
    whole, few = memory(), memory(num_train=25, num_test=10)
    assert keys(few.split("train")) == keys(whole.split("train"))[:25]
    assert keys(few.split("test")) == keys(whole.split("test"))[:10]
    assert torch.equal(few.split("val").x, whole.split("val").x)
    assert torch.bincount(few.split("train").y).tolist() == [5] * 5


def test_chosen_classes_keep_their_images_and_are_counted_anew(memory):
    whole, some = memory(), memory(classes=[3, 0])
    assert (some.num_classes, whole.num_classes) == (2, 5)
    for name in NAMES:
        kept = {
            key: [3, 0].index(y) for key, y in zip(keys(whole.split(name)), whole.split(name).y.tolist()) if y in (3, 0)
        }
        assert dict(zip(keys(some.split(name)), some.split(name).y.tolist())) == kept


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes": [1, 1]}, r"classes must be labels, each once, not \[1, 1\]"),
        ({"classes": []}, "classes must be labels"),
        ({"levels": 1}, "levels must be from 2 to 256, not 1"),
        ({"levels": 257}, "levels must be from 2 to 256, not 257"),
        ({"levels": 16, "binarization": Static()}, "levels 16 and binarization exclude each other"),
        ({"pad": -1}, "pad must be at least 0, not -1"),
        ({"resize": 0}, "resize must be at least 1, not 0"),
        ({"num_val": 0}, "num_val must be at least 1, not 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_construction(memory, options, message):
    with pytest.raises(UserError, match=message):
        memory(**options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes": [0, 5]}, "Memory has no class 5: classes must be from 0 to 4"),
        ({"num_val": 31}, "num_val is 31, but Memory has 30 such images"),
    ],
)
def test_what_the_source_does_not_have_is_refused(memory, options, message):
    with pytest.raises(UserError, match=message):
        memory(**options).split("train")


def test_a_source_with_too_few_images_for_its_splits_is_refused(memory):
    data = memory()
    data.read = lambda part: (torch.zeros(1, 3, 6, 6, dtype=torch.uint8), torch.zeros(1).long())
    with pytest.raises(UserError, match="Memory has too few images: the split 'train' is empty"):
        data.split("train")


def stretched(memory, **options):
    stretches = {"head": (Fraction(0), Fraction(1, 3)), "tail": (Fraction(1, 3), Fraction(1))}
    return type("Stretched", (type(memory()),), {"stretches": stretches})(batch_size=8, **options)


@pytest.mark.parametrize("options", [{}, {"classes": [4, 1]}, {"num_train": 9}], ids=str)
def test_stretches_are_the_parts_of_train_and_are_stored_once(memory, options, cache):
    whole, cut = stretched(memory), stretched(memory, **options)
    full = stretched(memory, **{**options, "num_train": None}).split("train")
    head, tail = cut.split("head"), cut.split("tail")
    for name in ("x", "y"):
        assert torch.equal(torch.cat([getattr(head, name), getattr(tail, name)]), getattr(full, name))
    assert set(keys(head)) <= set(keys(whole.split("train"))[: 270 // 3])  # whichever classes are kept
    assert head.x.untyped_storage().data_ptr() == cut.split("train").x.untyped_storage().data_ptr()
    assert not list(cache.glob("*/head.x.npy"))


def test_no_more_than_one_part_is_in_memory(parts):
    data, alive = parts("train", "val", "test"), []
    read = data.read

    def watched(part):
        assert not any(part() is not None for part in alive)
        x, y = read(part)
        alive.append(weakref.ref(x))
        return x, y

    data.read = watched
    data.split("train")
    assert len(alive) == 3


# Augmentation


def test_a_flip_turns_half_of_the_images_and_undoes_itself(memory):
    data = memory(horizontal_flip=True)
    x = torch.randint(256, (4000, 3, 6, 6), generator=torch.Generator().manual_seed(1)).byte()
    flipped = data.augment(x, GeneratorSource(5))
    mirrored = (flipped == x.flip(-1)).flatten(1).all(1)
    assert (mirrored | (flipped == x).flatten(1).all(1)).all()
    assert abs(mirrored.double().mean() - 0.5) < 0.04  # five standard deviations
    assert torch.equal(data.augment(flipped, GeneratorSource(5)), x)
    assert torch.equal(memory().augment(x, GeneratorSource(5)), x)


def test_dynamic_bits_are_drawn_in_training_and_fixed_elsewhere(memory):
    data, greys, static = memory(binarization=Dynamic(4)), memory(), memory(binarization=Static(4))
    assert (data.levels, data.shape) == (2, (3, 6, 6))
    assert torch.equal(data.training_examples().x, greys.split("train").x)
    assert torch.equal(data.training_examples().y, greys.split("train").y)
    for name in NAMES:
        assert torch.equal(data.split(name).x, static.split(name).x)
    x = data.training_examples().x
    bits = data.augment(x, GeneratorSource(0))
    assert set(bits.unique().tolist()) == {0, 1} and bits.dtype == torch.uint8
    assert not torch.equal(bits, data.augment(x, GeneratorSource(1)))
    assert static.training_examples() is static.split("train")


def test_dynamic_training_takes_its_subset_too(memory):
    data = memory(binarization=Dynamic(), num_train=13)
    assert len(data.training_examples()) == len(data.split("train")) == 13


def test_bits_belong_to_the_image_whatever_else_is_chosen(memory):
    whole, part = memory(binarization=Static()), memory(binarization=Static(), classes=[2], num_test=5, split_seed=0)
    for name in NAMES:
        mine = whole.split(name).x[whole.split(name).y == 2]
        assert torch.equal(part.split(name).x, mine[: len(part.split(name))])
    # the same image is in another split under another seed, with the same bits
    other, key = memory(binarization=Static(), split_seed=1), lambda x: [tuple(row) for row in x.flatten(1).tolist()]
    both = key(whole.split("train").x) + key(whole.split("val").x)
    assert sorted(key(other.split("train").x) + key(other.split("val").x)) == sorted(both)


def test_every_image_of_every_part_has_bits_of_its_own(memory, monkeypatch, cache):
    def bits():
        data = memory(binarization=Static())
        data.read = lambda part: (torch.full((300, 3, 6, 6), 128, dtype=torch.uint8), torch.arange(300) % 5)
        return {tuple(x.flatten().tolist()) for name in NAMES for x in data.split(name).x}

    together = bits()
    assert len(together) == 600
    monkeypatch.setattr("datamodules.images.CHUNK", 70)
    shutil.rmtree(cache)
    assert bits() == together


# Cache


def test_a_second_construction_reads_nothing_of_the_source(memory):
    first, second = memory(levels=4), memory(levels=4)
    for name in NAMES:
        assert first.split(name).fingerprint() == second.split(name).fingerprint()
    assert (first.reads, second.reads) == (2, 0)


@pytest.mark.parametrize(
    "options",
    [{"levels": 8}, {"resize": 5}, {"pad": 1}, {"classes": [1]}, {"split_seed": 2}, {"binarization": Threshold()}],
    ids=lambda options: next(iter(options)),
)
def test_other_settings_are_other_entries(memory, options):
    memory().split("train")
    other = memory(**options)
    other.split("train")
    assert other.reads == 2


def test_bits_of_another_seed_are_another_entry(memory):
    x = [memory(binarization=Static(seed)).split("test").x for seed in (0, 1)]
    assert not torch.equal(*x)


@pytest.mark.parametrize("options", [{"horizontal_flip": True}, {"num_train": 5}, {"batch_size": 4}], ids=str)
def test_what_changes_no_array_shares_the_entry(memory, options):
    memory().split("train")
    other = memory(**options)
    other.split("train")
    assert other.reads == 0


def test_a_changed_source_is_read_again(memory):
    before, after = memory(), memory()
    before.split("train")
    after.version = 1
    assert after.split("train").fingerprint() != before.split("train").fingerprint()
    assert after.reads == 2


def test_preparing_fills_the_cache(memory):
    memory().prepare_data()
    data = memory()
    assert len(data.split("test")) == 60 and data.reads == 0


OWN = """
from fractions import Fraction
import torch
from datamodules import ImageData
class Own(ImageData):
    native_shape, native_classes, held_out = (1, 2, 2), 2, {"val": Fraction(1, 2)}
    def identity(self): return 0
    def parts(self): return ("train", "test")
    def read(self, part): return torch.full((40, 1, 2, 2), 7, dtype=torch.uint8), torch.arange(40) % 2
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """own(source): the data set of a user's own file with this content."""

    def function(source: str, module: str = "own_data"):
        (tmp_path / "own_data.py").write_text(source)
        spec = importlib.util.spec_from_file_location(module, tmp_path / "own_data.py")
        monkeypatch.setitem(sys.modules, module, importlib.util.module_from_spec(spec))
        exec(compile(source, str(tmp_path / "own_data.py"), "exec"), vars(sys.modules[module]))
        return sys.modules[module].Own(batch_size=8)

    return function


def test_a_users_edited_class_is_made_anew(own, cache):
    assert [own(OWN).split("train").x.unique().tolist() for _ in range(2)] == [[7], [7]]
    assert len(list(cache.iterdir())) == 1
    assert own(OWN.replace(", 7,", ", 8,")).split("train").x.unique().tolist() == [8]
    assert len(own(OWN.replace("(1, 2)}", "(1, 4)}")).split("val")) == 10
    assert len(list(cache.iterdir())) == 3


def test_classes_of_one_name_and_other_shares_have_entries_of_their_own(memory):
    for share in (Fraction(1, 10), Fraction(1, 2)):
        named = type("Same", (type(memory()),), {"held_out": {"val": share}})
        assert len(named(batch_size=8).split("val")) == 300 * share


def test_a_class_without_a_file_is_not_cached(own, cache, monkeypatch):
    data = own(OWN)
    monkeypatch.delitem(sys.modules, "own_data")
    assert data.split("train").x.unique().tolist() == [7] and not cache.exists()
