"""Samples are keyed by their index: the same file from any number of ranks."""

import pytest
import torch

from lightning_gen.__main__ import main

pytestmark = pytest.mark.usefixtures("standing", "guarded")


@pytest.mark.parametrize("num", [7, 2])
def test_samples_are_the_same_and_in_order_on_any_number_of_ranks(trained, tmp_path, num):
    drawn = []
    for ranks in (1, 2, 3):
        args = [f"--num={num}", f"--out={tmp_path}/{ranks}.pt", "--batch_size=2", "--device=cpu", f"--devices={ranks}"]
        assert main(["sample", str(trained()), *args]) == 0
        drawn.append(torch.load(tmp_path / f"{ranks}.pt"))
    assert len(drawn[0]) == num
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


def test_a_file_that_cannot_hold_samples_is_refused(trained, capsys):
    assert main(["sample", str(trained()), "--out=samples.jpg", "--devices=2"]) == 2
    assert "a .png" in capsys.readouterr().err


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_nothing_is_refused(trained, tmp_path, capsys, size):
    run, out = trained(), tmp_path / "samples.pt"
    capsys.readouterr()
    assert main(["sample", str(run), f"--batch_size={size}", f"--out={out}"]) == 2
    error = capsys.readouterr().err
    assert "--batch_size" in error and error.count("\n") == 1 and not out.exists()
