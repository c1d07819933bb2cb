"""metrics.csv: one row a step, on the disk at once, never shorter than what was logged."""

import csv
import os
import signal
import tracemalloc

import pytest
from lightning.pytorch.utilities import rank_zero_only

from lightning_gen.loggers import MetricsCSV
from lightning_gen.metrics_file import last_step, read_metrics


def rows(run):
    with open(run / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_one_row_a_step_and_values_to_the_last_bit(tmp_path):
    logger, value = MetricsCSV(tmp_path), 0.1
    for step in range(1, 30):
        logger.log_metrics({"a": value, "epoch": 3}, step)
        value *= 1.7
    assert [int(row["step"]) for row in rows(tmp_path)] == [*range(1, 30)]
    read = read_metrics(tmp_path / "metrics.csv")
    assert read.keys() == {"a"}
    assert all(later == earlier * 1.7 for (_, earlier), (_, later) in zip(read["a"], read["a"][1:]))


def test_metrics_of_one_step_share_its_row_whoever_logs_them(tmp_path):
    logger = MetricsCSV(tmp_path)
    for step in (10, 20, 30):
        logger.log_metrics({"b": step + 0.123456789}, step)  # from the second step on, no column is new
        logger.log_metrics({"a": step}, step)
        logger.log_metrics({"b": -step}, step)  # the last word counts, also where it is the shorter one
    expected = [{"step": str(s), "a": f"{s}.0", "b": f"-{s}.0"} for s in (10, 20, 30)]
    assert rows(tmp_path) == expected


def test_a_new_column_keeps_every_earlier_row(tmp_path):
    logger = MetricsCSV(tmp_path)
    expected = []
    for step in range(1, 20):
        metrics = {f"m{i}": float(i * step) for i in range(step) if step % (i + 1) == 0}
        logger.log_metrics(metrics, step)
        expected.append({"step": str(step), **{k: repr(v) for k, v in metrics.items()}})
        assert rows(tmp_path) == expected
    logger.log_metrics({"late": 1.0}, 19)
    assert rows(tmp_path) == [*expected[:-1], {**expected[-1], "late": "1.0"}]
    logger.log_metrics({"m0": 7.0}, 20)
    assert rows(tmp_path)[-1] == {"step": "20", "m0": "7.0"} and len(rows(tmp_path)) == 20


def test_what_has_no_step_or_no_value_makes_no_row(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1.0}, None)
    logger.log_metrics({"epoch": 1.0}, 3)
    logger.log_metrics({}, 3)
    assert read_metrics(logger.path) == {} and last_step(logger.path) == 0


@pytest.mark.parametrize("resume, kept", [(0, 0), (15, 1), (20, 2), (99, 3)])
def test_a_resumed_run_drops_later_rows_and_goes_on(tmp_path, resume, kept):
    first = MetricsCSV(tmp_path)
    for step in (10, 20, 30):
        first.log_metrics({"a": step, "b": step}, step)
    before = rows(tmp_path)
    second = MetricsCSV(tmp_path, resume_step=resume)
    assert rows(tmp_path) == before[:kept] and last_step(second.path) == 10 * kept
    second.log_metrics({"b": 1.0}, resume + 1)
    second.log_metrics({"a": 2.0}, resume + 1)
    second.log_metrics({"c": 3.0}, resume + 2)
    assert rows(tmp_path) == [
        *before[:kept],
        {"step": str(resume + 1), "a": "2.0", "b": "1.0"},
        {"step": str(resume + 2), "c": "3.0"},
    ]


def test_further_metrics_of_the_step_resumed_from_join_its_row(tmp_path):
    MetricsCSV(tmp_path).log_metrics({"a": 1.0}, 10)
    second = MetricsCSV(tmp_path, resume_step=10)
    second.log_metrics({"a": 2.0}, 10)
    second.log_metrics({"val": 3.0}, 10)
    assert rows(tmp_path) == [{"step": "10", "a": "2.0", "val": "3.0"}]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_process_has_lost_nothing(tmp_path):
    process = os.fork()
    if process == 0:
        try:
            logger = MetricsCSV(tmp_path)
            for step in range(1, 101):
                logger.log_metrics({"a": step / 3, **({"b": 1.0} if step == 50 else {})}, step)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
    read = read_metrics(tmp_path / "metrics.csv")
    assert read == {"a": [(s, s / 3) for s in range(1, 101)], "b": [(50, 1.0)]}


