"""Sweeps: W&B's own program takes every file, the command line takes what its agents give, and a run is the agent's."""

import itertools
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from lightning_gen import wandb_run
from lightning_gen.__main__ import main
from lightning_gen.cli import GenerativeCLI
from lightning_gen.metrics_file import read_metrics
from lightning_gen.run_entry import choose_directory

ROOT = Path(__file__).resolve().parents[1]
SWEEPS = sorted((ROOT / "configs" / "sweep").glob("*.yaml"))
KEYS = {"name", "project", "program", "method", "metric", "run_cap", "early_terminate", "parameters", "command"}


class Parsed(Exception):
    """The command line was taken."""


@pytest.fixture
def agents_command(monkeypatch):
    """agents_command(sweep, values): the words after `fit` that W&B's agent gives for these values."""
    monkeypatch.chdir(ROOT)

    def function(sweep, values):
        said = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
        words = itertools.chain(*(said["args"] if word == "${args}" else [word] for word in sweep["command"]))
        environment, program, verb, *rest = words
        assert (environment, program, verb) == ("${env}", "${program}", "fit")
        return rest

    return function


def ends(parameter):
    """The first and the last value of a parameter."""
    return (
        [parameter["values"][0], parameter["values"][-1]]
        if "values" in parameter
        else [parameter["min"], parameter["max"]]
    )


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_sweep_is_one_that_w_and_b_knows(file):
    sweep = yaml.safe_load(file.read_text())
    assert sweep.keys() <= KEYS and {"program", "method", "parameters", "command"} <= sweep.keys()
    assert sweep["program"] == "lightning-gen" and sweep["method"] in ("grid", "random", "bayes")
    assert sweep["metric"]["goal"] == "minimize"
    for parameter in sweep["parameters"].values():
        if sweep["method"] == "grid":
            assert parameter.keys() == {"values"}
        else:
            assert parameter["distribution"] == "log_uniform_values" and 0 < parameter["min"] < parameter["max"]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_what_an_agent_gives_is_taken(file, agents_command, monkeypatch):
    """The first and the last combination reach the model."""
    sweep = yaml.safe_load(file.read_text())

    def seen(self):
        raise Parsed(self._resolved())

    monkeypatch.setattr(GenerativeCLI, "before_instantiate_classes", seen)
    for values in zip(*map(ends, sweep["parameters"].values())):
        given = dict(zip(sweep["parameters"], values))
        with pytest.raises(Parsed) as taken:
            GenerativeCLI("fit", agents_command(sweep, given))
        (config,) = taken.value.args
        assert config["trainer"]["logger"]["class_path"].endswith("WandbLogger")
        for key, value in given.items():
            found = config
            for name in key.split("."):
                found = found[name]
            assert found == value or found["class_path"].endswith(f".{value}")


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_the_metric_is_one_that_the_run_logs(file, agents_command, monkeypatch, tmp_path):
    sweep = yaml.safe_load(file.read_text())
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    words = [word for word in agents_command(sweep, {}) if not word.startswith("--trainer.logger")]
    short = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.limit_val_batches=1"]
    small = ["--data.init_args.batch_size=2", "--data.init_args.eval_batch_size=2", "--samples.num=1"]
    assert main(["fit", *words, *short, *small, "--run", str(tmp_path / "run")]) == 0
    assert read_metrics(tmp_path / "run" / "metrics.csv")[sweep["metric"]["name"]]


@pytest.fixture
def agent(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "LOCAL_RANK", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SWEEP_ID", "me/lab/s7")
    monkeypatch.setenv("WANDB_RUN_ID", "r3")


def test_a_run_of_a_sweep_is_the_agents_and_has_a_directory_of_its_own(agent, monkeypatch):
    """The same at every start, so that the agent's run goes on where it was; the same on every rank."""
    assert wandb_run.sweep_run() == "r3" and wandb_run.sweep_directory() == str(Path("runs") / "s7-r3")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert choose_directory("fit", wandb_run.sweep_directory(), None, "x") == (Path("runs/s7-r3"), False)


def test_without_an_agent_a_run_is_its_own(agent, monkeypatch):
    monkeypatch.delenv("WANDB_SWEEP_ID")
    assert wandb_run.sweep_run() is None and wandb_run.sweep_directory() is None


@pytest.mark.parametrize(("verb", "own"), [("fit", None), ("fit", "mine")])
def test_the_command_line_enters_the_agents_run(agent, monkeypatch, verb, own):
    """--run names another directory; the id is the agent's in either case, else the sweep would see nothing of it."""
    known = {}

    def seen(logger, run, identity, job_type, tags, group=None):
        known.update(run=run, identity=identity, job_type=job_type, tags=tags, group=group)
        raise Parsed

    monkeypatch.setattr(wandb_run, "complete", seen)
    config = ROOT / "configs" / "experiment" / "toy_diffusion.yaml"
    with pytest.raises(Parsed):
        GenerativeCLI(verb, ["--config", str(config), "--seed_everything=3", *(["--run", own] if own else [])])
    assert known["run"] == Path(own or "runs/s7-r3") and known["identity"] == "r3"
    assert known["group"].startswith("toy_diffusion-") and "seed-3" in known["tags"] and known["job_type"] == "fit"
    assert not known["run"].exists()


def test_seeds_of_a_configuration_are_a_group_and_other_configurations_are_not(agent, monkeypatch):
    groups = []

    def seen(*args):
        groups.append(args[-1])
        raise Parsed

    monkeypatch.setattr(wandb_run, "complete", seen)
    config = ["--config", str(ROOT / "configs" / "experiment" / "toy_diffusion.yaml")]
    seeds = [["--seed_everything=1"], ["--seed_everything=2", "--trainer.log_every_n_steps=7"]]
    others = [[f"--model.init_args.optimizer.init_args.lr={lr}"] for lr in (0.5, 0.25)]
    others += [["--trainer.max_steps=7"], ["--data.init_args.batch_size=16"]]
    for words in (*seeds, *others):
        with pytest.raises(Parsed):
            GenerativeCLI("fit", [*config, *words])
    assert groups[0] == groups[1] and len(set(groups)) == 1 + len(others)
