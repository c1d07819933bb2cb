"""The verb that packs images: whole packs or none, and a clear line for what cannot be one."""

import errno
import fcntl
import json
import os

import numpy as np
import pytest
from PIL import Image

from datamodules import pack as packing
from datamodules.streaming import StreamedImages
from lightning_gen.__main__ import main
from lightning_gen.errors import UserError


@pytest.fixture
def images(tmp_path):
    """20 images of 6x6 in each of two classes."""
    for k in range(40):
        file = tmp_path / "images" / ("cat", "ant")[k % 2] / f"{k:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(file)
    return tmp_path / "images"


def run(capsys, *args) -> tuple[int, str, str]:
    status = main(["pack", *map(str, args)])
    return status, *capsys.readouterr()


def test_the_verb_makes_a_pack_and_names_it_last(images, tmp_path, capsys):
    out = tmp_path / "new" / "packed"
    status, said, complaint = run(capsys, images, "--out", out, "--shard_mb", "0.001")
    assert (status, complaint) == (0, f"{images}: there is no train/, so its 2 folders are the classes (ant, cat)\n")
    assert said.splitlines()[-1] == str(out) and said.startswith("val: 4 images in 1 shards")
    assert sorted(p.name for p in out.iterdir()) == ["pack.json", "test", "train", "val"]
    assert [p.name for p in out.parent.iterdir()] == ["packed"]
    record = json.loads((out / "pack.json").read_text())
    assert record["shape"] == [3, 6, 6] and record["class_names"] == ["ant", "cat"]
    for name, split in record["splits"].items():
        assert sum(shard["examples"] for shard in split["shards"]) == {"train": 32, "val": 4, "test": 4}[name]
        assert all((out / name / s["file"]).stat().st_size == s["bytes"] for s in split["shards"])
    assert len(record["splits"]["train"]["shards"]) > 3


def test_a_pack_that_is_done_is_left_alone_and_another_is_refused(images, tmp_path, capsys):
    out = tmp_path / "packed"
    run(capsys, images, "--out", out)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    status, said, _ = run(capsys, images, "--out", out)
    assert status == 0 and said.splitlines() == [f"{out} is packed already", str(out)]
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    for option, value, there in (("grey", None, "False"), ("format", "png", "'raw'"), ("split_seed", "1", "0")):
        status, _, complaint = run(capsys, images, "--out", out, *(f"--{option}", value)[: 2 if value else 1])
        assert (status, complaint) == (
            2,
            f"lightning-gen pack: {out} is a pack of {option} {there}: give another --out, or delete it.\n",
        )
    (images / "cat" / "00.png").unlink()
    assert "is a pack of other images" in run(capsys, images, "--out", out)[2]


def test_other_files_are_never_overwritten(images, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("words")
    status, _, complaint = run(capsys, images, "--out", tmp_path / "mine")
    assert status == 2 and complaint.endswith("is there already and is no pack: give another --out.\n")
    (tmp_path / "empty").mkdir()
    assert run(capsys, images, "--out", tmp_path / "empty")[0] == 0


def test_a_pack_that_was_killed_is_none_and_starts_anew(images, tmp_path, capsys):
    out = tmp_path / "packed"
    if (pid := os.fork()) == 0:
        packing.Manifest.text = lambda self: os.kill(os.getpid(), 9)  # all shards are written, the last file is not
        packing.pack(str(images), out)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    partial = tmp_path / ".packed.partial"
    assert not out.exists() and (partial / "train" / "chunk-0-0.bin").exists()
    with pytest.raises(UserError, match="holds no pack of images"):
        _ = StreamedImages(str(partial)).shape
    (partial / "train" / "chunk-0-9.bin").write_bytes(b"of another shard size")
    assert run(capsys, images, "--out", out)[0] == 0
    assert not partial.exists() and not (out / "train" / "chunk-0-9.bin").exists()
    fresh = tmp_path / "fresh"
    run(capsys, images, "--out", fresh)
    assert (out / "pack.json").read_text() == (fresh / "pack.json").read_text()


def test_two_commands_do_not_write_one_pack(images, tmp_path, capsys):
    (tmp_path / ".packed.partial").mkdir()
    lock = os.open(tmp_path / ".packed.partial", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    status, _, complaint = run(capsys, images, "--out", tmp_path / "packed")
    os.close(lock)
    assert status == 2 and "another command is writing" in complaint and (tmp_path / ".packed.partial").is_dir()


def test_a_full_disk_is_one_line_and_leaves_nothing(images, tmp_path, capsys, monkeypatch):
    from litdata.streaming.writer import BinaryWriter

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BinaryWriter, "write_chunk_to_file", full)
    status, _, complaint = run(capsys, images, "--out", tmp_path / "packed")
    assert status == 2 and complaint.endswith("packed.partial/val: No space left on device; give another --out.\n")
    assert not list(tmp_path.glob("*packed*"))


@pytest.mark.parametrize(
    "harm, said",
    [
        (lambda f: (f / "cat" / "00.png").write_bytes(b"junk"), "cat/00.png cannot be read: remove or replace it."),
        (
            lambda f: (f / "cat" / "00.png").unlink() or os.mkfifo(f / "cat" / "00.png"),
            "cat/00.png is no file but a pipe, socket or device: remove it.",
        ),
        (lambda f: Image.new("RGB", (7, 6)).save(f / "cat" / "00.png"), "others have 6x6: give --resize."),
    ],
)
def test_images_at_fault_are_named(images, tmp_path, capsys, harm, said):
    harm(images)
    status, _, complaint = run(capsys, images, "--out", tmp_path / "packed")
    assert status == 2 and "cat/00.png" in complaint and complaint.endswith(f"{said}\n")
    assert not list(tmp_path.glob("*packed*"))


def test_bad_choices_are_one_line(images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_GEN_DATA", raising=False)
    for args, said in (
        (["nowhere"], "name a folder or a zip of images, here or below LIGHTNING_GEN_DATA."),
        ([images, "--shard_mb", "0"], "--shard_mb must be above 0 and at most 2048, not 0.0."),
        ([images, "--workers", "0"], "--workers must be at least 1, not 0."),
        ([images, "--format", "jpeg"], "format must be one of raw, png, not 'jpeg'"),
    ):
        status, _, complaint = run(capsys, *args)
        assert status == 2 and complaint.endswith(f"{said}\n"), complaint
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'lightning_gen[streaming]'" in run(capsys, images)[2]


def test_the_pack_is_named_after_its_images(images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "images")[1].splitlines()[-1] == "images_packed"
    assert packing.Source("images").name == "images"
