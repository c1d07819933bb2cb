"""A checkpoint is worth the same on one, two and three processes; what ends one of them ends all, with one line."""

import csv
import json
import socket

import pytest
import torch

from lightning_gen.__main__ import main
from lightning_gen.errors import UserError
from lightning_gen.evaluation.ranks import ALONE, Ranks, pick_device, run
from lightning_gen.processes import run_together

pytestmark = pytest.mark.usefixtures("standing", "guarded")
PRELOAD = "lightning_gen.evaluation.sample"


def measured(run, name, *args):
    """(JSON, rows of the CSV, bytes of the picture) of one evaluation."""
    assert main(["evaluate", str(run), "--device=cpu", "--likelihood.draws=3", f"--name={name}", *args]) == 0
    folder = run / "evaluation"
    with open(folder / f"{name}.csv") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    picture = folder / f"{name}.png"
    return json.loads((folder / f"{name}.json").read_text()), rows, picture.exists() and picture.read_bytes()


@pytest.mark.parametrize(
    "sizes",
    [
        ("Few", "--num_samples=7", "--reference=test"),
        ("Few", "--num_samples=50", "--reference=val"),
        ("Few", "--num_samples=0"),
        ("More", "--num_samples=151", "--batch_size=40"),
    ],
    ids=["7 and 5", "50 and 6", "0 and 5", "151 and 50"],
)
def test_a_checkpoint_is_worth_the_same_on_any_number_of_ranks(trained, sizes, capsys):
    data, *sizes = sizes
    run, batches = trained(data=data), "--batch_size=2"
    sizes = [batches, *sizes]
    alone, rows, picture = measured(run, "one", *sizes)
    assert alone["metrics"]["bits_per_dim"] > 0 and ("fd" in alone["metrics"]) == ("--num_samples=0" not in sizes)
    if data == "More":  # enough for every measure there is
        assert {"fd_inf", "fd_inf_se", "kid", "kid_se", "precision", "coverage"} <= alone["metrics"].keys()
    for ranks in (2, 3):
        several, its_rows, its_picture = measured(run, "several", *sizes, f"--devices={ranks}")
        assert capsys.readouterr().out.splitlines()[-1] == str(run / "evaluation" / "several.json")
        assert several["settings"] == alone["settings"]
        assert several["metrics"] == pytest.approx(alone["metrics"], rel=1e-6)
        assert [row["index"] for row in its_rows] == list(range(alone["settings"]["reference_count"]))
        for row, expected in zip(its_rows, rows, strict=True):
            assert row == pytest.approx(expected, rel=1e-5)
        assert its_picture == picture


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 2, 5, 7, 600])
def test_shares_are_contiguous_whole_and_even(size, total):
    shares = [Ranks(rank, size).share(total) for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def slurm(size):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"SLURM_NTASKS": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**common, "SLURM_PROCID": str(r), "SLURM_LOCALID": str(r)} for r in range(size)]


def as_tasks(args, folder, environments):
    """The verb as a launcher's tasks run it: (status, output, errors) of each."""
    import coins_of_ranks

    run_together(coins_of_ranks.spoken, {"args": args, "folder": str(folder)}, environments, PRELOAD)
    read = [[folder / f"{r}.{what}" for what in ("status", "out", "err")] for r in range(len(environments))]
    return [tuple(file.read_text() for file in files) for files in read]


def test_tasks_of_a_cluster_are_ranks(trained, tmp_path):
    alone, _, _ = measured(trained(), "one", "--num_samples=7")
    args = ["evaluate", str(trained()), "--num_samples=7", "--likelihood.draws=3", "--name=tasks", "--device=cpu"]
    (status, out, err), other = as_tasks(args, tmp_path, slurm(2))
    assert (status, err) == ("0", "") and other == ("0", "", "")
    assert out.splitlines()[0].startswith("FD[values]") and len(out.splitlines()) == 4
    assert out.splitlines()[-1] == str(trained() / "evaluation" / "tasks.json")
    content = json.loads((trained() / "evaluation" / "tasks.json").read_text())
    assert content["metrics"] == pytest.approx(alone["metrics"], rel=1e-6)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_error_in_one_rank_is_one_line(trained, capsys, monkeypatch, rank):
    """The other rank has an hour of samples before it: it stops at its next batch."""
    monkeypatch.setenv("FAILS", rank)
    args = ["--num_samples=10000000", "--batch_size=2", "--device=cpu", "--devices=2", "--name=failed"]
    assert main(["evaluate", str(trained()), *args]) == 2
    assert capsys.readouterr().err == "lightning-gen evaluate: the coin is lost\n"
    assert not (trained() / "evaluation" / "failed.json").exists()


def test_an_error_in_one_task_is_one_line(trained, monkeypatch, tmp_path):
    monkeypatch.setenv("FAILS", "1")
    environments = [{**e, "RANK": e["SLURM_PROCID"], "WORLD_SIZE": "2"} for e in slurm(2)]
    args = ["sample", str(trained()), "--num=10000000", "--batch_size=2", "--device=cpu"]
    first, second = as_tasks(args, tmp_path, environments)
    assert first == ("2", "", "lightning-gen sample: the coin is lost\n")
    assert second == ("2", "", "")


def test_features_that_are_not_finite_on_one_rank_fail_on_all(trained, capsys):
    args = [
        "--num_samples=7",
        "--likelihood.draws=0",
        "--device=cpu",
        "--devices=2",
        "--extractor.class_path=coins_of_ranks.Holes",
    ]
    assert main(["evaluate", str(trained()), *args]) == 2
    error = capsys.readouterr().err
    assert "the extractor 'values' gives NaN or infinite features for 4 of 7 samples" in error
    assert "--extractor" in error and error.count("\n") == 1


def test_what_all_get_wrong_is_one_line(standing, capsys):
    assert main(["evaluate", "nowhere", "--devices=2", "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error and error.count("\n") == 1


def test_numbers_that_cannot_be_are_refused_before_anything_starts(monkeypatch):
    with pytest.raises(UserError, match="at least 1, not 0 and 1"):
        run(print, {}, devices=0)
    with pytest.raises(UserError, match="--num_nodes 2 needs a launcher"):
        run(print, {}, num_nodes=2)
    for name, value in {"RANK": "0", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="MASTER_ADDR and MASTER_PORT"):
        run(print, {})
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(UserError, match="started 4 processes, but --devices 3 --num_nodes 1 asks for 3"):
        run(print, {}, devices=3)


def test_one_device_is_a_plain_call(monkeypatch):
    """Not even where another library has left a world behind, or a batch script runs beside its tasks."""
    seen = []
    for name, value in {"WORLD_SIZE": "2", "SLURM_JOB_ID": "9", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    run(lambda ranks, device: seen.append((ranks, device, torch.distributed.is_initialized())), {}, device="cpu")
    assert seen == [(ALONE, torch.device("cpu"), False)]


def test_devices_are_named_by_kind_among_several():
    with pytest.raises(UserError, match="no device 'nothing'"):
        pick_device("nothing")
    with pytest.raises(UserError, match="--device cpu, not 'cpu:1'"):
        pick_device("cpu:1", Ranks(0, 2))
