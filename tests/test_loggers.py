"""metrics.csv: one row a step, on the disk at once, never shorter than what was logged."""

import csv
import os
import signal

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


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    MetricsCSV(tmp_path).log_metrics({"a": 1.0}, 10)
    before = (tmp_path / "metrics.csv").read_bytes()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    other = MetricsCSV(tmp_path, resume_step=5)
    other.log_metrics({"a": 2.0}, 6)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    MetricsCSV(tmp_path / "elsewhere").log_metrics({"a": 1.0}, 1)
    assert not (tmp_path / "elsewhere").exists()
