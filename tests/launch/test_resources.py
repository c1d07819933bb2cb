"""What a job needs: flags win over the file, and what cannot be is refused in words of the setting."""

from pathlib import Path

import pytest

from lightning_gen.errors import UserError
from lightning_gen.launch.resources import Resources, lead, seconds

CLUSTERS = sorted((Path(__file__).resolve().parents[2] / "configs" / "cluster").glob("*.yaml"))


def written(tmp_path, text):
    (tmp_path / "cluster.yaml").write_text(text)
    return tmp_path / "cluster.yaml"


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_every_shipped_cluster_can_be_read(path):
    assert Resources.read(path).gpus is not None


def test_flags_win_over_the_file_and_what_neither_says_is_the_templates(tmp_path):
    path = written(tmp_path, "nodes: 2\ngpus_per_node: 4\ntime: 12:00:00\npartition: long\n")
    found = Resources.read(path, {"nodes": 8, "partition": None, "mem": "64G"})
    assert found.options() == {
        "nodes": "8",
        "gpus-per-node": "4",
        "time": "12:00:00",
        "partition": "long",
        "mem": "64G",
    }


def test_times_are_no_numbers_of_base_60(tmp_path):
    assert Resources.read(written(tmp_path, "time: 12:30:00")).time == "12:30:00"


def test_without_gpus_tasks_count_the_devices(tmp_path):
    path = written(tmp_path, "gpus_per_node: 0\ntasks_per_node: 2\ncpus_per_task: 3\n")
    on_cpus = Resources.read(path).options()
    assert on_cpus["gpus-per-node"] is None and on_cpus["cpus-per-gpu"] is None  # the template's own go
    assert on_cpus["ntasks-per-node"] == "2" and on_cpus["cpus-per-task"] == "3"
    on_gpus = Resources.read(path, {"gpus_per_node": "h100:4"}).options()
    assert on_gpus == {"gpus-per-node": "h100:4", "cpus-per-gpu": "3"}
    assert Resources(gpus_per_node=0).options()["ntasks-per-node"] == "1"


@pytest.mark.parametrize("kind, number", [(8, 8), ("8", 8), ("h100:8", 8), (0, 0), (None, None)])
def test_gpus_with_and_without_a_kind(kind, number):
    assert Resources(gpus_per_node=kind).gpus == number


def test_a_site_is_modules_then_setup_then_the_container():
    site = Resources(modules=["cuda", "gcc/13"], setup=[". venv/bin/activate"], container="apptainer exec x.sif").site()
    assert site == ["module load cuda gcc/13", ". venv/bin/activate", "container=(apptainer exec x.sif)"]
    assert Resources().site() == []
    assert Resources(setup=["true"]).site()[-1] == "container=()"


def test_the_job_is_told_its_signal_and_its_cap():
    found = Resources(signal="USR2@600", max_restarts=0, environment={"A": "b"}).variables()
    assert found == {"LIGHTNING_GEN_SIGNAL": "USR2", "MAX_RESTARTS": "0", "A": "b"}
    assert Resources().variables() == {}


@pytest.mark.parametrize(
    "text, said",
    [
        ("gpu_per_node: 4", "has no key 'gpu_per_node', did you mean gpus_per_node?"),
        ("nodes: two", "nodes must be a whole number, not 'two'"),
        ("nodes: 0", "nodes must be at least 1, not 0"),
        ("nodes: [1]", "nodes must be one value"),
        ("modules: cuda", "modules must be a list of words, not 'cuda'"),
        ("environment: [A]", "environment must be names with a value each"),
        ("environment: {A-B: 1}", "'A-B'"),
        ("gpus_per_node: many", "gpus_per_node must be a number, or a kind and a number as h100:8"),
        ("{gpus_per_node: 8, tasks_per_node: 4}", "one task a GPU"),
        ("time: soon", "time must be minutes"),
        ("signal: B:USR1@300", "leave B: out"),
        ("signal: USR1", "such as USR1@300"),
        ("signal: USR1@60", "less than 120 s"),
        ("partition: 'a b'", "partition must be one word"),
        ("sbatch: [exclusive]", "such as --exclusive"),
        ("- nodes", "it has no keys"),
        ("nodes: [", "line 1, is not YAML"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as refused:
        Resources.read(path)
    assert str(refused.value).startswith(str(path)) and said in str(refused.value)


def test_a_bad_flag_is_not_laid_to_the_file(tmp_path):
    with pytest.raises(UserError) as refused:
        Resources.read(written(tmp_path, "nodes: 2"), {"signal": "USR1@9"})
    assert "cluster.yaml" not in str(refused.value)


def test_a_missing_file_is_told_its_neighbour(tmp_path):
    written(tmp_path, "nodes: 1")
    with pytest.raises(UserError, match=r"did you mean .*cluster.yaml"):
        Resources.read(tmp_path / "clustr.yaml")


@pytest.mark.parametrize(
    "limit, meant",
    [
        ("90", 5400),
        ("90:30", 5430),
        ("1:30:00", 5400),
        ("2-12", 216000),
        ("1-0:30", 88200),
        ("1-0:0:5", 86405),
        ("UNLIMITED", float("inf")),
    ],
)
def test_times_as_sbatch_reads_them(limit, meant):
    assert seconds(limit) == meant


def test_lead():
    assert lead("USR2@600") == 600
