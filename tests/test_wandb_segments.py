"""What W&B's client keeps on the disk, read as it was written, however it was cut off."""

import struct

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from lightning_gen.wandb_segments import Segment, cells, group, segments

ROWS = [{"step": k, "train/loss": 0.5 / k, "text": "x" * (9000 * (k % 3))} for k in range(1, 12)]
"""Some fill more than a block of the log."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run directory with one segment, written by W&B's client."""
    run = tmp_path_factory.mktemp("run")
    settings = wandb.Settings(console="off", silent=True)
    with wandb.init(mode="offline", dir=run, id="a-b-1", project="p", group="family", settings=settings) as begun:
        for row in ROWS:
            begun.log({**row, "samples": float("nan")})
    wandb.teardown()
    return run


def test_rows_are_read_as_they_were_logged(written):
    (segment,) = segments(written)
    assert (segment.identity, segment.offline, segment.synced, segment.is_empty()) == ("a-b-1", True, False, False)
    rows = list(segment.rows())
    assert [{key: row[key] for key in ROWS[0]} for row in rows] == ROWS
    assert [row["_step"] for row in rows] == list(range(len(ROWS)))
    assert group(written, "a-b-1") == "family" and group(written, "other") is None
    known = {(row["step"], name) for row in ROWS for name in (*row, "samples")}
    assert known <= cells(written, "a-b-1") and not cells(written, "other")


@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.8, 0.99])
def test_a_segment_that_was_cut_off_gives_its_whole_rows(written, tmp_path, part):
    whole = segments(written)[0]
    content = whole.log.read_bytes()
    log = tmp_path / "wandb" / whole.folder.name / whole.log.name
    log.parent.mkdir(parents=True)
    log.write_bytes(content[: 7 + int(part * (len(content) - 7))])
    (segment,) = segments(tmp_path)
    rows = list(segment.rows())
    assert segment.is_empty() == (part == 0) and rows == list(whole.rows())[: len(rows)]
    assert (len(rows) < len(ROWS)) and (part < 0.5 or rows)


def test_what_is_no_log_has_no_rows(tmp_path):
    log = tmp_path / "run-x.wandb"
    for content in (b"", b":W&", b"other", b":W&B\xe1\xbe\x00" + struct.pack("<IHB", 0, 3, 1) + b"\xff\xff\xff"):
        log.write_bytes(content)
        assert list(Segment(log).rows()) == [] and Segment(log).is_empty()


@pytest.fixture
def segment(tmp_path):
    """segment(folder, first, steps): writes rows that W&B counts from `first` on."""

    def function(folder, first, steps):
        text = b":W&B\xe1\xbe\x00"
        for number, step in enumerate(steps, first):
            record = Record()
            for key, value in {"_step": number, "step": step, "train/loss": 0.5}.items():
                record.history.item.add(key=key, value_json=repr(value))
            content = record.SerializeToString()
            text += struct.pack("<IHB", 0, len(content), 1) + content
        log = tmp_path / "wandb" / folder / f"run-{folder.rpartition('-')[2]}.wandb"
        log.parent.mkdir(parents=True)
        log.write_bytes(text)

    return function


def steps_of(told):
    return sorted(step for step, name in told if name == "train/loss")


def test_what_was_lost_on_the_way_to_the_server_was_not_told(segment, tmp_path):
    """The first start was killed with three rows sent of five; the second goes on from three, and is killed too."""
    segment("run-20260101_000000-a", 0, [10, 20, 30, 40, 50])
    assert steps_of(cells(tmp_path, "a")) == [10, 20, 30, 40, 50]
    assert steps_of(cells(tmp_path, "a", 2)) == [10, 20]
    segment("run-20260101_000001-a", 3, [31, 41, 51])
    assert steps_of(cells(tmp_path, "a")) == [10, 20, 30, 31, 41, 51]
    assert steps_of(cells(tmp_path, "a", 5)) == [10, 20, 30, 31, 41]
    segment("run-20260101_000002-a", 1, [21])
    assert steps_of(cells(tmp_path, "a")) == [10, 21]  # whatever stood there before
    assert cells(tmp_path, "a", 0) == set()  # the server has lost the run


def test_what_is_kept_offline_will_be_sent_and_counts(segment, tmp_path):
    segment("offline-run-20260101_000000-a", 0, [1, 2])
    segment("run-20260101_000001-a", 0, [3, 4])
    segment("offline-run-20260101_000002-a", 0, [5])
    segment("offline-run-20260101_000003-b", 0, [6])
    assert steps_of(cells(tmp_path, "a", 1)) == [1, 2, 3, 5]
    assert [s.started[-1] for s in segments(tmp_path)] == ["0", "1", "2", "3"]
