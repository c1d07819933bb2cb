"""lightning-gen attractors: a sheet and numbers, of a run or of a closed form without one."""

import json
import math
import subprocess
import sys

import pytest
import torch
from PIL import Image

from datamodules import Digits
from lightning_gen.__main__ import main
from lightning_gen.dae import OptimalDAE
from lightning_gen.evaluation.attractors import Training

CLOSED = ["lightning_gen.dae.OptimalDAE", "--data=datamodules.Digits", "--device=cpu"]


def numbers(path):
    return json.loads(path.with_suffix(".json").read_text())


def test_the_optimal_one_leads_to_training_images_and_the_linear_one_to_the_mean(tmp_path, capsys):
    out = tmp_path / "deep" / "sheet.png"
    assert main(["attractors", *CLOSED, "--sigma=0.05", "--num=6", "--noise=0.1", f"--out={out}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    found = numbers(out)["metrics"]
    assert found["converged"] == 1 and found["distance_to_nearest_training"] < 1e-3 < found["distance_to_original"]
    with Image.open(out) as sheet:  # clean, 8 stations, end and nearest, of 32 pixels and their gaps
        assert sheet.size == (11 * 34 + 2, 6 * 34 + 2)
    assert sorted(file.name for file in out.parent.iterdir()) == ["sheet.json", "sheet.png"]

    linear = ["lightning_gen.dae.LinearDAE", *CLOSED[1:], "--init_args.rank=20", "--sigma=1", "--steps=300"]
    assert main(["attractors", *linear, "--num=6", f"--out={out}"]) == 0
    drifted = numbers(out)
    assert drifted["metrics"]["distance_to_training_mean"] < 0.05 < drifted["metrics"]["distance_to_nearest_training"]
    assert drifted["settings"]["init_args"] == {"rank": 20} and drifted["settings"]["sigma"] == 1


def test_a_training_image_comes_back_to_itself(tmp_path):
    out = tmp_path / "sheet.png"
    args = ["--split=train", "--sigma=0.05", "--noise=0.1", "--num=8", "--seed=3", f"--out={out}"]
    assert main(["attractors", *CLOSED, *args]) == 0
    found = numbers(out)["metrics"]
    assert found["distance_to_original"] < 1e-3 and found["distance_to_start"] == pytest.approx(0.1, rel=0.1)


def test_a_run_is_iterated_from_its_checkpoint_alone(tmp_path, capsys):
    run = tmp_path / "run"
    network = [
        "--model.init_args.network=lightning_gen.networks.UNet",
        "--model.init_args.network.init_args.channels=4",
    ]
    what = ["--model=lightning_gen.dae.DenoisingAutoencoder", *network, "--data=datamodules.Digits"]
    how = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--samples.every_n_steps=0"]
    assert main(["fit", *what, *how, "--run", str(run)]) == 0
    assert main(["attractors", str(run), "--num=3", "--steps=2", "--device=cpu"]) == 0
    found = numbers(run / "attractors" / "test.png")
    settings, digits = found["settings"], Digits()
    told = {"run": "run", "model": "DenoisingAutoencoder", "step": 1, "num": 3, "sigma": 0.5, "data": "Digits"}
    assert told.items() <= settings.items()  # sigma is the one that it was trained at
    assert {"weights", "recipe_digest", "torch", "commit", "device", "levels", "batch_size"} <= settings.keys()
    assert settings["split_fingerprint"] == digits.split("test").fingerprint()
    assert settings["train_fingerprint"] == digits.split("train").fingerprint()

    assert main(["attractors", str(run), "--num=3", "--sigma=3", "--device=cpu"]) == 2
    assert "from 0.5 to 0.5: sigma 3" in capsys.readouterr().err
    (run / "checkpoints" / "step_00000001.ckpt").replace(tmp_path / "alone.ckpt")
    checkpoint = torch.load(tmp_path / "alone.ckpt", weights_only=True)
    key = next(key for key in checkpoint["state_dict"] if key.endswith("weight"))
    checkpoint["state_dict"][key].fill_(math.nan)
    torch.save(checkpoint, tmp_path / "alone.ckpt")
    assert main(["attractors", str(tmp_path / "alone.ckpt"), "--weights=raw", "--device=cpu"]) == 2
    assert "finite" in capsys.readouterr().err and not (tmp_path / "attractors" / "test.json").exists()


def test_the_size_of_batches_changes_nothing(tmp_path):
    found = {}
    for size in (20, 7):
        out = tmp_path / f"{size}.png"
        args = ["--sigma=0.3", "--num=20", "--noise=0.5", "--steps=20", f"--batch_size={size}", f"--out={out}"]
        assert main(["attractors", *CLOSED, *args]) == 0
        found[size] = numbers(out)["metrics"]
        with Image.open(out) as sheet:
            found[size, "sheet"] = sheet.tobytes()
    assert found[7] == pytest.approx(found[20], rel=1e-5, abs=1e-6) and found[7, "sheet"] == found[20, "sheet"]


def test_a_class_goes_by_its_bare_name_in_a_new_process(tmp_path):
    out = tmp_path / "sheet.png"
    command = ["attractors", "OptimalDAE", *CLOSED[1:], "--num=2", "--steps=1", f"--out={out}"]
    done = subprocess.run([sys.executable, "-m", "lightning_gen", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert numbers(out)["settings"]["model"] == "OptimalDAE"


@pytest.mark.parametrize("place", ["file/sheet.png", "folder.png"])
def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path, monkeypatch, capsys, place):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(OptimalDAE, "attractors", lambda *_, **__: pytest.fail("it was iterated"))
    assert main(["attractors", *CLOSED, f"--out={tmp_path / place}"]) == 2
    error = capsys.readouterr().err
    assert "--out" in error and error.count("\n") == 1


def test_the_nearest_are_found_over_chunks(monkeypatch):
    monkeypatch.setattr("lightning_gen.evaluation.attractors._CHUNK", 7)
    generator = torch.Generator().manual_seed(0)
    train, points = torch.randn(50, 3, generator=generator), torch.randn(20, 3, generator=generator)
    found = Training(OptimalDAE((3,), None, None), train)
    torch.testing.assert_close(found.nearest(points), train[torch.cdist(points, train).argmin(1)])
    torch.testing.assert_close(found.mean, train.mean(0))


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ([*CLOSED, "--num=0"], "at least one"),
        ([*CLOSED, "--sigma=0"], "--sigma"),
        ([*CLOSED, "--noise=-1"], "--noise"),
        ([*CLOSED, "--noise=.nan"], "--noise"),
        ([*CLOSED, "--batch_size=0"], "--batch_size"),
        ([*CLOSED, "--out=sheet.gif"], ".png"),
        ([*CLOSED, "--eta=2"], "eta"),
        ([*CLOSED, "--split=nowhere"], "nowhere"),
        (["lightning_gen.dae.OptimalDAE", "--data=nothing.yaml"], "nothing.yaml"),
        (["nothing", "--init_args.rank=2", "--out=x.png"], "--init_args"),
        (["lightning_gen.dae.OptimalDAE"], "there is no run"),
        (["conftest.TinyModel", "--data=datamodules.Digits"], "conftest.TinyModel"),
    ],
)
def test_what_cannot_be_iterated_is_refused(tmp_path, monkeypatch, capsys, args, word):
    monkeypatch.chdir(tmp_path)
    assert main(["attractors", *args]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1 and not list(tmp_path.rglob("*.png"))
