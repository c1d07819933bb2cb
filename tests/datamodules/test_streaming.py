"""Streamed images are those of the folder they were packed from, in an order that neither ranks nor workers change."""

import itertools
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch.nn import functional

from datamodules import ImageFolder, StreamedImages
from datamodules.loaders import BatchLayout, EvaluationLoader, TrainingStream
from datamodules.pack import pack
from datamodules.streaming_order import ShardedOrder
from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors import Extractor
from lightning_gen.evaluation.protocol import Protocol
from lightning_gen.evaluation.reference import shared_examples
from lightning_gen.evaluation.yardstick import Yardstick

NAMES = ("train", "val", "test")
SHARD_MB = 0.002  # about nine images of 8x8


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """40 images of 8x8 or 11x9 in each of three classes."""
    folder = tmp_path_factory.mktemp("source") / "images"
    for k in range(120):
        file = folder / ("cat", "ant", "bee")[k % 3] / f"{k:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        size = (8, 8, 3) if k % 2 else (9, 11, 3)
        Image.fromarray(np.random.default_rng(k).integers(0, 256, size, dtype=np.uint8)).save(file)
    return folder


@pytest.fixture(scope="module")
def packed(images) -> Path:
    return pack(str(images), images.parent / "packed", resize=8, shard_mb=SHARD_MB)


def streamed(packed: Path, **options) -> StreamedImages:
    data = StreamedImages(str(packed), **{"num_workers": 0, "window": 3, "batch_size": 12, **options})
    data.seed = 11
    return data


@pytest.mark.parametrize("format", ["raw", "png"])
@pytest.mark.parametrize("grey", [False, True])
def test_images_labels_and_their_order_are_those_of_the_folder(images, tmp_path, format, grey):
    packed = pack(str(images), tmp_path / "packed", resize=8, grey=grey, format=format, shard_mb=SHARD_MB, split_seed=4)
    stream, folder = streamed(packed), ImageFolder(str(images), resize=8, grey=grey, split_seed=4)
    assert stream.shape == folder.shape == (1 if grey else 3, 8, 8)
    assert (stream.levels, stream.num_classes, stream.class_names) == (256, 3, folder.class_names)
    for name in NAMES:
        one, other = stream.split(name), folder.split(name)
        index = torch.randperm(len(other), generator=torch.Generator().manual_seed(1))
        for a, b in zip(one.take(index, 5), other.take(index, 5)):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        assert len(one) == len(other) and one.fingerprint() == other.fingerprint()


def test_what_looks_at_a_split_as_tensors_finds_them(images, packed):
    one, other = streamed(packed).split("test"), ImageFolder(str(images), resize=8).split("test")
    assert (one.x.shape, one.x.dtype, len(one.x)) == (other.x.shape, other.x.dtype, len(other.x))
    assert (one.y.shape, one.y.dtype) == (other.y.shape, other.y.dtype)
    for rows in (slice(3, 7), slice(5), slice(None), slice(10, 99)):
        assert torch.equal(one.x[rows], other.x[rows]) and torch.equal(one.y[rows], other.y[rows])
    assert torch.equal(one.x.to("cpu"), other.x) and torch.equal(one.y.to(torch.int32), other.y.int())
    assert shared_examples(one.x, one.x) == 1 and shared_examples(one.x, streamed(packed).split("train").x) == 0


def test_what_is_too_large_for_memory_is_refused_and_read_in_pieces(packed, monkeypatch):
    split = streamed(packed).split("train")
    monkeypatch.setattr("datamodules.streaming_examples.WHOLE", split.x.shape.numel() - 1)
    for ask in (split.x.to, split.x.flatten):
        with pytest.raises(UserError, match="the split train has .* GiB, .*: give a smaller pack by .*path.$"):
            ask(1)
    assert split.y.to(torch.int32).shape == (96,) and shared_examples(split.x, split.x) == 1


class Values(Extractor):
    name, num_features, digest = "values", 4, "0" * 16

    def __call__(self, x, levels):
        return x.flatten(1).float() / (levels - 1)


@pytest.mark.parametrize("reference", ["test", "train"])
def test_streamed_data_are_a_yardstick_like_those_in_memory(images, tmp_path, cache, reference, monkeypatch):
    monkeypatch.setattr(Yardstick, "_extractor", lambda self: Values())
    packed = pack(str(images), tmp_path / "packed", resize=2, grey=True, shard_mb=SHARD_MB / 40)
    protocol = Protocol(reference=reference, batch_size=5)

    def rows(data):
        yardstick = Yardstick(data, protocol)
        found = {name: measured.metrics for name, measured in yardstick.baselines().items()}
        return found, {k: v for k, v in yardstick.settings().items() if k != "data"}

    expected = rows(ImageFolder(str(images), resize=2, grey=True))
    shutil.rmtree(cache)  # where the features are kept under the same fingerprint
    assert rows(streamed(packed)) == expected
    assert len(expected[0]) == 2 and all(found["fd"] > 0 for found in expected[0].values())