def test_a_row_that_a_crash_cut_short_is_not_read_as_another_step(tmp_path):
    logger = MetricsCSV(tmp_path)
    for step in (110, 120):
        logger.log_metrics({"a": 1.0, "b": 2.0}, step)
    whole = logger.path.read_bytes()
    for length in range(1, len(b"120,1.0,2.0\n")):
        logger.path.write_bytes(whole[:-length])
        resumed = MetricsCSV(tmp_path, resume_step=115)
        resumed.log_metrics({"a": 3.0, "b": 4.0}, 116)
        assert [row["step"] for row in rows(tmp_path)] == ["110", "116"]


STRANGE = {
    "bytes": lambda file: file.write_bytes(bytes(range(256)) * 1000),
    "text": lambda file: file.write_text("notes\nof mine\n"),
    "one long line": lambda file: file.write_text("step," * 10**6),
    "header twice": lambda file: file.write_text("step,step\n1,2\n"),
    "empty": lambda file: file.touch(),
    "folder": lambda file: file.mkdir(),
    "pipe": lambda file: os.mkfifo(file),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_metrics_csv_is_set_aside_and_said(tmp_path, kind, guarded):
    STRANGE[kind](tmp_path / "metrics.csv")
    with pytest.warns(UserWarning, match=r"metrics\.csv is not what was written: it is metrics\.csv\.aside-1 now"):
        logger = MetricsCSV(tmp_path, resume_step=9)
    logger.log_metrics({"a": 1.0}, 10)
    assert rows(tmp_path) == [{"step": "10", "a": "1.0"}] and (tmp_path / "metrics.csv.aside-1").exists()


def test_strange_rows_at_the_end_go_and_elsewhere_they_do_not_matter(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"step,a\n\xff\xfe,,,\n5,1.0\nnotes\n" + bytes(200_000) + b"\n7,1.0\n9,")
    logger = MetricsCSV(tmp_path, resume_step=6)
    logger.log_metrics({"a": 2.0}, 8)
    assert logger.path.read_bytes() == b"step,a\n\xff\xfe,,,\n5,1.0\n8,2.0\n"


def test_of_many_rows_a_resume_reads_the_last_alone(tmp_path):
    with open(tmp_path / "metrics.csv", "w") as file:
        file.write("step,a,b\n")
        file.writelines(f"{step},0.5,0.25\n" for step in range(10**5))
    tracemalloc.start()
    logger = MetricsCSV(tmp_path, resume_step=10**5 - 500)
    logger.log_metrics({"a": 2.0}, 10**5 - 499)
    logger.log_metrics({"c": 3.0}, 10**5 - 499)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    *_, before, last = logger.path.read_text().splitlines()
    assert peak < 1e6 < logger.path.stat().st_size and (before, last) == ("99500,0.5,0.25,", "99501,2.0,,3.0")


def test_a_file_that_is_lost_is_said_where_there_was_a_run_and_one_that_goes_begins_again(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_00000005.ckpt").touch()
    with pytest.warns(UserWarning, match=r"there is no .*metrics\.csv: its curves begin after step 5"):
        logger = MetricsCSV(tmp_path, resume_step=5)
    logger.log_metrics({"a": 1.0}, 6)
    logger.path.unlink()
    logger.log_metrics({"a": 2.0}, 7)
    assert rows(tmp_path) == [{"step": "7", "a": "2.0"}]


def test_a_validation_that_is_nan_is_said_once(tmp_path):
    logger = MetricsCSV(tmp_path)
    with pytest.warns(UserWarning) as said:
        for step in range(1, 4):
            logger.log_metrics({"val/loss": float("nan"), "val/fine": 1.0, "train/loss": 1.0}, step)
    assert [str(each.message) for each in said] == ["val/loss is NaN at step 1; it is not said again"]


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    MetricsCSV(tmp_path).log_metrics({"a": 1.0}, 10)
    before = (tmp_path / "metrics.csv").read_bytes()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    other = MetricsCSV(tmp_path, resume_step=5)
    other.log_metrics({"a": 2.0}, 6)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    MetricsCSV(tmp_path / "elsewhere").log_metrics({"a": 1.0}, 1)
    assert not (tmp_path / "elsewhere").exists()
