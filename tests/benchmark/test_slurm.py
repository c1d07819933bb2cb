"""What a benchmark submits to Slurm: by a stand-in for its commands, so that none is needed."""

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_gen import run_lock
from lightning_gen.__main__ import main
from lightning_gen.benchmark import preflight
from lightning_gen.benchmark.request import Request
from lightning_gen.benchmark.slurm import ranges, submissions, submit_grid
from lightning_gen.errors import UserError
from lightning_gen.launch.resources import Resources

ROOT = Path(__file__).resolve().parents[2]
SBATCH = """#!/bin/sh
folder=$(dirname "$0")
count=$(ls "$folder" | grep -c '^call-')
printf '%s\\n' "$@" > "$folder/call-$count"
for word; do [ ! -f "$word" ] || cat "$word" >> "$folder/call-$count"; done
[ "$*" != --test-only ] || cat >> "$folder/call-$count"
[ "$count" -lt "$(cat "$folder/takes")" ] || { echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; }
echo $((101 + count))
"""
SQUEUE = """#!/bin/sh
cat "$(dirname "$0")/queue"
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "check", lambda *_, **__: None)  # tested by itself; these runs have no model
    Path("experiment.yaml").write_text("trainer: {max_steps: 3}\n")
    values = {name: {"trainer.max_steps": steps} for steps, name in enumerate("abcdef", start=1)}
    Path("plan.yaml").write_text(
        yaml.safe_dump({"name": "six", "experiment": "experiment.yaml", "axes": {"x": values}})
    )
    return "plan.yaml"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder of a Slurm: `call-K` is what the K-th sbatch was told and its script, `queue` what squeue answers."""
    folder = tmp_path / "slurm-commands"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "queue").write_text("")
    (folder / "takes").write_text("9")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def calls(slurm):
    """(words, {option: value} of the script's header, its last arguments) of each call of sbatch."""
    found = []
    for file in sorted(slurm.glob("call-*")):
        words, _, script = file.read_text().partition("#!")
        header = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))
        [arguments] = re.findall(r"^set -- (--config.*)$", script, re.MULTILINE) or [None]
        found.append((words.split(), header, arguments))
    return found


def finish(request, *names):
    """As if these runs had been trained and measured."""
    for name in names:
        job = request.jobs[name]
        for each in job.measurements():
            each.folder.mkdir(parents=True)
            each.file.write_text("{}")
            each.close()
        (job.run / "training.job").write_text(job.training())


def asked(config, *more):
    return main(["benchmark", "--config", config, "--out", "out", "--launcher", "slurm", *more])


def test_what_is_not_done_is_an_array_and_the_table_waits_for_its_end(config, slurm, tmp_path, capsys):
    finish(Request.of(config, "out"), "c", "f")
    assert asked(config, "--max_parallel", "2") == 0
    (_, cells, arguments), (_, table, same) = calls(slurm)
    assert cells["array"] == "0-1,3-4%2" and "dependency" not in cells
    assert table["dependency"] == "afterany:101" and "array" not in table
    assert cells["job-name"] == "six" and table["job-name"] == "six-table"
    assert arguments == same == f"--config {tmp_path / config} --out {tmp_path / 'out'}"
    said = capsys.readouterr().out
    assert "job array 101: 4 of 6 runs" in said and "job 102: makes" in said and "squeue --jobs 101,102" in said
    assert said.splitlines()[-1] == str(tmp_path / "out")
    assert Path("out/benchmark.yaml").read_text() == Path(config).read_text()


def test_changes_of_the_plan_are_told_to_every_job(config, slurm):
    request = Request.of(config, "out", seeds=3, rank_by="kid")
    for each in submissions(request, Resources()):
        assert list(each.arguments[4:6]) == ["--seeds=3", "--rank_by=kid"]


def test_with_all_done_only_the_table_is_made(config, slurm, capsys):
    request = Request.of(config, "out")
    finish(request, *request.jobs)
    assert asked(config) == 0
    [(_, table, _)] = calls(slurm)
    assert table["job-name"] == "six-table" and not {"array", "dependency"} & set(table)
    assert "all 6 runs are done already" in capsys.readouterr().out


