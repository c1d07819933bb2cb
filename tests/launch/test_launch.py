"""The verb: what is launched, what it says, and what it leaves behind when it is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_gen.__main__ import main

TOY = "configs/experiment/toy_diffusion.yaml"
CPU = ["--cluster", "configs/cluster/cpu.yaml"]


def said(capsys, *args, status=0):
    assert main(["launch", *args]) == status, capsys.readouterr().err
    out, err = capsys.readouterr()
    return out if status == 0 else err


def test_without_slurm_a_dry_run_prints_the_script(project, capsys):
    for flag in ("--dry-run", "--dry_run"):
        script = said(capsys, TOY, *CPU, "--nodes", "2", flag, "--trainer.max_steps", "30")
        assert script.startswith("#!/usr/bin/env bash\n") and "#SBATCH --nodes=2\n" in script
        assert f"set -- {TOY} --trainer.max_steps 30\n" in script
    assert not (project / "runs").exists()
    assert "--dry-run" in said(capsys, TOY, *CPU, status=2)
    assert not any((project / "runs").iterdir())  # the directory of a job that was not to be


def test_a_training_is_submitted_into_a_directory_of_its_own(sbatch, capsys):
    lines = said(capsys, TOY, *CPU).splitlines()
    assert lines[-1] == "runs/toy_diffusion-1" and lines[0].startswith("job 77: 1 x 1 tasks")
    assert "squeue --jobs 77" in lines[1] and "tail -F runs/toy_diffusion-1/slurm/toy_diffusion.log" in lines[1]
    assert "export RUN_DIR=runs/toy_diffusion-1\n" in sbatch.script
    assert said(capsys, TOY, *CPU).splitlines()[-1] == "runs/toy_diffusion-2"


def test_a_run_can_be_launched_again(sbatch, capsys):
    for _ in range(2):
        assert said(capsys, TOY, *CPU, "--run", "some/run", "--job_name=moons").splitlines()[-1] == "some/run"
    assert "export RUN_DIR=some/run\n" in sbatch.script and sbatch.arguments[-1] == "some/run/slurm/moons.sbatch"


def test_flags_win_over_the_cluster(sbatch, capsys):
    said(capsys, TOY, *CPU, "--time", "1:30:00", "--mem=7G", "--qos", "low", "--check")
    assert "#SBATCH --time=1:30:00\n" in sbatch.script and "#SBATCH --cpus-per-task=2\n" in sbatch.script


def test_slurm_is_asked_and_nothing_is_left(sbatch, capsys, monkeypatch, project):
    assert "to start at noon" in said(capsys, TOY, *CPU, "--check")
    monkeypatch.setenv("REFUSES", "no such partition")
    for flags in (["--check"], []):
        assert "Slurm refuses the job: no such partition" in said(capsys, TOY, *CPU, *flags, status=2)
    assert not list(project.glob("runs/*"))


def test_a_run_directory_is_evaluated(sbatch, capsys, project):
    (project / "it" / "checkpoints").mkdir(parents=True)
    lines = said(capsys, "it", *CPU, "--tasks_per_node=2", "--num_samples", "8", "--", "--name", "x").splitlines()
    assert lines[-1] == "it" and lines[0].startswith("job 77: 1 x 2 tasks")
    assert "set -- it --num_samples 8 --name x\n" in sbatch.script and "lightning_gen evaluate" in sbatch.script
    assert "leave it out" in said(capsys, "it", "--run", "other", status=2)
    (project / "empty").mkdir()
    assert "holds no checkpoint" in said(capsys, "empty", status=2)


def test_a_benchmark_is_an_array_and_a_job_that_waits_for_it(project, capsys):
    plan = "configs/benchmark/digits.yaml"
    text = said(capsys, plan, *CPU, "--run", "out", "--max_parallel", "3", "--seeds=2", "--dry-run")
    cells, table = text.split("#!/usr/bin/env bash\n")[1:]
    assert (
        "#SBATCH --array=0-23%3\n" in cells
        and "gpus-per-node=" not in cells.partition("set -u")[0].split("#SBATCH", 1)[1]
    )
    assert "#SBATCH --dependency=afterany:" in table and f"--out {project / 'out'}" in table
    assert not (project / "out").exists()
    assert "no key 'samples'" in said(capsys, plan, *CPU, "--samples", "3", "--dry-run", status=2)


@pytest.mark.parametrize(
    "args, part",
    [
        (["configs/experiment/toy_difusion.yaml"], "did you mean configs/experiment/toy_diffusion.yaml?"),
        ([TOY, "--node", "2"], "did you mean --nodes?"),
        ([TOY, "--gpus", "2"], "did you mean --gpus_per_node?"),
        ([TOY, *CPU, "--job_name", "interactive"], "--job_name"),
        ([TOY, *CPU, "--signal", "USR1@60"], "less than 120 s"),
        ([TOY, *CPU, "--nodes", "two"], "nodes"),
        ([TOY, *CPU, "--dry-run", "--check"], "give one of them"),
        ([TOY, *CPU, "--", "--trainer.devices=2"], "follows from the job"),
        (["configs/data/digits.yaml", "word"], "belongs to no option"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(sbatch, capsys, project, args, part):
    error = said(capsys, *args, status=2)
    assert part in error and len(error.splitlines()) == 1
    assert sbatch.script is None and not list(project.glob("runs/*"))


def test_it_starts_without_what_only_training_needs(project):
    code = (
        "import sys; from lightning_gen.__main__ import main; "
        f"main(['launch', {TOY!r}, '--cluster', 'configs/cluster/cpu.yaml', '--dry-run']); "
        "print(sorted({'torch', 'lightning', 'wandb', 'matplotlib', 'numpy'} & sys.modules.keys()))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.splitlines()[-1] == "[]"


def test_the_template_is_that_of_the_project_at_hand(project, capsys):
    (project / "slurm").unlink()
    assert "#SBATCH" in said(capsys, TOY, *CPU, "--dry-run")  # the one beside the package
    (project / "slurm").mkdir()
    (project / "slurm" / "train.sbatch").write_text(
        Path(__file__)
        .resolve()
        .parents[2]
        .joinpath("slurm/train.sbatch")
        .read_text()
        .replace("set -uo", "# mine\nset -uo")
    )
    assert "# mine\n" in said(capsys, TOY, *CPU, "--dry-run")
