"""The batch scripts without a Slurm: what they start, and when they start again. srun and the like are stand-ins on PATH."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / "slurm").glob("*.sbatch"))
ARGUMENTS = {
    "train": ["configs/x.yaml", "--trainer.max_steps", "3"],
    "evaluate": ["out", "--num_samples", "8"],
    "array": ["configs/b.yaml", "out", "--seeds", "2"],
    "sweep": ["me/project/abc123", "--count", "2"],
}

# each writes down how it was called; what they say and return is set by the test
FAKES = {
    "srun": 'echo "srun $*" >>calls; echo "OMP $OMP_NUM_THREADS AT $MASTER_ADDR:$MASTER_PORT" >>calls\n'
    '[ -z "${SAID:-}" ] || echo "$SAID" >&2\nexit "${RC:-0}"',
    "scontrol": 'case $1 in show) echo first; echo second ;; *) echo "scontrol $*" >>calls; exit "${REFUSED:-0}" ;; esac',
    "sbatch": 'echo "sbatch $*" >>calls; echo "1300;c"\n'
    'env | grep -E "^(RUN_DIR|LIGHTNING_GEN_RESTARTS|SLURM_RESTART_COUNT)=" | sort >>calls',
    "squeue": "echo 2:00:00",
    "sleep": "exit 0",
}
JOB = {
    "SLURM_JOB_ID": "1203",
    "SLURM_JOB_NAME": "moons",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_CPUS_ON_NODE": "6",
    "SLURM_JOB_PARTITION": "gpu",
}


@pytest.fixture
def job(tmp_path):
    """A function that runs a template as Slurm would, with variables of the environment; (status, what was called, log)."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "out").mkdir()
    for name, body in FAKES.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def run(template="train", arguments=None, **variables):
        environment = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "WANDB_API_KEY": "k" * 40,
            **JOB,
            **variables,
        }
        script = ROOT / "slurm" / f"{template}.sbatch"
        made = subprocess.run(
            ["bash", str(script), *(ARGUMENTS[template] if arguments is None else arguments)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            cwd=tmp_path,
            env={name: value for name, value in environment.items() if value is not None},
        )
        calls = tmp_path / "calls"
        called = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        logs = "".join(path.read_text() for path in sorted(tmp_path.rglob("*.log")))
        return made.returncode, called, made.stdout + made.stderr + logs

    return run


def started(called):
    """The words of the one srun."""
    (line,) = [line for line in called if line.startswith("srun")]
    return line.split()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_scripts_are_sound_and_short_enough_to_be_read(template):
    subprocess.run(["bash", "-n", str(template)], check=True)
    if shutil.which("shellcheck"):
        made = subprocess.run(["shellcheck", str(template)], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout
    lines = template.read_text().splitlines()
    assert len(lines) < 140 and max(map(len, lines)) <= 128


def test_how_a_job_starts_and_starts_again_is_the_same_everywhere():
    """sbatch copies a script to its spool, so that the scripts cannot share a file."""
    ends = {path.read_text().partition("# ---- the same in every template")[2] for path in TEMPLATES}
    assert len(TEMPLATES) == 4 and len(ends) == 1 and len(ends.pop()) > 1000


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_the_header_warns_the_tasks_and_keeps_the_log(template):
    header = [line.split("#")[1].split()[1] for line in template.read_text().splitlines() if line.startswith("#SBATCH")]
    (warning,) = [option for option in header if option.startswith("--signal=")]
    name, _, lead = warning.removeprefix("--signal=").partition("@")
    assert name == "USR1" and int(lead) >= 120  # "B:USR1" would go to the script alone
    assert {"--requeue", "--open-mode=append"} <= set(header)
    assert not any(option.startswith("--ntasks=") for option in header)  # which Lightning refuses


@pytest.mark.parametrize("template", ARGUMENTS)
def test_nothing_is_computed_outside_of_a_job(job, template):
    status, called, said = job(template, SLURM_JOB_ID=None)
    assert status == 2 and not called and "sbatch" in said and len(said.splitlines()) == 1
    status, called, said = job(template, SLURM_JOB_ID=None, DRY_RUN="1")
    assert status == 0 and not called and " srun " in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("name", ["bash", "interactive"])
@pytest.mark.parametrize("template", ["train", "array", "sweep"])
def test_a_name_that_means_an_interactive_job_is_refused(job, template, name):
    status, called, said = job(template, SLURM_JOB_NAME=name)
    assert status == 2 and not called and "--job-name" in said


@pytest.mark.parametrize(
    "variables, nodes, tasks, cpus",
    [
        ({}, 1, 1, 6),
        ({"SLURM_NTASKS_PER_NODE": "2", "SLURM_GPUS_PER_NODE": "0"}, 1, 2, 3),
        ({"SLURM_GPUS_ON_NODE": "3", "SLURM_GPUS_PER_NODE": "3"}, 1, 3, 2),
        ({"SLURM_GPUS_PER_NODE": "h100:2", "SLURM_JOB_NUM_NODES": "4"}, 4, 2, 3),
        ({"SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_NUM_NODES": "4", "SLURM_CPUS_ON_NODE": "4"}, 4, 8, 1),
    ],
)
def test_one_task_a_device(job, variables, nodes, tasks, cpus):
    for template in ("train", "evaluate"):
        status, called, _ = job(template, **variables)
        words = started(called)
        assert status == 0
        assert {f"--nodes={nodes}", f"--ntasks={nodes * tasks}", f"--ntasks-per-node={tasks}"} <= set(words)
        assert f"--cpus-per-task={cpus}" in words and f"OMP {cpus} AT first:16203" in called
        if template == "train":
            text = " ".join(words)
            assert f"--trainer.num_nodes {nodes} --trainer.devices {tasks} --trainer.max_steps 3" in text


def test_tasks_that_contradict_the_devices_are_refused(job):
    status, called, said = job(SLURM_GPUS_ON_NODE="8", SLURM_NTASKS_PER_NODE="4")
    assert status == 2 and not called and "one task a GPU" in said


def test_what_each_starts(job):
    in_array = {"SLURM_ARRAY_JOB_ID": "1200", "SLURM_ARRAY_TASK_ID": "3"}
    for template, variables, meant in (
        ("train", {}, "fit --config configs/x.yaml --run runs/moons-1203"),
        ("train", {"RUN_DIR": "some/run"}, "fit --config configs/x.yaml --run some/run"),
        ("train", in_array, "fit --config configs/x.yaml --run runs/moons-1200_3"),
        ("evaluate", {}, "evaluate out --num_samples 8"),
        ("array", in_array, "benchmark --config configs/b.yaml --out out --seeds 2 --place 3"),
        ("array", {}, "benchmark --config configs/b.yaml --out out --seeds 2 --collect"),
        ("sweep", in_array, "python -u -m lightning_gen.wandb_agent --count 2 me/project/abc123"),
    ):
        status, called, _ = job(template, **variables)
        assert status == 0 and meant in " ".join(started(called))
        assert not any(line.startswith(("scontrol", "sbatch")) for line in called)


@pytest.mark.parametrize("folder", ["--out out", "--out=out"])
def test_options_of_the_benchmark_may_stand_in_full(job, folder):
    words = f"--config b.yaml {folder} --rank_by kid"
    _, called, said = job("array", words.split(), SLURM_ARRAY_TASK_ID="0")
    assert f"benchmark {words} --place 0" in " ".join(started(called)) and "the log is out/slurm/moons-0.log" in said


def test_logs_lie_with_what_is_made(job, tmp_path):
    for template, variables, log in (
        ("train", {}, "runs/moons-1203/slurm/moons.log"),
        ("evaluate", {}, "out/slurm/moons.log"),
        ("array", {"SLURM_ARRAY_JOB_ID": "1200", "SLURM_ARRAY_TASK_ID": "3"}, "out/slurm/moons-3.log"),
        ("sweep", {}, "runs/sweep-abc123/slurm/moons.log"),
    ):
        (tmp_path / log).unlink(missing_ok=True)
        _, _, said = job(template, **variables)
        assert f"the log is {log}" in said  # where Slurm began to write
        assert "srun ended with 0" in (tmp_path / log).read_text()


def test_agents_without_a_key_are_refused(job):
    status, called, said = job("sweep", WANDB_API_KEY=None)
    assert status == 2 and not called and "wandb login" in said


@pytest.mark.parametrize("template", ARGUMENTS)
@pytest.mark.parametrize("status", [75, 137, 138, 143])
def test_a_job_that_was_told_to_stop_is_requeued(job, template, status):
    _, called, said = job(template, RC=str(status))
    assert called[-1] == "scontrol requeue 1203"
    assert said.index(f"srun ended with {status}") < said.index("requeueing")


@pytest.mark.parametrize("status", [0, 1, 2, 134, 139])
def test_a_job_that_has_ended_by_itself_is_not(job, status):
    code, called, _ = job(RC=str(status))
    assert code == status and len(called) == 2


def test_the_signal_may_be_another(job):
    early = str(128 + signal.SIGUSR2)
    assert job(RC=early)[0] == int(early) and len(job(RC=early)[1]) == 2
    assert job(RC=early, LIGHTNING_GEN_SIGNAL="USR2")[1][-1] == "scontrol requeue 1203"


@pytest.mark.parametrize(
    "said, status, again",
    [
        ("srun: error: n1: task 1: Exited with exit code 2\nsrun: error: n0: task 0: Terminated", 143, False),
        ("srun: error: n1: tasks 1-3: Exited with exit code 1\nsrun: error: n0: task 0: Killed", 137, False),
        ("srun: error: n1: task 1: Killed\nsrun: error: n0: task 0: Exited with exit code 2", 137, True),
        ("srun: error: n0: task 0: Exited with exit code 69\nsrun: error: n1: task 1: Killed", 137, True),
        (
            "srun: error: n0: task 0: Exited with exit code 69\nsrun: error: n1: task 1: Exited with exit code 2",
            143,
            False,
        ),
        ("srun: error: n0: task 0: Exited with exit code 69", 69, True),
        ("srun: error: n0: task 0: Out Of Memory\nsrun: error: n1: task 1: Killed", 137, False),
        ("srun: error: n0: task 0: Exited with exit code 75", 75, True),
        ("srun: error: n0: task 0: Exited with exit code 143", 143, True),
        ("srun: error: n0: task 0: User defined signal 1", 138, True),
        ("srun: error: Unable to create step for job 1203: Invalid generic resource (gres) specification", 1, False),
    ],
)
def test_what_ended_first_is_the_cause(job, said, status, again):
    """srun ends the other ranks of one that fails, and returns their signal."""
    code, called, _ = job(RC=str(status), SAID=said)
    assert (called[-1] == "scontrol requeue 1203") == again
    assert again or code < 75


def test_an_earlier_attempts_end_is_not_this_ones(job):
    job(SAID="srun: error: n1: task 1: Exited with exit code 2", RC="2")
    assert job(RC="137", SLURM_RESTART_COUNT="1")[1][-1] == "scontrol requeue 1203"


@pytest.mark.parametrize(
    "own, before, cap, again", [(2, 0, 3, True), (3, 0, 3, False), (1, 2, 3, False), (1, 1, 3, True)]
)
def test_restarts_are_capped_over_requeues_and_successors(job, own, before, cap, again):
    counts = {"SLURM_RESTART_COUNT": str(own), "LIGHTNING_GEN_RESTARTS": str(before), "MAX_RESTARTS": str(cap)}
    status, called, said = job(RC="75", **counts)
    assert status == 75 and called[-1].startswith("scontrol requeue") == again
    assert again or f"MAX_RESTARTS is {cap}" in said


def test_only_the_element_of_an_array_is_requeued(job):
    """One element's job id is the array's, and would mean all of them."""
    element = {"SLURM_JOB_ID": "1200", "SLURM_ARRAY_JOB_ID": "1200", "SLURM_ARRAY_TASK_ID": "3"}
    assert job("array", RC="143", **element)[1][-1] == "scontrol requeue 1200_3"


def test_where_requeueing_is_refused_a_successor_enters_the_same_run(job):
    asked = {
        "SLURM_JOB_NUM_NODES": "4",
        "SLURM_GPUS_PER_NODE": "a100:2",
        "SLURM_CPUS_PER_GPU": "5",
        "SLURM_MEM_PER_NODE": "100",
        "SLURM_JOB_ACCOUNT": "physics",
    }
    status, called, _ = job(RC="75", REFUSED="1", SLURM_RESTART_COUNT="1", LIGHTNING_GEN_RESTARTS="2", **asked)
    where = next(i for i, line in enumerate(called) if line.startswith("sbatch"))
    words, environment = called[where].split(), called[where + 1 :]
    assert status == 0
    assert environment == ["LIGHTNING_GEN_RESTARTS=4", "RUN_DIR=runs/moons-1203"]  # its own count begins at 0
    meant = (
        "--nodes=4 --gpus-per-node=a100:2 --cpus-per-gpu=5 --mem=100 --account=physics --partition=gpu --time=2:00:00"
    )
    assert {*meant.split(), "--dependency=afterany:1203", "--job-name=moons"} <= set(words)
    assert "--output=runs/moons-1203/slurm/moons.log" in words
    assert words[-4:] == [str(ROOT / "slurm" / "train.sbatch"), *ARGUMENTS["train"]]


def test_an_elements_successor_is_that_element_and_one_of_the_benchmarks_jobs(job, tmp_path):
    element = {"SLURM_ARRAY_JOB_ID": "1200", "SLURM_ARRAY_TASK_ID": "3"}
    _, called, _ = job("array", RC="75", REFUSED="1", **element)
    (line,) = [line for line in called if line.startswith("sbatch")]
    assert {"--array=3", "--dependency=afterany:1200_3"} <= set(line.split())
    assert line.split()[-4:] == ARGUMENTS["array"]
    assert (tmp_path / "out" / "slurm" / "jobs").read_text() == "1300\n"  # the collecting job waits for it
