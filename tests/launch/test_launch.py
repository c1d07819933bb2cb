"""The verb: what is launched, what it says, and what it leaves behind when it is refused."""

import itertools
import shlex
import subprocess
from pathlib import Path

import pytest

from lightning_gen.__main__ import main
from lightning_gen.launch import experiment

TOY = "configs/experiment/toy_diffusion.yaml"
ROOT = Path(__file__).resolve().parents[2]
BUILT = experiment.built
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
    assert not (project / "runs").exists()  # nothing is left of a job that was not to be


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
    for flags in (["--check"], [], ["--run", "new/run"]):
        assert "Slurm refuses the job: no such partition" in said(capsys, TOY, *CPU, *flags, status=2)
    assert not (project / "runs").exists() and not (project / "new").exists()
    (project / "old" / "checkpoints").mkdir(parents=True)
    for target in ([TOY, "--run", "old"], ["old"]):
        assert "no such partition" in said(capsys, *target, *CPU, status=2)
    assert [place.name for place in (project / "old").rglob("*")] == ["checkpoints"]
    assert "no such partition" in said(capsys, "configs/benchmark/digits.yaml", *CPU, "--run", "grid", status=2)
    assert not (project / "grid").exists()


def test_an_answer_that_does_not_come_leaves_the_script(sbatch, capsys, monkeypatch, project):
    """The job may have been submitted, and enters this directory."""
    monkeypatch.setattr("lightning_gen.launch.submission.PATIENCE_S", 0.0)
    assert "has not answered" in said(capsys, TOY, *CPU, status=2)
    assert list(project.glob("runs/*/slurm/*.sbatch"))


HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "a;touch pwned",
    "a' ; touch pwned '",
    'a" ; touch pwned "',
    "two  words",
    "100% of %j",
    "#1",
    "$HOME",
    "ä ∂ 漢",
    "*",
    'it\'s"both"',
]
LOST = ["a\ntouch pwned", "a'\ntouch pwned\n'", "a\\b", "a\rb", "a\u2028b"]
"""What Slurm cannot be told: a line break ends the header's line, a backslash keeps it from replacing %j."""


def as_slurm_reads(script):
    """{option: value} as sbatch's own parser finds them, backslashes and quotes taken away."""
    header = itertools.takewhile(lambda line: line[:1] in ("", "#"), script.split("\n"))
    words = [shlex.split(line.removeprefix("#SBATCH"), comments=True) for line in header if line.startswith("#SBATCH")]
    assert all(len(each) == 1 for each in words)
    return {name: value for name, _, value in (each[0].removeprefix("--").partition("=") for each in words)}


def started(script, folder, fakes):
    """The words that a script's srun is given; everything that it does happens in `folder`."""
    (fakes / "srun").write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@" >words\n')
    (fakes / "scontrol").write_text("#!/usr/bin/env bash\necho node\n")
    for name in ("srun", "scontrol"):
        (fakes / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "it", "SLURM_JOB_NODELIST": "node", "SLURM_CPUS_ON_NODE": "1"}
    script = "\n".join(line for line in script.split("\n") if not line.startswith("export PATH=")) + "\n"
    environment = {"PATH": f"{fakes}:/usr/bin:/bin", "HOME": str(folder), **job}
    made = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    return (folder / "words").read_text().split("\0")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_value_is_more_than_a_value_to_the_job(project, capsys, tmp_path_factory, monkeypatch, name):
    """The run, the current folder and the overrides reach the program as they are, and nothing in them is executed."""
    here = tmp_path_factory.mktemp("here")
    folder = here / name
    folder.mkdir()
    for link in ("configs", "slurm"):
        (folder / link).symlink_to(project / link)
    monkeypatch.chdir(folder)
    own = ["--trainer.logger", f"{{a: '{name}'}}" if "'" not in name else "x\n#SBATCH --wrap=evil"]
    script = said(capsys, TOY, *CPU, "--run", f"runs/{name}", "--job_name", "it", "--dry-run", "--", *own)
    header = as_slurm_reads(script)
    assert header["chdir"] == str(folder) and "wrap" not in header
    assert header["output"] == f"runs/{name}/slurm/it.log".replace("%", "%%")  # as Slurm writes %
    words = started(script, folder, tmp_path_factory.mktemp("fakes"))
    assert words[words.index("--run") + 1] == f"runs/{name}" and words[-3:-1] == own
    assert (folder / "runs" / name / "slurm" / "it.log").is_file() and not list(here.rglob("pwned"))


@pytest.mark.parametrize("name", LOST)
def test_what_slurm_cannot_be_told_is_refused_and_leaves_nothing(sbatch, capsys, project, monkeypatch, name):
    for args in ([TOY, "--run", name], ["configs/benchmark/digits.yaml", "--run", name]):
        error = said(capsys, *args, *CPU, status=2)
        assert "job's log" in error and error.count("\n") == 1
    assert sbatch.script is None and not (project / name).exists() and not (project / "runs").exists()
    if "\\" not in name:
        (project / name).mkdir()
        for link in ("configs", "slurm"):
            (project / name / link).symlink_to(project / link)
        monkeypatch.chdir(project / name)
        assert "current folder" in said(capsys, TOY, *CPU, status=2)
        assert sbatch.script is None and not Path("runs").exists()


def test_a_path_that_looks_like_an_option_is_refused(sbatch, capsys, project):
    for run in ("-x", "./--config"):
        assert "taken for an option" in said(capsys, TOY, *CPU, f"--run={run}", status=2)
    assert not (project / "-x").exists()


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


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["--model.init_args.schedule", "Nonsense"], "there is no class 'Nonsense'"),
        (["--trainer.max_stepz", "3"], "did you mean trainer.max_steps?"),
        (["--model.init_args.schedule.init_args.logsnr_min", "20"], "logsnr_min"),
        (["--model.init_args.network.class_path", "torch.nn.ReLU"], "ReLU"),
    ],
)
def test_what_cannot_be_built_is_refused_before_it_waits(overrides, named, sbatch, capsys, monkeypatch, project):
    """The config is resolved and its networks are built, on no device: a job would fail by it after its time in the queue."""
    monkeypatch.setattr(experiment, "built", BUILT)
    for flags in (["--dry-run"], []):
        text = said(capsys, TOY, *CPU, *flags, *overrides, status=2)
        assert named in text and text.count("\n") == 1
    assert sbatch.script is None and not (project / "runs").exists()


def test_what_is_built_has_no_weights(monkeypatch):
    made = BUILT(["--config", str(ROOT / TOY)])
    assert made.config["trainer"]["max_steps"] > 0 and made.data.shape == made.module.shape
    assert {p.device.type for p in made.module.parameters()} == {"meta"}


def test_options_of_evaluate_are_read_before_it_waits(sbatch, capsys, project):
    (project / "old" / "checkpoints").mkdir(parents=True)
    assert "num_samples" in said(capsys, "old", *CPU, "--num_smaples=50", status=2) and sbatch.script is None


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
