import csv
import random

import pytest

from lightning_gen.metrics_file import last_step, read_metrics, read_rows


def write(path, columns, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    return path


@pytest.mark.parametrize("num_columns", [1, 3, 400])
@pytest.mark.parametrize("num_rows", [1, 2, 50])
def test_what_is_read_is_what_a_plain_reader_sees(tmp_path, num_columns, num_rows):
    rng = random.Random(num_rows)
    names = [f"m/{i}" for i in range(num_columns)]
    rows = [[10 * (r + 1), *(repr(rng.random()) if rng.random() < 0.9 else "" for _ in names)] for r in range(num_rows)]
    rows[-1][1:] = [repr(rng.random()) for _ in names]
    path = write(tmp_path / "metrics.csv", ["step", *names], rows)
    plain = list(csv.DictReader(path.read_text().splitlines()))
    assert read_rows(path) == plain
    assert last_step(path) == int(plain[-1]["step"]) == 10 * num_rows
    expected = {n: [(int(row["step"]), float(row[n])) for row in plain if row[n] != ""] for n in names}
    assert read_metrics(path) == {name: series for name, series in expected.items() if series}


def test_no_file_an_empty_one_and_a_header_alone_hold_nothing(tmp_path):
    path = tmp_path / "metrics.csv"
    assert read_metrics(path) == {} and last_step(path) == 0
    for text in ("", "step\n", "step,train/loss\n"):
        path.write_text(text)
        assert read_metrics(path) == {} and last_step(path) == 0


def test_rows_before_a_column_came_to_be_lack_it(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,a,b\n1,0.5\n2,0.25,4.0\n")
    assert read_rows(path)[0] == {"step": "1", "a": "0.5", "b": ""}
    assert read_metrics(path) == {"a": [(1, 0.5), (2, 0.25)], "b": [(2, 4.0)]}
