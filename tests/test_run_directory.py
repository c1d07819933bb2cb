import concurrent.futures
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from lightning_gen import run_directory
from lightning_gen.callbacks import Checkpoints
from lightning_gen.errors import UserError
from lightning_gen.run_directory import (
    CHECKPOINT_KEY,
    MAY_DIFFER,
    DamagedCheckpoint,
    checkpoint_files,
    damage,
    differences,
    find_checkpoint,
    flatten,
    new_run,
    refuse_dangling,
    run_id,
    run_of,
    write_atomically,
)


def test_new_runs_never_collide(tmp_path):
    root = tmp_path / "deep" / "runs"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: new_run("a.b", root), range(40)))
    assert len(set(runs)) == 40 and all(run.is_dir() and run.parent == root for run in runs)


def test_numbers_go_on_from_the_highest_and_names_do_not_mix(tmp_path):
    for name in ("a-1", "a-7", "a-b-99", "xa-50", "a.b-3", "a-12x"):
        (tmp_path / name).mkdir()
    assert [new_run("a", tmp_path).name, new_run("a", tmp_path).name] == ["a-8", "a-9"]
    assert new_run("a.b", tmp_path).name == "a.b-4" and new_run("new", tmp_path).name == "new-1"


def checkpoint(path: Path) -> None:
    """The least that a checkpoint of its name holds."""
    content = {"global_step": int(path.stem[5:]), "state_dict": {"w": torch.arange(3000.0)}, CHECKPOINT_KEY: {}}
    torch.save(content, path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [truncate, flip_a_byte, empty])
def test_a_damaged_checkpoint_is_passed_over_loudly_for_the_one_before_it(tmp_path, harm):
    (tmp_path / "checkpoints").mkdir()
    for step in (1, 2, 3):
        checkpoint(tmp_path / "checkpoints" / f"step_{step:08d}.ckpt")
    newest, middle, oldest = checkpoint_files(tmp_path)
    assert find_checkpoint(tmp_path) == newest
    harm(newest)
    with pytest.warns(DamagedCheckpoint, match=f"{newest.name} is damaged .*going on from {middle.name}"):
        assert find_checkpoint(tmp_path) == middle
    harm(middle)
    with pytest.warns(DamagedCheckpoint) as said:
        assert find_checkpoint(tmp_path) == oldest
    assert len(said) == 2
    harm(oldest)  # nothing to go on from: the run must not silently begin again
    with pytest.raises(UserError, match=f"{newest.name} is damaged .* no whole checkpoint before it"):
        find_checkpoint(tmp_path)


def test_what_torch_saves_is_whole_by_the_same_test(tmp_path):
    torch.save({"weights": torch.randn(1000), "step": 3}, tmp_path / "a.ckpt")
    assert damage(tmp_path / "a.ckpt") is None
    flip_a_byte(tmp_path / "a.ckpt")
    assert damage(tmp_path / "a.ckpt") is not None


def test_any_one_bit_of_a_checkpoint_is_found_or_changes_nothing(tmp_path):
    """The directory of the container has no CRC of its own: there a bit is found by another way, or means nothing."""
    file = tmp_path / "a.ckpt"
    torch.save({"w": torch.arange(5.0), "step": 3}, file)
    whole, passed = file.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 173):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        if damage(file) is not None:
            continue
        passed += 1
        with suppress(Exception):  # refused by torch
            read = torch.load(file, weights_only=True)
            assert read["step"] == 3 and torch.equal(read["w"], torch.arange(5.0)), bit
    assert 0 < passed < 8 * len(whole) / 173