def test_images_in_no_class_folder_have_no_labels(images, tmp_path):
    for file in sorted(images.rglob("*.png"))[:30]:
        (tmp_path / "faces").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "faces" / file.name)
    data = streamed(pack(str(tmp_path / "faces"), tmp_path / "packed", resize=8))
    assert data.num_classes is None and data.split("train").y is None and data.first_batch().y is None
    faces = ImageFolder(str(tmp_path / "faces"), resize=8)
    assert data.split("train").fingerprint() == faces.split("train").fingerprint()


def test_each_shard_has_each_class_in_its_share(packed):
    train = streamed(packed).split("train")
    sizes = [shard.examples for shard in train.shards]
    assert len(sizes) > 9
    for labels in train.y[:].split(sizes):
        assert labels.bincount(minlength=3).sub(len(labels) / 3).abs().max() <= 2


# The order of training


def stream_of(data, layout: BatchLayout, start: int = 0) -> TrainingStream:
    return TrainingStream(data.split("train"), layout, seed=11, start=lambda: start)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size, micro", [(1, None), (1, 4), (2, None), (2, 3), (3, 2)])
def test_global_batches_are_the_same_on_any_ranks_workers_and_micro_batches(
    guarded, packed, num_workers, world_size, micro
):
    data = streamed(packed)
    train, steps = data.split("train"), 20  # two epochs of 96 and more
    order = train.order(11)
    expected = [order.positions(k * 12, (k + 1) * 12) for k in range(steps)]
    assert torch.equal(torch.cat(expected[:16]).view(2, 96).sort().values, torch.arange(96).expand(2, 96))
    data = streamed(packed, num_workers=num_workers)
    layouts = [BatchLayout(12, micro, rank, world_size) for rank in range(world_size)]
    found = []
    for layout in layouts:
        stream = iter(stream_of(data, layout))
        found.append(list(itertools.islice(stream, steps * layout.accumulation)))
        stream.close() if num_workers else None
    rows = [batch for together in zip(*found) for batch in together]
    assert torch.equal(torch.cat([batch.index for batch in rows]), torch.cat(expected))
    assert [batch.micro_step for batch in found[-1]] == list(range(steps * layouts[0].accumulation))
    truth = train.take(torch.arange(96))
    for batch in rows:
        assert torch.equal(batch.x, truth.x[batch.index]) and torch.equal(batch.y, truth.y[batch.index])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_begins_at_any_step(guarded, packed, num_workers):
    data, layout = streamed(packed, num_workers=num_workers), BatchLayout(12, 4)
    whole = [b.index.tolist() for b in itertools.islice(stream_of(data, layout), 40)]
    assert [b.index.tolist() for b in itertools.islice(stream_of(data, layout, 23), 17)] == whole[23:]


def test_a_stretch_of_training_opens_few_shards(packed, monkeypatch):
    data = streamed(packed)
    train, opened = data.split("train"), []
    provide = data.place.provide
    monkeypatch.setattr(data.place, "provide", lambda name, shard: (opened.append(shard.file), provide(name, shard)))
    list(itertools.islice(iter(stream_of(data, BatchLayout(12))), 2))
    assert len(train.shards) > 9 and 0 < len(opened) == len(set(opened)) <= 1 + 3  # the index of them too


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_example_is_evaluated_once_over_the_ranks(guarded, packed, world_size, num_workers):
    data = streamed(packed, num_workers=num_workers)
    seen, truth = [], data.split("val").take(torch.arange(12))
    for rank in range(world_size):
        for batch in EvaluationLoader(data.split("val"), 5, rank, world_size):
            assert torch.equal(batch.x, truth.x[batch.index]) and torch.equal(batch.y, truth.y[batch.index])
            assert batch.micro_step is None
            seen += batch.index.tolist()
    assert seen == list(range(12))


# Training


