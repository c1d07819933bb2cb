"""What a command asks for, and how other processes are told the same."""

from pathlib import Path

import pytest
import yaml

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
    Path("experiment.yaml").write_text("trainer: {max_steps: 3}\n")
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
    assert [asked.run(str(place)) for place in range(4)] == list(asked.jobs) == [asked.run(name) for name in asked.jobs]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("2", "--cell 2 is out of range: .*plan.yaml has 2 runs, from 0"),
        ("-1", "no run of that name"),
        ("hih", "no run of that name, did you mean high"),
    ],
)
def test_a_run_that_is_not_there_is_named(config, cell, said):
    with pytest.raises(UserError, match=said):
        Request.of(config, "out").run(cell)


def test_a_run_of_another_config_is_refused_whatever_names_it(config):
    asked = Request.of(config, "out")
    run = asked.jobs["high"].run
    run.mkdir(parents=True)
    (run / "training.job").write_text(asked.jobs["low"].training())
    for refused in (lambda: asked.run("1"), lambda: asked.run("high"), asked.refuse_others, asked.begin):
        with pytest.raises(UserError, match=f"{run} was begun under another config than .* now says for high"):
            refused()
    assert asked.run("0") == "low" and not (asked.folder / "benchmark.yaml").exists()


def test_places_are_not_counted_in_a_plan_that_was_changed_since(config):
    """Array elements that still wait would train other runs than they were submitted for."""
    Request.of(config, "out").begin()
    values = {"new": {"trainer.max_steps": 5}, **PLAN["axes"]["lr"]}
    Path(config).write_text(yaml.safe_dump({**PLAN, "axes": {"lr": values}}, sort_keys=False))
    changed = Request.of(config, "out")
    with pytest.raises(UserError, match="--cell 0 may mean another run: name the run, or submit"):
        changed.run("0")
    assert changed.run("new") == "new"
    changed.begin()
    assert changed.run("0") == "new"