def test_jobs_that_have_not_ended_are_not_submitted_twice(config, slurm, capsys):
    assert asked(config) == 0
    for queue, left in (("7\n101\n101\n102\n", "101 102"), ("102\n7\n", "102")):
        (slurm / "queue").write_text(queue)
        assert asked(config) == 2
        assert f"end them with scancel {left}\n" in capsys.readouterr().err and len(calls(slurm)) == 2
    (slurm / "queue").write_text("7\n")
    assert asked(config) == 0 and len(calls(slurm)) == 4


def test_a_job_that_succeeds_another_has_not_ended_either_and_nothing_is_trained_beside_it_here(config, slurm, capsys):
    assert asked(config) == 0
    with open("out/slurm/jobs", "a") as jobs:
        jobs.write("140\n")  # as slurm/array.sbatch does
    (slurm / "queue").write_text("140 3\n")
    assert asked(config) == 2 and "end them with scancel 140\n" in capsys.readouterr().err
    assert main(["benchmark", "--config", config, "--out", "out"]) == 2
    assert "end them with scancel 140\n" in capsys.readouterr().err and not Path("out/cells").exists()


def test_two_commands_do_not_submit_at_the_same_moment(config, slurm, monkeypatch, capsys):
    monkeypatch.setattr(run_lock, "_MOMENT_S", 0.0)
    Path("out/slurm").mkdir(parents=True)
    with open("out/slurm/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert asked(config) == 2 and "another command submits jobs for" in capsys.readouterr().err
    assert not calls(slurm) and asked(config) == 0


def collected(config, job, monkeypatch):
    """The status of the collecting job `job`."""
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_JOB_ID", job)
        return main(["benchmark", "--config", config, "--out", "out", "--collect"])


def test_the_collecting_job_waits_for_what_succeeds_the_runs(config, slurm, monkeypatch, capsys):
    """Where requeueing is forbidden; each time it is the same job, and known as one of this directory's."""
    assert asked(config) == 0
    script = Path("out/slurm/six-table.sbatch")
    with open("out/slurm/jobs", "a") as jobs:
        jobs.write("140\n141\n")
    (slurm / "queue").write_text("102 N/A\n140 3\n141 5\n9 1\n")
    assert collected(config, "102", monkeypatch) == 0
    words, header, _ = calls(slurm)[-1]
    assert words == ["--parsable", "--dependency=afterany:140:141", str(script.resolve())]
    assert header["job-name"] == "six-table" and not Path("out/table.md").exists()
    assert "job 103 makes the table" in capsys.readouterr().out
    assert Path("out/slurm/jobs").read_text().split() == ["101", "102", "140", "141", "103"]
    (slurm / "queue").write_text("103 N/A\n")
    assert collected(config, "103", monkeypatch) == 2 and len(calls(slurm)) == 3  # there is nothing to collect
    (slurm / "queue").write_text("140 3\n")
    assert collected(config, "7", monkeypatch) == 2 and len(calls(slurm)) == 3  # a person's own job
    (slurm / "takes").write_text("0")
    assert collected(config, "103", monkeypatch) == 2 and "the table is made now" in capsys.readouterr().out


@pytest.mark.parametrize(("accelerator", "gpus", "said"), [("cpu", 1, "asks for GPUs"), ("gpu", 0, "asks for none")])
def test_devices_that_the_experiment_does_not_compute_on_are_refused(config, slurm, accelerator, gpus, said):
    with pytest.raises(UserError, match=said):
        submit_grid(changed(config, {"trainer.accelerator": accelerator}), Resources(gpus_per_node=gpus))
    assert not calls(slurm)
    submit_grid(changed(config, {"trainer.accelerator": accelerator}), Resources(gpus_per_node=1 - gpus), dry_run=True)


def changed(config, overrides):
    """The plan with these in one of its runs."""
    plan = yaml.safe_load(Path(config).read_text())
    plan["axes"]["x"]["d"] |= overrides
    Path(config).write_text(yaml.safe_dump(plan))
    return Request.of(config, "out")


def test_a_name_that_no_job_can_have_becomes_one(config, slurm):
    plan = yaml.safe_load(Path(config).read_text())
    Path(config).write_text(yaml.safe_dump({**plan, "name": "nfe study"}))
    assert asked(config) == 0
    assert [header["job-name"] for _, header, _ in calls(slurm)] == ["nfe-study", "nfe-study-table"]


def test_an_array_without_its_collecting_job_is_said_and_remembered(config, slurm, capsys):
    (slurm / "takes").write_text("1")
    assert asked(config) == 2
    error = capsys.readouterr().err
    assert "QOSMaxSubmitJobPerUserLimit" in error and "nothing makes the table yet" in error and error.count("\n") == 1
    (slurm / "queue").write_text("101\n")
    assert asked(config) == 2 and "scancel 101" in capsys.readouterr().err


def test_a_dry_run_needs_no_slurm_and_leaves_nothing(config, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert asked(config, "--dry_run") == 0
    said = capsys.readouterr().out
    assert said.count("#!") == 2 and "--array=0-5" in said and "afterany:ARRAY_ID" in said and not Path("out").exists()
    assert str(Path("out").resolve()) not in said.splitlines()  # it has made nothing
    assert asked(config) == 2
    error = capsys.readouterr().err
    assert "there is no Slurm here (no command sbatch)" in error and error.count("\n") == 1 and not Path("out").exists()


def test_a_run_of_another_config_is_refused_before_anything_is_submitted(config, slurm, capsys):
    request = Request.of(config, "out")
    finish(request, "b")
    (request.jobs["b"].run / "training.job").write_text("another")
    assert asked(config) == 2 and "was begun under another config" in capsys.readouterr().err
    assert not calls(slurm) and not Path("out/benchmark.yaml").exists()


@pytest.mark.parametrize(
    ("given", "gpus"),
    [(None, None), (0, 0), (8, 1), ("8", 1), ("a100:8", "a100:1")],
)
def test_a_run_is_one_process_on_one_device(config, given, gpus):
    site = Resources(nodes=4, tasks_per_node=8, gpus_per_node=given, cpus_per_task=6)
    for each in submissions(Request.of(config, "out"), site):
        own = each.resources
        assert (own.nodes, own.tasks_per_node, own.gpus_per_node, own.cpus_per_task) == (1, 1, gpus, 6)


def test_ranges():
    assert [ranges(places) for places in ([4], [0, 1, 2], [0, 2, 3, 9])] == ["4", "0-2", "0,2-3,9"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--launcher", "slurm", "--max_parallel", "0"], "--max_parallel must be at least 1, not 0"),
        (["--launcher", "slurm", "--workers", "2"], "--workers runs here: leave out --launcher slurm"),
        (["--launcher", "slurm", "--cell", "0"], "--cell runs here"),
        (["--launcher", "slurm", "--collect"], "--collect runs here"),
        (["--dry_run"], "--dry_run needs --launcher slurm"),
        (["--max_parallel", "3"], "--max_parallel needs --launcher slurm"),
        (["--cluster", "x.yaml"], "--cluster needs --launcher slurm"),
        (["--cell", "a", "--collect"], "--cell trains one run, and --collect means another or none"),
        (["--cell", "a", "--place", "0"], "--cell trains one run, and --place means another or none"),
        (["--launcher", "slurm", "--place", "0"], "--place runs here"),
        (["--launcher", "pbs"], "launcher"),
    ],
)
def test_flags_that_do_not_go_together_are_named(config, slurm, capsys, flags, said):
    assert main(["benchmark", "--config", config, "--out", "out", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not calls(slurm) and not Path("out").exists()


def test_submitting_needs_no_torch(config, slurm):
    code = (
        "import sys; from lightning_gen.__main__ import main; from lightning_gen.benchmark import preflight; "
        "preflight.check = lambda *_, **__: None; "  # in a process of its own
        f"assert main({['benchmark', '--config', config, '--out', 'out', '--launcher', 'slurm']!r}) == 0; "
        "sys.exit('torch' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=env).returncode == 0


def test_it_can_be_asked_whether_slurm_would_take_the_jobs(config, slurm):
    submit_grid(Request.of(config, "out"), Resources(), check=True)
    assert [(words, set(header) & {"array", "dependency"}) for words, header, _ in calls(slurm)] == [
        (["--test-only"], {"array"}),
        (["--test-only"], set()),  # there is nothing yet that it could wait for
    ]
    assert not Path("out").exists()
