"""A measurement that is cut goes on where it was, and ends as if it had not been."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from lightning_gen.evaluation.parts import Parts
from lightning_gen.evaluation.ranks import ALONE


class Work:
    """Yields the numbers of a gap in batches; writes down what it was asked for, and is cut after `until` batches."""

    def __init__(self, batch: int, until: int = 10**9) -> None:
        self.batch, self.until, self.asked = batch, until, []

    def __call__(self, gap):
        for start in gap[:: self.batch]:
            if self.until == 0:
                raise KeyboardInterrupt
            self.until -= 1
            part = range(start, min(start + self.batch, gap.stop))
            self.asked += part
            yield torch.tensor(list(part))


def through(parts, share, work, advance=int):
    found = parts.resumed("samples", share, work, torch.Tensor.clone, torch.Tensor.clone, advance)
    return torch.cat(list(found)).tolist()


def cut(folder, depends_on, share, batch, until):
    work = Work(batch, until)
    try:
        through(Parts.of(folder, depends_on, ALONE), share, work)
    except KeyboardInterrupt:
        return work.asked
    raise AssertionError("was not cut")


def test_what_was_done_is_not_done_again(tmp_path):
    done = cut(tmp_path / "p", {"samples": 1}, range(100), batch=8, until=5)
    work, parts, told = Work(16), Parts.of(tmp_path / "p", {"samples": 1}, ALONE), []
    assert through(parts, range(100), work, told.append) == list(range(100))
    assert sorted([*done, *work.asked]) == list(range(100))
    assert parts.reused == {"samples": 40} and sum(told) == 40
    parts.clear()
    assert not (tmp_path / "p").exists()


def test_a_part_in_which_a_bit_flipped_is_made_again(tmp_path):
    done = cut(tmp_path / "p", {"samples": 1}, range(100), batch=25, until=3)
    file = sorted((tmp_path / "p").iterdir())[1]
    content, numbers = file.read_bytes(), torch.arange(25, 50).numpy().tobytes()
    at = content.index(numbers) + 40
    file.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
    work = Work(25)
    assert through(Parts.of(tmp_path / "p", {"samples": 1}, ALONE), range(100), work) == list(range(100))
    assert len(done) == 75 and work.asked == [*range(25, 50), *range(75, 100)]


def test_other_shares_and_sizes_of_batches_use_what_lies_in_them(tmp_path):
    for rank in range(2):
        cut(tmp_path / "p", {"samples": 1}, range(rank * 50, rank * 50 + 50), batch=8, until=3)
    shares = [range(0, 33), range(33, 66), range(66, 100)]
    works = [Work(5) for _ in shares]
    parts = Parts.of(tmp_path / "p", {"samples": 1}, ALONE)
    assert [i for share, work in zip(shares, works) for i in through(parts, share, work)] == list(range(100))
    assert works[0].asked == list(range(24, 33))  # three batches of the first rank were there


def test_a_measurement_of_something_else_uses_nothing(tmp_path):
    cut(tmp_path / "p", {"samples": [1, "a"]}, range(20), batch=4, until=2)
    work = Work(4)
    assert through(Parts.of(tmp_path / "p", {"samples": [1, "b"]}, ALONE), range(20), work) == list(range(20))
    assert work.asked == list(range(20))


def test_parts_of_a_kind_that_is_not_measured_now_stay(tmp_path):
    cut(tmp_path / "p", {"samples": 1, "likelihood": 2}, range(20), batch=4, until=2)
    Parts.of(tmp_path / "p", {"likelihood": 3}, ALONE)
    assert Parts.of(tmp_path / "p", {"samples": 1}, ALONE).reused == {}
    work = Work(4)
    through(Parts.of(tmp_path / "p", {"samples": 1}, ALONE), range(20), work)
    assert work.asked == list(range(8, 20))


def test_a_damaged_part_is_made_again_and_a_partial_one_is_not_seen(tmp_path):
    cut(tmp_path / "p", {"samples": 1}, range(20), batch=4, until=3)
    first, second, _ = sorted((tmp_path / "p").iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    second.rename(second.with_suffix(".123.partial"))
    work = Work(4)
    assert through(Parts.of(tmp_path / "p", {"samples": 1}, ALONE), range(20), work) == list(range(20))
    assert work.asked == [0, 1, 2, 3, 4, 5, 6, 7, *range(12, 20)]
    assert not list((tmp_path / "p").glob("*.partial"))


def test_parts_that_overlap_are_used_once(tmp_path):
    for share in (range(0, 8), range(4, 12), range(8, 16), range(14, 20)):
        through(Parts.of(tmp_path / "p", {"samples": 1}, ALONE), share, Work(8))
    work = Work(8)
    assert through(Parts.of(tmp_path / "p", {"samples": 1}, ALONE), range(20), work) == list(range(20))
    assert work.asked == list(range(16, 20))


@pytest.mark.parametrize("content", [[4, 5, 6], [4, 5, 6, 7, 8]])
def test_a_part_of_another_length_than_its_name_says_is_made_again(tmp_path, content):
    cut(tmp_path / "p", {"samples": 1}, range(20), batch=4, until=3)
    torch.save(torch.tensor(content), sorted((tmp_path / "p").iterdir())[1])
    work, parts = Work(4), Parts.of(tmp_path / "p", {"samples": 1}, ALONE)
    assert through(parts, range(20), work) == list(range(20))
    assert work.asked == [4, 5, 6, 7, *range(12, 20)] and parts.reused == {"samples": 8}


# Commands of one name at once


class Beside(Work):
    """Work during which something else happens before every batch."""

    def __init__(self, batch, happens):
        super().__init__(batch)
        self.happens = happens

    def __call__(self, gap):
        for piece in super().__call__(gap):
            self.happens()
            yield piece


@pytest.mark.parametrize("setting", [1, 2])
@pytest.mark.parametrize("done", [True, False])
def test_another_command_takes_none_of_the_results(tmp_path, setting, done):
    def other():
        parts = Parts.of(tmp_path / "p", {"samples": setting}, ALONE)
        found = through(parts, range(8), Work(8)) if done else []
        assert found == (list(range(8)) if done else [])
        parts.clear()

    parts = Parts.of(tmp_path / "p", {"samples": 1}, ALONE)
    assert through(parts, range(20), Beside(4, other)) == list(range(20))
    parts.clear()
    assert not (tmp_path / "p").exists()


def test_a_part_is_written_again_if_it_goes_as_it_is_written(tmp_path, monkeypatch):
    """Another command on another machine clears away what it takes for the leavings of a process that died."""
    replace, times = os.replace, iter(range(2))

    def late(source, target):
        if next(times, None) is not None:
            source.unlink()
            (tmp_path / "p").rmdir()
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    parts = Parts.of(tmp_path / "p", {"samples": 1}, ALONE)
    assert through(parts, range(4), Work(4)) == list(range(4))
    assert [file.suffix for file in (tmp_path / "p").iterdir()] == [".pt"]


def test_what_living_processes_are_writing_stays(tmp_path):
    folder, done = tmp_path / "p", subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    cut(folder, {"samples": 1}, range(20), batch=4, until=1)
    stem = next(folder.iterdir()).stem
    living, dead = (folder / f"{stem}.{pid}@{platform.node()}.partial" for pid in (os.getppid(), done.pid))
    living.touch()
    dead.touch()
    parts = Parts.of(folder, {"samples": 1}, ALONE)
    assert living.exists() and not dead.exists()
    parts.clear()
    assert list(folder.iterdir()) == [living]


def test_clearing_leaves_what_others_measured(tmp_path):
    cut(tmp_path / "p", {"likelihood": 2, "samples": 1}, range(20), batch=4, until=2)
    Parts.of(tmp_path / "p", {"likelihood": 2}, ALONE).clear()
    work = Work(4)
    assert through(Parts.of(tmp_path / "p", {"samples": 1}, ALONE), range(20), work) == list(range(20))
    assert work.asked == list(range(8, 20))


def test_without_a_folder_nothing_is_kept(tmp_path):
    parts = Parts()
    assert through(parts, range(10), Work(4)) == list(range(10)) and list(tmp_path.iterdir()) == []
    parts.clear()


def test_an_empty_share_asks_for_nothing(tmp_path):
    work = Work(4)
    assert list(Parts().resumed("samples", range(5, 5), work, torch.clone, torch.clone)) == [] and work.asked == []
