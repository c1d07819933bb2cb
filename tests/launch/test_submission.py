"""The rendered script: the template, with the job's own header, site and arguments."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_gen.errors import UserError
from lightning_gen.launch.resources import Resources
from lightning_gen.launch.submission import Submission

TEMPLATES = ["train", "evaluate", "array", "sweep"]


def job(template="train", arguments=("configs/x.yaml",), name="moons", resources=Resources(), **more):  # noqa: B008
    return Submission(template, arguments, name, Path("runs/it/slurm"), resources, **more)


def header(script):
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
    return {name: value for name, _, value in (line.removeprefix("#SBATCH --").partition("=") for line in lines)}


def bash(script, variables, arguments=()):
    """What a script prints as a dry run."""
    made = subprocess.run(
        ["/usr/bin/env", "bash", "-s", *arguments],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "DRY_RUN": "1", **variables},
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_script_is_its_template_but_for_header_and_site(project, template):
    text = Path(f"slurm/{template}.sbatch").read_text()
    made = job(template).script()
    assert made.startswith("#!/usr/bin/env bash\n")
    assert made.partition("# <<< site")[2] == text.partition("# <<< site")[2]
    kept = [
        line for line in text.partition("# >>> site")[0].splitlines() if not line.startswith(("#SBATCH", "##SBATCH"))
    ]
    assert [line for line in made.partition("# >>> site")[0].splitlines() if not line.startswith("#SBATCH")] == kept


def test_the_header_is_the_templates_with_what_is_asked_for_above(project):
    plain, asked = (
        job().header(),
        job(resources=Resources(nodes=3, time="1-0", sbatch=["--exclusive", "--nice=5"])).header(),
    )
    assert asked == {**plain, "nodes": "3", "time": "1-0", "exclusive": "", "nice": "5"}
    assert plain["job-name"] == "moons" and plain["output"] == "runs/it/slurm/moons.log" and plain["requeue"] == ""
    assert plain["chdir"] == str(project)
    script = job(resources=Resources(nodes=3)).script()
    assert header(script)["nodes"] == "3" and script.count("#SBATCH --nodes") == 1


def test_a_gpu_that_is_not_asked_for_is_not_in_the_header(project):
    assert "gpus-per-node" in job().header()
    found = job(resources=Resources(gpus_per_node=0, tasks_per_node=2))
    assert not {"gpus-per-node", "cpus-per-gpu"} & found.header().keys()
    assert (found.nodes, found.tasks_per_node) == (1, 2)
    assert job(resources=Resources(nodes=4, gpus_per_node="h100:8")).tasks_per_node == 8


def test_each_element_of_an_array_has_a_log(project):
    found = job("array", array="0-3%2", dependency="afterany:5").header()
    assert found["output"] == "runs/it/slurm/moons-%a.log"
    assert (found["array"], found["dependency"]) == ("0-3%2", "afterany:5")


def test_a_script_by_itself_is_the_whole_job(project):
    """Whatever stands in its arguments and variables reaches the program as it was given."""
    words = ["configs/x.yaml", "--trainer.logger", "{a: 'b c'}", "--x=$HOME"]
    script = job(arguments=words, environment={"RUN_DIR": "runs/it's here"}).script()
    said = bash(
        f'{script.partition("nodes=${SLURM")[0]}printf "%s\\n" "$RUN_DIR" "$@"', {"SLURM_JOB_ID": "5"}, ["ignored"]
    )
    assert said.splitlines() == ["runs/it's here", *words]
    assert "fit --config configs/x.yaml --run" in bash(script, {})


def test_a_sites_setup_takes_the_place_of_the_templates(project):
    resources = Resources(setup=["greeting=hello"], container="apptainer exec $image.sif", environment={"image": "it"})
    script = job(resources=resources).script()
    assert ".venv" not in script and "apptainer exec it.sif python -u -m lightning_gen fit" in bash(script, {})
    assert ".venv" in job().script() and f"export PATH={Path(sys.executable).parent}" in job().script()


def test_the_signal_is_told_to_slurm_and_to_the_program(project):
    script = job(resources=Resources(signal="USR2@600")).script()
    assert header(script)["signal"] == "USR2@600" and "export LIGHTNING_GEN_SIGNAL=USR2\n" in script


@pytest.mark.parametrize("name", ["bash", "interactive", "a b", "a/b", "a%j", ""])
def test_names_that_mean_something_else_are_refused(project, name):
    with pytest.raises(UserError, match="--job_name"):
        job(name=name)


def test_a_warning_needs_a_job_that_is_longer(project):
    with pytest.raises(UserError, match="give a longer --time"):
        job(resources=Resources(time="5"))
    assert job(resources=Resources(time="6")) and job(resources=Resources(time="UNLIMITED"))


def test_submitting_writes_the_script_and_tells_the_id(sbatch):
    submission = job()
    assert submission.submit() == "77"
    assert sbatch.arguments == ["--parsable", "runs/it/slurm/moons.sbatch"]
    assert sbatch.script == submission.script() == Path("runs/it/slurm/moons.sbatch").read_text()


def test_asking_writes_nothing(sbatch):
    assert job().check() == "sbatch: Job 77 to start at noon"
    assert sbatch.script == job().script() and not Path("runs").exists()


def test_what_slurm_refuses_is_said_in_its_words(sbatch, monkeypatch):
    monkeypatch.setenv("REFUSES", "invalid partition specified: nix")
    for ask in (job().submit, job().check):
        with pytest.raises(UserError, match=r"^Slurm refuses the job: invalid partition specified: nix$"):
            ask()


def test_without_slurm_nothing_is_written(project):
    for ask in (job().submit, job().check):
        with pytest.raises(UserError, match="--dry-run prints the script"):
            ask()
    assert not Path("runs").exists()


def test_a_job_that_a_job_submits_is_its_own(sbatch, monkeypatch):
    """sbatch's variables win over a script's header, so those that stand against it are taken away."""
    for name in (
        "SLURM_RESTART_COUNT",
        "LIGHTNING_GEN_RESTARTS",
        "SBATCH_PARTITION",
        "SBATCH_TIMELIMIT",
        "SBATCH_ACCOUNT",
    ):
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    job(resources=Resources(partition="gpu", time="60")).submit()
    seen = {name for name in sbatch.environment if name.startswith(("SLURM", "SBATCH", "LIGHTNING_GEN_RESTARTS"))}
    assert seen == {"SLURM_CONF", "SBATCH_ACCOUNT"}


@pytest.mark.parametrize("line", ["-A physics", "--partition gpu", "--exclusive --mem=0"])
def test_a_line_of_a_sites_own_header_is_read_or_refused_by_its_text(tmp_path, monkeypatch, line):
    """It is never lost in silence."""
    (tmp_path / "slurm").mkdir()
    template = tmp_path / "slurm" / "train.sbatch"
    template.write_text(f"#SBATCH --nodes=1\n#SBATCH {line}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"'#SBATCH {line}.*--NAME=VALUE"):
        job().header()
    template.write_text('#SBATCH --comment="two words"  # why\n#SBATCH --nodes=1\n')
    assert job().header()["comment"] == "two words"
