"""The verb: its table, its refusals and its files."""

import csv
import subprocess
import sys

import pytest

from lightning_gen.__main__ import main


def table(folder, name="table"):
    with open(folder / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def compared(tmp_path, capsys):
    """compared(*paths and flags): exit status, what was printed, what was complained of."""

    def function(*args):
        capsys.readouterr()
        status = main(["compare", *map(str, args)])
        return status, *capsys.readouterr()

    return function


def test_the_table(seeds, compared, tmp_path):
    paths = [
        *seeds("a", [2.0, 2.5, 2.2], bits=3.0),
        *seeds("b", [2.1, 2.4, 2.4], bits=3.0),
        *seeds("c", [7.0, 7.7, 7.1], bits=4.0),
    ]
    status, out, _ = compared(*paths, "--out", tmp_path / "out")
    assert status == 0 and out.splitlines()[-1] == str(tmp_path / "out")
    assert "FD[digits]" in out and "1\N{EN DASH}2  a" in out and "floor" in out and "ceiling" in out
    assert "3 training seeds" in out and "3 pairs were compared" in out and max(map(len, out.splitlines()[:-1])) <= 120
    found = table(tmp_path / "out")
    assert list(found[0])[:4] == ["model", "fd", "bits_per_dim", "images_per_s"]
    assert [(row["model"], row["rank_low"], row["rank_high"]) for row in found] == [
        ("a", "1", "2"),
        ("b", "1", "2"),
        ("c", "3", "3"),
        ("floor", "", ""),
        ("ceiling", "", ""),
    ]
    assert [float(run["fd"]) for run in table(tmp_path / "out", "runs")[:3]] == [2.0, 2.5, 2.2]
    assert (tmp_path / "out" / "compare.png").stat().st_size > 1000
    lines = [line for line in (tmp_path / "out" / "table.md").read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3 + 2 and len({line.count("|") for line in lines}) == 1


def test_the_csv_holds_every_digit(seeds, compared, tmp_path):
    fds = [1 / 3, 2 / 7, 0.1 + 0.2]
    compared(*seeds("a", fds), "--out", tmp_path / "out")
    assert [float(run["fd"]) for run in table(tmp_path / "out", "runs")] == fds


def test_the_order_of_the_words_is_of_no_consequence(seeds, compared):
    paths = [*seeds("a", [2.0, 2.5]), *seeds("b", [2.1, 3.4])]
    assert compared(*paths) == compared(*paths[::-1])


def test_numbers_measured_differently_are_refused(evaluated, compared):
    pair = evaluated("a", fd=1.0), evaluated("b", fd=2.0, num_samples=50)
    status, out, err = compared(*pair)
    assert status == 2 and not out and err.count("\n") == 1
    assert "num_samples is 600 in a and 50 in b" in err and "--force" in err and "--across" not in err
    pair = evaluated("a", fd=1.0), evaluated("b", fd=2.0, nfe=25)
    status, _, err = compared(*pair)
    assert status == 2 and "--across sampler" in err
    status, out, _ = compared(*pair, "--across", "sampler")
    assert status == 0 and "nfe" in out


def test_forced_they_are_marked_and_not_ranked(evaluated, compared, tmp_path):
    pair = evaluated("a", fd=3.0, bits=1.0), evaluated("b", fd=2.0, bits=2.0, num_samples=50)
    status, out, _ = compared(*pair, "--force", "--out", tmp_path / "out")
    assert (
        status == 0 and "not ranked" in out and "INCOMPARABLE" in out and "num_samples is 600 in a and 50 in b" in out
    )
    found = table(tmp_path / "out")
    assert [row["rank_low"] for row in found] == [""] * 4 and [row["model"] for row in found[:2]] == [
        "a",
        "b",
    ]  # not by FD
    assert [row["fd_difference"] for row in found[:2]] == ["", ""] and found[0]["comparable"] == "no"
    assert [row["baseline"] for row in found] == [""] * 4  # there is no first row to set the others against
    status, out, _ = compared(*pair, "--force", "--rank_by", "bits_per_dim")  # which were measured alike
    assert status == 0 and "ranked by bits/dim" in out and "FD[digits], incomparable" in out


def test_one_seed_is_said_to_have_no_interval(evaluated, compared):
    status, out, _ = compared(evaluated("a", fd=1.0), evaluated("b", fd=2.0))
    assert status == 0 and "an interval of FD needs two training seeds of both models" in " ".join(out.split())


def test_what_is_missing_is_one_line(evaluated, compared, tmp_path):
    for args in (
        [tmp_path / "nowhere"],
        [evaluated("a", fd=1.0), "--name", "other"],
        [evaluated("a", fd=1.0), "--across", "x"],
    ):
        status, out, err = compared(*args)
        assert status == 2 and not out and err.count("\n") == 1 and err.startswith("lightning-gen compare: ")


def test_it_needs_no_torch():
    code = "import sys, lightning_gen.comparison.compare; sys.exit(bool({'torch', 'scipy', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_notes_reach_the_table(evaluated, compared, tmp_path):
    twice = [evaluated(f"x-{i}", fd=1.0 + i, seed=0, recipe="x", commit=str(i)) for i in range(2)]
    assert compared(*twice, "--out", tmp_path / "out")[0] == 0
    text = (tmp_path / "out" / "table.md").read_text()
    assert "training seed 0 twice" in text and "commit is 0 in x-0; 1 in x-1" in text


def test_more_than_one_thing_may_differ_on_purpose(evaluated, compared, tmp_path):
    pair = evaluated("a", fd=1.0), evaluated("b", fd=2.0, nfe=25, weights="raw")
    assert compared(*pair, "--across", "sampler")[0] == 2
    assert compared(*pair, "--across", "sampler,weights", "--out", tmp_path)[0] == 0
    header = (tmp_path / "table.csv").read_text().splitlines()[0]
    assert header.startswith("model,nfe,weights,fd,")


def test_steps_of_one_recipe_are_a_column(evaluated, compared, tmp_path):
    runs = [evaluated(f"x-{step}", fd=1.0, recipe="x", step=step) for step in (500, 900)]
    assert compared(*runs, "--out", tmp_path)[0] == 0
    assert {row["model"]: row["step"] for row in table(tmp_path)} == {
        **{"x-500": "500", "x-900": "900"},
        **{"floor": "", "ceiling": ""},
    }


def test_fixed_rows_of_another_protocol_do_not_stand_there(evaluated, compared, tmp_path):
    """A benchmark's memorised, of 600 samples, is nothing to set 100 samples of its runs beside."""
    for name, num in (("benchmark", 600), ("small", 100)):
        run = evaluated("a", fd=2.0, name=name, num_samples=num)
    baselines = tmp_path / "bench" / "baselines"
    baselines.mkdir(parents=True)
    (tmp_path / "bench" / "cells").mkdir()
    (run / "evaluation" / "benchmark.json").rename(baselines / "memorised.json")
    run.rename(tmp_path / "bench" / "cells" / "a")
    assert compared(tmp_path / "bench", "--name", "small", "--out", tmp_path / "out")[0] == 0
    assert "memorised" not in {row["model"] for row in table(tmp_path / "out")}
    text = (tmp_path / "out" / "table.md").read_text()
    assert "Left out: memorised" in text and "num_samples is 100 in a and 600 in memorised" in text


def test_flags_may_stand_between_runs(evaluated, compared):
    a, b = evaluated("a", fd=1.0, name="x"), evaluated("b", fd=2.0, name="x")
    status, out, _ = compared(a, "--name", "x", b)
    assert status == 0 and "2 models" in out


def test_one_run_alone_is_not_ranked(evaluated, compared):
    status, out, _ = compared(evaluated("a", fd=1.0))
    assert status == 0 and "rank " not in out and "ranked" not in out and "1.000" in out
