"""The rows of a run's starts: whatever stands in their file, the run begins; a copy is known by where it was begun."""

import os
import shutil
import tracemalloc

import pytest

from lightning_gen.attempts import begin_attempt, other_places, read_attempts
from lightning_gen.run_entry import enter

STRANGE = {
    "bytes": lambda file: file.write_bytes(bytes(range(256)) * 1000),
    "text": lambda file: file.write_text("notes\n"),
    "zeros": lambda file: file.write_bytes(bytes(5000)),
    "one long line": lambda file: file.write_text("x," * 300_000),
    "empty": lambda file: file.touch(),
    "folder": lambda file: file.mkdir(),
    "pipe": lambda file: os.mkfifo(file),
    "link to nothing": lambda file: file.symlink_to("/nowhere/attempts.csv"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_list_of_starts_is_set_aside_and_said(tmp_path, kind, guarded, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "7")
    STRANGE[kind](tmp_path / "attempts.csv")
    with pytest.warns(UserWarning, match=r"attempts\.csv is not what was written: it is attempts\.csv\.aside-1 now"):
        begin_attempt(tmp_path, 8, 1)
    assert [row["from_step"] for row in read_attempts(tmp_path)] == ["8"]
    assert os.path.lexists(tmp_path / "attempts.csv.aside-1")


def test_starts_of_an_older_version_and_a_row_that_was_cut_are_gone_on_from(tmp_path):
    (tmp_path / "attempts.csv").write_text("time,host,job,restart,ranks,from_step\nt,h,,0,1,0\nt,h,,0,1,4\nt,h")
    begin_attempt(tmp_path, 8, 1)
    assert [row["from_step"] for row in read_attempts(tmp_path)] == ["0", "4", "8"]
    with open(tmp_path / "attempts.csv", "a") as file:
        file.write("t,h")
    begin_attempt(tmp_path, 12, 1)
    assert [row["from_step"] for row in read_attempts(tmp_path)] == ["0", "4", "8", "12"]


def test_a_million_rows_are_not_read(tmp_path):
    begin_attempt(tmp_path, 0, 1)
    row = (tmp_path / "attempts.csv").read_bytes().splitlines(keepends=True)[1]
    with open(tmp_path / "attempts.csv", "ab") as file:
        file.write(row * 10**6)
    size = (tmp_path / "attempts.csv").stat().st_size
    tracemalloc.start()
    begin_attempt(tmp_path, 3, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6 < size and read_attempts(tmp_path)[-1]["from_step"] == "3"


def test_a_copy_gets_an_id_of_its_own_and_a_run_that_was_moved_keeps_its(tmp_path):
    def begun(run):
        identity = enter("fit", run, {}, {}, None).identity
        begin_attempt(run, 0, 1)
        (run / "run_id").write_text(identity + "\n")
        return identity

    (tmp_path / "a").mkdir()
    own = begun(tmp_path / "a")
    assert begun(tmp_path / "a") == own
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copied = begun(tmp_path / "b")
    assert copied != own and begun(tmp_path / "b") == copied and begun(tmp_path / "a") == own
    assert other_places(tmp_path / "b") == [tmp_path / "a"] and other_places(tmp_path / "a") == []
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "link").symlink_to(tmp_path / "c")
    assert begun(tmp_path / "link") == own == begun(tmp_path / "c")