def test_the_newest_checkpoint_is_that_of_the_highest_step(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (900, 20, 1000, 100_000_000):  # written in another order than they are numbered
        checkpoint(folder / f"step_{step:08d}.ckpt")
    others = ["step_00009000.partial", "last.ckpt", "other_00009999.ckpt", "step_2.ckpt", "step_00001001-v1.ckpt"]
    for other in [*others, "step_step=00002000.ckpt", "step_00002000_val=0.1.ckpt"]:
        (folder / other).touch()
    assert [int(file.stem[5:]) for file in checkpoint_files(tmp_path)] == [100_000_000, 1000, 900, 20]
    assert find_checkpoint(tmp_path) == find_checkpoint(str(tmp_path)) == folder / "step_100000000.ckpt"
    shutil.copy(folder / "step_00000020.ckpt", folder / "mine.ckpt")
    assert find_checkpoint(folder / "mine.ckpt") == folder / "mine.ckpt"


STRANGE = {
    "misnamed": (
        lambda folder, path: shutil.copy(folder / "step_00000001.ckpt", path),
        "has another name than its step",
    ),
    "plain Lightning's": (lambda folder, path: torch.save({"global_step": 9}, path), "is another program's"),
    "a tensor": (lambda folder, path: torch.save(torch.zeros(3), path), "cannot be read as a checkpoint"),
    "an object": (lambda folder, path: torch.save(path, path), "cannot be read as a checkpoint"),
    "text": (lambda folder, path: path.write_text("notes"), "is damaged"),
    "a folder": (lambda folder, path: path.mkdir(), "is no file"),
    "a pipe": (lambda folder, path: os.mkfifo(path), "is no file"),
    "a link to nothing": (
        lambda folder, path: path.symlink_to("/scratch/gone"),
        "is a link to /scratch/gone, which is",
    ),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_only_has_a_checkpoints_name_is_passed_over_and_never_removed(tmp_path, kind, trainer, model, data):
    folder, (make, said) = tmp_path / "checkpoints", STRANGE[kind]
    folder.mkdir()
    checkpoint(folder / "step_00000001.ckpt")
    strange = folder / "step_00000009.ckpt"
    make(folder, strange)
    with pytest.warns(DamagedCheckpoint, match=said):
        assert find_checkpoint(tmp_path) == folder / "step_00000001.ckpt"
    trainer(5, Checkpoints(1, keep=2)).fit(model(), data())  # its own rotate as if the other were not there
    kept = sorted(file.name for file in folder.iterdir())
    assert kept == ["step_00000004.ckpt", "step_00000005.ckpt", "step_00000009.ckpt"]
    for own in kept[:2]:
        (folder / own).unlink()
    with pytest.raises(UserError, match=f"{said}.*, and there is no whole checkpoint before it"):
        find_checkpoint(tmp_path)


def test_a_path_that_means_no_checkpoint_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="there is no run or checkpoint at .*nowhere"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("link", ["run", "run/checkpoints", "above"])
def test_a_link_to_nothing_is_no_new_run(tmp_path, link):
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "gone")
    run = tmp_path / "above" / "run" if link == "above" else tmp_path / "run"
    with pytest.raises(UserError, match=f"{tmp_path / link} is a link to {tmp_path / 'gone'}, which is not there"):
        refuse_dangling(run / "checkpoints")
    (tmp_path / "gone").mkdir()
    refuse_dangling(run / "checkpoints")


def test_a_checkpoint_knows_its_run():
    assert run_of(Path("r/checkpoints/step_1.ckpt")) == Path("r")
    assert run_of(Path("r/some.ckpt")) == Path("r")


def test_a_run_keeps_the_id_it_was_given(tmp_path):
    first = run_id(tmp_path)
    assert first.isalnum() and len(first) == 8
    assert run_id(tmp_path) != first  # nothing is written before the run comes to be
    (tmp_path / "run_id").write_text(first + "\n")
    assert run_id(tmp_path) == first


@pytest.mark.parametrize("fails", ["write", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    file = tmp_path / "config.yaml"
    write_atomically(file, "old")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    if fails == "replace":
        monkeypatch.setattr(run_directory.os, "replace", fail)
    text = "new" if fails == "replace" else "half of it \ud800"  # a text that cannot be encoded fails in the middle
    with pytest.raises((OSError, UnicodeEncodeError)):
        write_atomically(file, text)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_a_reader_sees_the_old_text_until_the_new_one_is_whole(tmp_path, monkeypatch):
    file, seen = tmp_path / "f", []
    write_atomically(file, "old")
    replace = os.replace

    def spy(source, target):
        seen.append((file.read_text(), Path(source).read_text()))
        replace(source, target)

    monkeypatch.setattr(run_directory.os, "replace", spy)
    write_atomically(file, "new")
    assert seen == [("old", "new")] and file.read_text() == "new"


def test_folders_are_made_as_needed(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "c", "text")
    assert (tmp_path / "a" / "b" / "c").read_text() == "text"


def test_flatten_names_every_leaf_by_its_path():
    nested = {"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": {}, "g": None}
    assert flatten(nested) == {"a.b": 1, "a.c.d": [1, {"e": 2}], "f": {}, "g": None}


def nest(key: str, value) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("key", MAY_DIFFER)
def test_what_may_differ_may_differ_with_all_below_it(key):
    base = {"other": 0}
    for value in (2, {"class_path": "W", "init_args": {"x": 1}}, [1, 2], None):
        assert differences({**base, **nest(key, 1)}, {**base, **nest(key, value)}) == {}
        assert differences(base, {**base, **nest(key, value)}) == {} == differences({**base, **nest(key, value)}, base)


@pytest.mark.parametrize(
    "key", ["model.init_args.lr", "data.init_args.batch_size", "seed_everything", "trainer.precision", "ema.decays",
            "trainer.max_stepsize", "trainer.gradient_clip_val", "runs", "model.run", "ema.profile"]
)  # fmt: skip
def test_every_other_key_may_not(key):
    base = {"other": 0}
    one, two = {**base, **nest(key, 1)}, {**base, **nest(key, 2)}
    assert differences(one, two) == {key: (1, 2)}
    assert differences(one, base) == {key: (1, None)} and differences(base, two) == {key: (None, 2)}
    assert differences(one, {**base, **nest(key, 1)}) == {}


def test_the_contract_names_what_a_requeue_may_change():
    for key in ("max_steps", "devices", "num_nodes", "accelerator", "logger"):
        assert f"trainer.{key}" in MAY_DIFFER
    assert "progress" in MAY_DIFFER
