"""What was kept offline is sent start by start, in order, and what cannot be sent is still there."""

import os
import shutil
import struct
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record, RunRecord

from lightning_gen import wandb_run, wandb_sync
from lightning_gen.__main__ import main
from lightning_gen.attempts import begin_attempt

_CONTENT = Record(run=RunRecord(run_id="x")).SerializeToString()
RUN_RECORD = b":W&B\xe1\xbe\x00" + struct.pack("<IHB", 0, len(_CONTENT), 1) + _CONTENT
"""A log that says which run it is of, and no more."""


@pytest.fixture
def client(monkeypatch):
    """Stands in for W&B's client: the folders that it was given to send, and those that it refuses."""
    given = Namespace(folders=[], refuses=set(), environment={})

    def run(command, env, **kwargs):
        folder = Path(command[-1])
        given.folders.append(folder)
        given.environment = env
        if folder.name in given.refuses:
            return Namespace(
                stdout="wandb: Syncing 1 run(s)\n", stderr="wandb: ERROR permission denied\n", returncode=0
            )
        (log,) = folder.glob("*.wandb")
        log.with_name(f"{log.name}.synced").touch()
        return Namespace(stdout="", stderr="", returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(wandb_sync, "has_key", lambda: True)
    monkeypatch.setattr(wandb_sync, "reachable", lambda: True)
    return given


@pytest.fixture
def segment(tmp_path):
    """segment(run, folder, content): a segment of a run directory below tmp_path."""

    def function(run, folder, content=RUN_RECORD):
        log = tmp_path / run / "wandb" / folder / f"run-{folder.rpartition('-')[2]}.wandb"
        log.parent.mkdir(parents=True)
        log.write_bytes(content)
        return log.parent

    return function


def test_starts_are_sent_in_their_order_and_empty_ones_passed_over(client, segment, tmp_path, capsys):
    names = [f"offline-run-20260101_00000{k}-x" for k in range(4)]
    third, first = segment("a", names[2]), segment("a", names[0])
    segment("a", names[1], RUN_RECORD[:7])  # killed seconds after its start
    last = segment("a", names[3])
    segment("a", "run-20260101_000009-x")  # was online
    assert main(["sync", str(tmp_path / "a")]) == 0
    assert client.folders == [first, third, last]
    assert capsys.readouterr().out == f"{tmp_path / 'a'}: 3 sent, 1 empty\n"
    assert main(["sync", str(tmp_path / "a")]) == 0 and len(client.folders) == 3
    assert capsys.readouterr().out == f"{tmp_path / 'a'}: 3 sent before, 1 empty\n"


def test_the_client_leaves_nothing_where_the_command_is_given(client, segment, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")  # of the node that trained
    segment("a", "offline-run-20260101_000000-x")
    main(["sync", str(tmp_path / "a")])
    assert client.environment["WANDB_DIR"] == str(tmp_path / "a") and "WANDB_MODE" not in client.environment


def test_what_a_copy_has_of_its_original_is_sent_by_that_alone(client, segment, tmp_path, capsys):
    first = segment("a", "offline-run-20260101_000000-x")
    begin_attempt(tmp_path / "a", 0, 1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    own = segment("b", "offline-run-20260101_000009-y")
    assert main(["sync", str(tmp_path)]) == 0 and client.folders == [first, own]
    assert f"{tmp_path / 'b'}: 1 sent, 1 of the run that this is a copy of\n" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "a")  # the copy is all there is now
    assert main(["sync", str(tmp_path / "b")]) == 0 and client.folders == [
        first,
        own,
        tmp_path / "b" / "wandb" / first.name,
    ]


def test_a_folder_of_runs_means_the_runs_in_it_each_once(client, segment, tmp_path):
    cells = [segment(f"benchmark/cells/{name}", f"offline-run-20260101_000000-{name}") for name in "abc"]
    assert main(["sync", str(tmp_path), str(tmp_path / "benchmark"), f"{tmp_path}/benchmark/cells/../cells/b"]) == 0
    assert client.folders == cells


def test_what_w_and_b_refuses_is_named_and_stays(client, segment, tmp_path, capsys):
    names = [f"offline-run-20260101_00000{k}-x" for k in range(3)]
    folders = [segment("a", name) for name in names]
    client.refuses = {names[1]}
    assert main(["sync", str(tmp_path / "a")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(folders[1]) in error and "permission denied" in error
    assert client.folders == folders[:2]  # one that was sent before its predecessor would come out of order
    client.refuses = set()
    assert main(["sync", str(tmp_path / "a")]) == 0 and client.folders == [*folders[:2], *folders[1:]]


def test_a_run_that_is_refused_holds_no_other_up(client, segment, tmp_path, capsys):
    folders = [segment(name, f"offline-run-20260101_000000-{name}") for name in "abc"]
    client.refuses = {folders[0].name, folders[2].name}
    assert main(["sync", str(tmp_path)]) == 2 and client.folders == folders
    said = capsys.readouterr()
    assert f"{tmp_path / 'b'}: 1 sent" in said.out and said.err.count("\n") == 1
    assert str(folders[0]) in said.err and str(folders[2]) in said.err and str(folders[1]) not in said.err


def test_a_run_that_was_online_gets_what_it_lacks_once(client, segment, tmp_path, monkeypatch, capsys):
    """W&B has two rows of four: one of the two that were lost had reached the client's log."""
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", "offline")  # of the node that trained
    monkeypatch.setattr(wandb_run, "reachable", lambda: True)
    told, begun = [], []

    def init(**given):
        begun.append(given)
        return Namespace(
            log=lambda row, **kwargs: told.append(row["step"]),
            define_metric=lambda *args, **kwargs: None,
            id="x",
            starting_step=2,
            finish=lambda status: told.append("end"),
        )

    monkeypatch.setattr(wandb, "init", init)
    records = [Record(run=RunRecord(run_id="x", entity="us", project="lab", run_group="g", tags=["t"]))]
    for number in range(3):
        records.append(Record())
        for key, value in {"_step": number, "step": number + 1, "train/loss": 0.5}.items():
            records[-1].history.item.add(key=key, value_json=repr(value))
    contents = [record.SerializeToString() for record in records]
    frames = [struct.pack("<IHB", 0, len(content), 1) + content for content in contents]
    segment("a", "run-20260101_000000-x", RUN_RECORD[:7] + b"".join(frames))
    (tmp_path / "a" / "run_id").write_text("x\n")
    (tmp_path / "a" / "metrics.csv").write_text("step,train/loss\n1,0.5\n2,0.5\n3,0.5\n4,0.5\n")
    assert main(["sync", str(tmp_path / "a")]) == 0 and told == [3, 4, "end"]
    assert {
        "id": "x",
        "resume": "allow",
        "entity": "us",
        "project": "lab",
        "group": "g",
        "tags": ["t"],
    }.items() <= begun[0].items()
    assert capsys.readouterr().out == f"{tmp_path / 'a'}: 1 completed\n"
    assert main(["sync", str(tmp_path / "a")]) == 0 and len(begun) == 1


@pytest.mark.parametrize(
    ("missing", "said"), [("has_key", "WANDB_API_KEY"), ("reachable", "does not answer"), ("run", "WandbLogger")]
)
def test_what_is_missing_is_said_in_a_line(client, segment, tmp_path, monkeypatch, capsys, missing, said):
    if missing == "run":
        (tmp_path / "a").mkdir()
    else:
        segment("a", "offline-run-20260101_000000-x")
        monkeypatch.setattr(wandb_sync, missing, lambda: False)
    assert main(["sync", str(tmp_path / "a")]) == 2 and client.folders == []
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_run_in_training_waits_for_its_end(client, segment, tmp_path, capsys):
    fcntl = pytest.importorskip("fcntl")
    segment("a", "offline-run-20260101_000000-x")
    with open(tmp_path / "a" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["sync", str(tmp_path / "a")]) == 0
    assert client.folders == [] and "is being trained" in capsys.readouterr().out
    assert os.listdir(tmp_path / "a" / "wandb" / "offline-run-20260101_000000-x") == ["run-x.wandb"]
