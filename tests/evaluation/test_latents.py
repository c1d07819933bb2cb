"""lightning-gen latents: sheets and numbers of any run whose model has latents."""

import json

import pytest
import torch
from PIL import Image

import lightning_gen
from datamodules import BinaryDigits
from lightning_gen.__main__ import main

NETWORKS = [
    f"--model.init_args.{part}={{class_path: lightning_gen.networks.PlainMLP, init_args: {{widths: [8]}}}}"
    for part in ("encoder", "decoder")
]
HOW = ["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--samples.every_n_steps=0"]
SHEETS = {"reconstructions", "interpolations", "traversals", "samples", "temperatures", "imputations"}


def fitted(run, observation, data, *args):
    what = ["--model=VAE", *NETWORKS, f"--model.init_args.observation={observation}", f"--data={data}"]
    assert main(["fit", *what, *HOW, *args, "--run", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A run with two latents."""
    args = ["Bernoulli", "datamodules.BinaryDigits", "--model.init_args.latent_dim=2"]
    return fitted(tmp_path_factory.mktemp("latents") / "plane", *args)


def looked(run, out, *args):
    assert main(["latents", str(run), f"--out={out}", "--device=cpu", *args]) == 0
    return json.loads((out / "latents.json").read_text()), {file.stem for file in out.glob("*.png")}


def test_a_run_gets_its_sheets_and_its_numbers(plane, tmp_path, capsys):
    found, sheets = looked(
        plane, tmp_path / "new" / "a", "--num=5", "--stations=3", "--weights=raw", "--temperatures=[0.5,1]"
    )
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "new" / "a")
    assert sheets == SHEETS | {"manifold", "encoded"} and not found["left_out"]
    assert not list((tmp_path / "new" / "a").glob(".*"))
    shapes = {"interpolations": (3, 5), "traversals": (3, 2), "temperatures": (2, 5), "imputations": (6, 5)}
    shapes["manifold"] = (20, 20)
    for name, (columns, rows) in shapes.items():
        with Image.open(tmp_path / "new" / "a" / f"{name}.png") as picture:
            assert picture.size == (columns * 34 + 2, rows * 34 + 2)

    module, test = lightning_gen.load(plane, "raw"), BinaryDigits().split("test")
    z = module.encode(test.x)
    error = (module.expected(z) - test.x).square().mean().item()
    metrics, settings = found["metrics"], found["settings"]
    assert metrics["mean_squared_error"] == pytest.approx(error, rel=1e-5) and metrics["latents"] == 2
    variances = z.double().var(0, correction=0)
    assert metrics["variance_of_encoded_mean"] == pytest.approx(variances.tolist(), rel=1e-5)
    assert metrics["active_units"] == (variances > 0.01).sum()
    expected = {"run": "plane", "step": 2, "weights": "raw", "split": "test", "num_examples": 600, "num": 5, "seed": 0}
    assert expected.items() <= settings.items() and settings["temperatures"] == [0.5, 1]


def test_the_pictures_are_the_same_whatever_the_batch_and_follow_the_seed(plane, tmp_path):
    for name, args in {"a": [], "b": ["--batch_size=7"], "c": ["--seed=1"]}.items():
        assert looked(plane, tmp_path / name, "--num=9", *args)[0]["settings"]["seed"] == (name == "c")
    of = {name: {file.name: file.read_bytes() for file in (tmp_path / name).glob("*.png")} for name in "abc"}
    assert of["a"] == of["b"]
    assert {name for name in of["a"] if of["a"][name] != of["c"][name]} == {
        "samples.png", "temperatures.png", "imputations.png"
    }  # fmt: skip


def test_points_are_scattered_and_what_has_no_picture_is_said(tmp_path, capsys):
    run = fitted(tmp_path / "run", "FixedGaussian", "datamodules.TwoMoons", "--model.init_args.latent_dim=3")
    capsys.readouterr()
    assert main(["latents", str(run), "--device=cpu", "--split=val"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(run / "latents") and said[0].startswith("no imputations.png: ")
    assert {file.stem for file in (run / "latents").glob("*.png")} == SHEETS - {"imputations"}
    with Image.open(run / "latents" / "temperatures.png") as panels:
        assert 5.5 < panels.width / panels.height < 7.5  # a panel for each of six temperatures
    found = json.loads((run / "latents" / "latents.json").read_text())
    assert list(found["left_out"]) == ["imputations"] and found["settings"]["split"] == "val"


def test_a_conditional_model_gets_the_labels(tmp_path):
    conditioner = "--model.init_args.conditioner=lightning_gen.networks.ClassEmbedding"
    data = ["datamodules.BinaryDigits", "--model.init_args.latent_dim=2", conditioner]
    found, sheets = looked(
        fitted(tmp_path / "run", "Bernoulli", *data, "--model.init_args.conditioner.init_args.dim=4"), tmp_path / "out"
    )
    assert sheets == SHEETS | {"manifold", "encoded"} and not found["left_out"]
    module, test = lightning_gen.load(tmp_path / "run"), BinaryDigits().split("test")
    variances = module.encode(test.x, test.y).double().var(0, correction=0)
    assert found["metrics"]["variance_of_encoded_mean"] == pytest.approx(variances.tolist(), rel=1e-5)


def test_an_older_picture_that_is_left_out_now_does_not_stay(plane, tmp_path, monkeypatch):
    from lightning_gen.errors import UserError
    from lightning_gen.evaluation.latent_view import LatentView

    looked(plane, tmp_path, "--num=3")

    def refused(*args):
        raise UserError("not today")

    monkeypatch.setattr(LatentView, "traversals", refused)
    found, sheets = looked(plane, tmp_path, "--num=3")
    assert found["left_out"] == {"traversals": "not today"} and "traversals" not in sheets


@pytest.mark.parametrize(
    ("args", "word"),
    [(["--num=0"], "--num"), (["--batch_size=0"], "--batch_size"), (["--stations=1"], "--stations"),
     (["--range=0"], "--range"), (["--range=-1"], "--range"), (["--split=nowhere"], "nowhere"),
     (["--temperatures=[]"], "--temperatures"), (["--temperatures=[0.5,-1]"], "--temperatures"),
     (["--temperatures=[.nan]"], "--temperatures"), (["--weights=other"], "weights")],
)  # fmt: skip
def test_what_cannot_be_shown_is_refused(plane, tmp_path, capsys, args, word):
    capsys.readouterr()
    assert main(["latents", str(plane), *args, f"--out={tmp_path / 'out'}", "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_model_without_latents_or_with_nan_is_refused(trained, plane, tmp_path, capsys):
    run = trained()
    assert main(["latents", str(run), "--device=cpu"]) == 2
    assert "Coins has no latents" in capsys.readouterr().err
    (file,) = (plane / "checkpoints").glob("*.ckpt")
    checkpoint = torch.load(file, weights_only=True)
    for name, value in checkpoint["state_dict"].items():
        if name.startswith("encoder"):
            value.fill_(torch.nan)
    torch.save(checkpoint, tmp_path / "broken.ckpt")
    capsys.readouterr()
    assert main(["latents", str(tmp_path / "broken.ckpt"), "--weights=raw", "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert "NaN" in error and error.count("\n") == 1