class Line(LightningModule):
    """A linear map of the pixels, and the examples of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.map = torch.nn.Linear(192, 3)
        torch.nn.init.zeros_(self.map.weight), torch.nn.init.zeros_(self.map.bias)
        self.seen: list[int] = []
        self.validated: list[int] = []

    def training_step(self, batch, batch_idx):
        self.seen += batch.index.tolist()
        return functional.cross_entropy(self.map(batch.x.flatten(1) / 255), batch.y)

    def validation_step(self, batch, batch_idx):
        self.validated += batch.index.tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("num_workers, micro", [(0, None), (2, 4)])
def test_a_run_resumes_bit_for_bit_with_no_position_in_its_checkpoint(
    guarded, packed, trainer, equal, tmp_path, num_workers, micro
):
    def fit(steps: int, path: str | None = None, **options) -> Line:
        data = streamed(packed, num_workers=num_workers, micro_batch_size=micro, horizontal_flip=True, **options)
        module, fitting = Line(), trainer(steps, val_every=5)
        fitting.fit(module, datamodule=data, ckpt_path=path)
        fitting.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return module

    whole, _, second = fit(20), fit(11), fit(20, str(tmp_path / "11.ckpt"))
    assert whole.seen[11 * 12 :] == second.seen and whole.validated[:12] == list(range(12))
    assert equal(whole.state_dict(), second.state_dict())


def test_a_run_goes_on_with_the_order_that_it_began_with_or_not_at_all(images, packed, trainer, tmp_path):
    def fit(steps: int, path: Path, resumed: Path | None = None, **options) -> list[int]:
        module, fitting = Line(), trainer(steps)
        fitting.fit(module, datamodule=streamed(path, **options), ckpt_path=resumed)
        fitting.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return module.seen

    def refused(path: Path, **options) -> str:
        with pytest.raises(UserError) as caught:
            fit(20, path, tmp_path / "11.ckpt", **options)
        return str(caught.value)

    def made(name: str, **options) -> Path:
        return pack(str(images), tmp_path / name, **{"resize": 8, "shard_mb": SHARD_MB, **options})

    seen, began = fit(20, packed), fit(11, packed)
    assert seen == began + fit(20, Path(shutil.copytree(packed, tmp_path / "copy")), tmp_path / "11.ckpt")
    assert "began with --data.init_args.window 3, and 1 makes another order" in refused(packed, window=1)
    coarse, other = made("coarse", shard_mb=3 * SHARD_MB), made("other", split_seed=1)
    assert refused(coarse).startswith(f"{coarse} is cut into other shards") and "--shard_mb" in refused(coarse)
    assert refused(other).startswith(f"{other} is a pack of other images than {packed}")
    trainer(1).validate(Line(), datamodule=streamed(other, window=1), ckpt_path=tmp_path / "11.ckpt")


def test_half_of_the_images_are_flipped_in_training_alone(packed):
    def x(**options):
        data = streamed(packed, batch_size=96, **options)
        return data.first_batch().x, data.split("train").take(data.first_batch().index).x

    flipped, plain = x(horizontal_flip=True)
    turned = (flipped == plain.flip(-1)).flatten(1).all(1)
    assert torch.equal(flipped[~turned], plain[~turned]) and 20 < turned.sum() < 76
    assert torch.equal(*x())


def test_a_split_goes_to_another_process_without_what_it_has_open(packed):
    train = streamed(packed).split("train")
    closed = pickle.dumps(train)
    train.take(torch.arange(3))
    assert pickle.dumps(train) == closed
    again = pickle.loads(closed)
    assert torch.equal(again.take(torch.arange(20)).x, train.take(torch.arange(20)).x)


# Where packs are, and what is none


def test_a_pack_behind_a_url_is_fetched_shard_by_shard_and_kept(packed, cache):
    data, here = streamed(f"local:{packed}"), streamed(packed)
    assert data.shape == (3, 8, 8) and data.place.folder.parent == cache
    assert not list(cache.rglob("*.bin"))
    index = here.split("train").order(11).positions(0, 12)
    assert torch.equal(data.split("train").take(index).x, here.split("train").take(index).x)
    fetched = {file.name: file.stat().st_mtime_ns for file in cache.rglob("*.bin")}
    assert 0 < len(fetched) <= 3
    again = streamed(f"local:{packed}").split("train").take(index)
    assert torch.equal(again.y, here.split("train").take(index).y)
    assert fetched == {file.name: file.stat().st_mtime_ns for file in cache.rglob("*.bin")}
    with pytest.raises(UserError, match=r"cannot fetch local:/nowhere/pack.json for --data.init_args.path: .*\.$"):
        _ = streamed("local:/nowhere").shape


def test_a_shard_that_came_in_part_is_fetched_again_or_refused(packed, cache, tmp_path):
    index, url = torch.arange(96), f"local:{packed}"
    expected = streamed(packed).split("train").take(index).x
    streamed(url).split("train").take(index)
    cut, gone = sorted(cache.rglob("*.bin"))[:2]
    cut.write_bytes(cut.read_bytes()[:-1]), gone.write_bytes(b"")
    assert torch.equal(streamed(url).split("train").take(index).x, expected)

    source = Path(shutil.copytree(packed, tmp_path / "source"))
    shard = source / "train" / cut.name
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1]), cut.unlink()
    said = f"local:{source}/train/{cut.name} has {len(whole) - 1} bytes, not {len(whole)}: "
    assert refusal(f"local:{source}").startswith(said) and not cut.exists()
    shard.write_bytes(whole)
    assert torch.equal(streamed(f"local:{source}").split("train").take(index).x, expected)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("file", ["chunk-0-3.bin", "index.json"])
def test_a_bit_that_flipped_is_refused_in_a_folder_and_fetched_again_behind_a_url(packed, cache, tmp_path, file):
    index, copy = torch.arange(96), Path(shutil.copytree(packed, tmp_path / "copy"))
    expected = streamed(packed).split("train").take(index).x
    streamed(f"local:{packed}").split("train").take(index)
    flip(next(cache.rglob(f"train/{file}")))
    assert torch.equal(streamed(f"local:{packed}").split("train").take(index).x, expected)
    flip(copy / "train" / file)
    assert refusal(copy).startswith(f"{copy}/train/{file} is damaged: copy the pack again")


def test_shards_of_a_url_are_fetched_a_window_ahead_of_the_training(guarded, packed, cache):
    def begun(path) -> int:
        streamed(path).split("train").order(11).positions(0, 1)
        return len(multiprocessing.active_children())

    assert begun(packed) == 0 and not cache.exists()
    assert begun(f"local:{packed}") == 1
    for process in multiprocessing.active_children():
        process.join()
    fetched = {file.name for file in cache.rglob("*.bin")}
    train = streamed(f"local:{packed}").split("train")
    told = []
    ShardedOrder([shard.examples for shard in train.shards], 11, 3, told.append).positions(0, 1)
    assert fetched == {train.shards[k].file for k in told[0]} and len(fetched) == 3
    assert begun(f"local:{packed}") == 0


def test_the_same_images_in_other_shards_are_fetched_anew(images, packed, tmp_path):
    copy = Path(shutil.copytree(packed, tmp_path / "copy"))
    expected = streamed(f"local:{copy}").split("train").take(torch.arange(96)).x
    shutil.rmtree(copy)
    pack(str(images), copy, resize=8, shard_mb=3 * SHARD_MB)
    again = streamed(f"local:{copy}").split("train")
    assert torch.equal(again.take(torch.arange(96)).x, expected)


def refusal(path, **options) -> str:
    with pytest.raises(UserError) as caught:
        data = StreamedImages(str(path), **{"num_workers": 0, **options})
        _ = data.shape
        data.split("train").take(torch.arange(96))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_whole_pack_is_refused(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_GEN_DATA", str(tmp_path))
    assert refusal("nowhere").startswith("there is no pack ") and f"{tmp_path}/nowhere" in refusal("nowhere")
    assert f"{tmp_path} holds no pack of images (no pack.json)" in refusal(tmp_path)
    copy = Path(shutil.copytree(packed, tmp_path / "copy"))
    assert streamed("copy").shape == (3, 8, 8)  # below the root
    shard = copy / "train" / "chunk-0-3.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    assert refusal(copy) == (
        f"{shard} has {len(content) - 1} bytes, not {len(content)}: copy the pack again, or make it again with "
        "`lightning-gen pack`."
    )
    shard.unlink()
    assert f"{shard} is missing" in refusal(copy)
    for text, said in (
        ("{", "is damaged"),
        ('{"format": 9}', "is of format 9, not 2"),
        ('{"format": 2}', "is damaged"),
        ((packed / "pack.json").read_text().replace('"examples": ', '"examples": 1', 1), "is damaged"),
    ):
        (copy / "pack.json").write_text(text)
        assert f"{copy}/pack.json {said}" in refusal(copy)


def test_settings_that_cannot_be_are_refused(packed, monkeypatch):
    assert refusal(packed, num_workers=-1) == "num_workers must be at least 0, not -1."
    assert refusal(packed, window=0) == "window must be at least 1, not 0."
    assert refusal(packed, prefetch=0) == "prefetch must be at least 1, not 0."
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refusal(packed) == "packs of images need litdata: pip install 'lightning_gen[streaming]'"
