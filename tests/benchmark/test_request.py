"""What a command asks for, and how other processes are told the same."""

import fcntl
from pathlib import Path

import pytest
import yaml

from lightning_gen import run_lock
from lightning_gen.__main__ import main
from lightning_gen.benchmark import run as benchmark
from lightning_gen.benchmark.cell import run_job
from lightning_gen.benchmark.request import Request
from lightning_gen.errors import UserError

PLAN = {
    "name": "pair",
    "experiment": "experiment.yaml",
    "axes": {"lr": {"low": {"model.init_args.optimizer.init_args.lr": 1}, "high": {}}},
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("experiment.yaml").write_text("{trainer: {max_steps: 3}, data: data.yaml}\n")
    Path("data.yaml").write_text("batch_size: 8\n")
    Path("plan.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))
    return "plan.yaml"


def options(arguments):
    """--name=value and --name value, as the command line takes them."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    return {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}


def test_what_another_process_is_told_means_the_same_anywhere(config, tmp_path, monkeypatch):
    asked = Request.of(config, "out", seeds=2, baseline="low", rank_by="fd")
    monkeypatch.chdir("/")
    told = options(asked.arguments())
    again = Request.of(**{**told, "seeds": int(told["seeds"])})
    assert again == asked and again.jobs == asked.jobs and asked.folder == tmp_path / "out"
    assert (asked.plan.seeds, asked.plan.baseline, asked.plan.rank_by) == ([0, 1], "low", "fd")
    assert list(asked.jobs) == ["low", "high", "low-seed1", "high-seed1"]


def test_what_is_not_asked_for_stays_the_plans(config, tmp_path):
    asked = Request.of(config)
    assert options(asked.arguments()) == {
        "config": str(tmp_path / config),
        "out": str(tmp_path / "runs" / "benchmark-pair"),
    }


def test_a_run_is_named_by_its_name_or_by_its_place(config):
    asked = Request.of(config, "out", seeds=2)
    assert [asked.at(place) for place in range(4)] == list(asked.jobs) == [asked.run(name) for name in asked.jobs]


def test_places_are_places_where_names_are_numbers(config):
    widths = {width: {"model.init_args.width": width} for width in (8, 16, 1, 0)}
    Path(config).write_text(yaml.safe_dump({**PLAN, "axes": {"width": widths}}, sort_keys=False))
    asked = Request.of(config, "out")
    assert [asked.at(place) for place in range(4)] == ["8", "16", "1", "0"] and asked.run("1") == "1"
    with pytest.raises(UserError, match="--cell 3: .* has no run of that name"):
        asked.run("3")


@pytest.mark.parametrize("place", [2, -1])
def test_a_place_that_is_not_there_is_named(config, place):
    with pytest.raises(UserError, match=f"--place {place} is out of range: .*plan.yaml has 2 runs, from 0"):
        Request.of(config, "out").at(place)


def test_a_run_that_is_not_there_is_named(config):
    with pytest.raises(UserError, match="no run of that name, did you mean high"):
        Request.of(config, "out").run("hih")


def test_a_run_of_another_config_is_refused_whatever_names_it(config):
    asked = Request.of(config, "out")
    run = asked.jobs["high"].run
    run.mkdir(parents=True)
    (run / "training.job").write_text(asked.jobs["low"].training())
    for refused in (lambda: asked.at(1), lambda: asked.run("high"), asked.refuse_others, asked.begin):
        with pytest.raises(UserError, match=f"{run} was begun under another config than .* now says for high"):
            refused()
    assert asked.at(0) == "low" and not (asked.folder / "benchmark.yaml").exists()


def test_runs_that_wait_are_not_trained_under_what_was_changed_since(config):
    """Array elements would train other runs, or other models, than they were submitted for."""
    asked = Request.of(config, "out")
    asked.begin()
    values = {"new": {"trainer.max_steps": 5}, **PLAN["axes"]["lr"]}
    edits = {
        config: yaml.safe_dump({**PLAN, "axes": {"lr": values}}, sort_keys=False),
        "experiment.yaml": "{trainer: {max_steps: 4}, data: data.yaml}\n",
        "data.yaml": "batch_size: 9\n",
    }
    for file, text in edits.items():
        before = Path(file).read_text()
        Path(file).write_text(text)
        changed = Request.of(config, "out")
        for refused in (lambda: changed.at(0), lambda: changed.run("low")):  # noqa: B023
            with pytest.raises(
                UserError, match=rf"/{file} is not what it was when .*/out was begun: restore it, or give"
            ):
                refused()
        Path(file).write_text(before)
        assert Request.of(config, "out", seeds=2).at(1) == "high"
    Path(config).write_text(edits[config])
    changed = Request.of(config, "out")
    changed.begin()
    assert changed.at(0) == "new"


@pytest.mark.parametrize(
    ("name", "job"), [("nfe study", "nfe-study"), ("a/b (2)", "a-b-2"), (7, "7"), ("d.1_x+y", "d.1_x+y")]
)
def test_a_plans_name_becomes_that_of_a_job(config, name, job):
    Path(config).write_text(yaml.safe_dump({**PLAN, "name": name}))
    assert Request.of(config, "out").job_name() == job


@pytest.mark.parametrize("name", ["bash", "interactive", "(é)"])
def test_a_plans_name_that_can_be_no_jobs_is_named(config, name):
    Path(config).write_text(yaml.safe_dump({**PLAN, "name": name}))
    with pytest.raises(UserError, match="another `name`"):
        Request.of(config, "out").job_name()


ALL, ONE, TABLE = [], ["--cell", "low"], ["--collect"]


@pytest.mark.parametrize(
    ("held", "more", "refused"),
    [(fcntl.LOCK_EX, ALL, True), (fcntl.LOCK_EX, ONE, True), (fcntl.LOCK_EX, TABLE, False),
     (fcntl.LOCK_SH, ALL, True), (fcntl.LOCK_SH, ONE, False), (fcntl.LOCK_SH, TABLE, False)],
)  # fmt: skip
def test_two_commands_do_not_train_the_same_runs(config, monkeypatch, capsys, held, more, refused):
    """A benchmark holds its directory alone; those that train one run each share it, and the table needs neither."""
    monkeypatch.setattr(run_lock, "_MOMENT_S", 0.0)
    did = []
    monkeypatch.setattr(benchmark, "run_cell", did.append)
    monkeypatch.setattr(benchmark.report, "collect", did.append)
    log = Path("out", "cells", "low", "log.txt")
    log.parent.mkdir(parents=True)
    log.write_text("of the first\n")
    with open("out/lock", "w") as lock:
        fcntl.flock(lock, held)
        assert main(["benchmark", "--config", config, "--out", "out", *more]) == (2 if refused else 0)
    error = capsys.readouterr().err
    assert (
        refused == ("another benchmark works in" in error)
        and error.count("\n") == refused
        and len(did) == (not refused)
    )
    assert log.read_text() == "of the first\n" and {file.name for file in Path("out").iterdir()} == {"cells", "lock"}


def test_a_run_that_another_process_trains_keeps_its_log(config, monkeypatch):
    monkeypatch.setattr(run_lock, "_MOMENT_S", 0.0)
    job = Request.of(config, "out").jobs["low"]
    job.run.mkdir(parents=True)
    (job.run / "log.txt").write_text("of the first\n"), (job.run / "failure.txt").touch()
    with open(job.run / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as left:
            run_job(job)
        assert left.value.code == 1 and (job.run / "log.txt").read_text() == "of the first\n"
        assert (job.run / "failure.txt").exists() and "another process trains" in str(
            benchmark.report.Failure.of("low", job)
        )


def test_a_directory_that_is_a_link_to_nothing_is_refused(config):
    Path("out").symlink_to("gone")
    with pytest.raises(UserError, match="out is a link to gone, which is not there"):
        Request.of(config, "out/more")
