"""A folder of images, a fit, samples, an evaluation from the command line; torch-fidelity's command line on the same PNGs."""

import json
import sys

import pytest
import torch
from PIL import Image

from lightning_gen.__main__ import main
from lightning_gen.evaluation.extractors import Inception

fidelity = pytest.importorskip("torch_fidelity.fidelity")


def write(folder, x, levels=256):
    """PNGs of integers {0..levels-1} [N, C, H, W], whose last level is white."""
    folder.mkdir(parents=True)
    for k, image in enumerate((x.double() * 255 / (levels - 1)).round().to(torch.uint8)):
        Image.fromarray(image.squeeze(0).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()).save(
            folder / f"{k:05}.png"
        )


def measured_by_torch_fidelity(capsys, monkeypatch, generated, reference, weights, layer, subset_size):
    layers = [f"--feature-layer-{metric}={layer}" for metric in ("fid", "kid", "prc")]
    how = ["--fid", "--kid", "--prc", "--isc", "--cpu", "--json", "--silent", "--no-cache", "--save-cpu-ram"]
    extractor = ["--feature-extractor=inception-v3-compat", f"--feature-extractor-weights-path={weights}"]
    what = [f"--input1={generated}", f"--input2={reference}", f"--kid-subset-size={subset_size}"]
    monkeypatch.setattr(sys, "argv", ["fidelity", *what, *how, *extractor, *layers])
    capsys.readouterr()
    fidelity.main()
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "num, layer, grey, levels, blocks",
    [
        (96, "64", False, 256, 2),
        pytest.param(2112, "2048", True, 8, 10, marks=pytest.mark.slow),  # more samples than features
    ],
)
def test_the_whole_bench_measures_what_torch_fidelity_measures(
    inception_weights, photographs, tmp_path, capsys, monkeypatch, num, layer, grey, levels, blocks
):
    monkeypatch.setattr("torch_fidelity.FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE", 75)  # not 299, in both alike
    for part, size, seed in (("train", 512, 1), ("val", 16, 2), ("test", num, 3)):
        write(tmp_path / "images" / part, photographs(size, seed, size=8))
    run, data = tmp_path / "run", {"path": tmp_path / "images", "grey": str(grey).lower(), "levels": levels}
    config = ["--model=configs/model/digits_realnvp.yaml", "--data=datamodules.ImageFolder"]
    config += [f"--data.init_args.{name}={value}" for name, value in data.items()]
    quick = ["--trainer.max_steps=3", "--trainer.limit_val_batches=0", "--samples.every_n_steps=0"]
    assert main(["fit", *config, *quick, "--trainer.accelerator=cpu", f"--run={run}"]) == 0
    assert main(["sample", str(run), f"--num={num}", f"--out={tmp_path}/samples.pt", "--device=cpu"]) == 0
    extractor = ["--extractor=inception", f"--extractor.weights={inception_weights}", f"--extractor.layer={layer}"]
    assert main(["evaluate", str(run), *extractor, "--likelihood.draws=0", "--device=cpu"]) == 0
    record = json.loads((run / "evaluation" / "default.json").read_text())
    ours, settings = record["metrics"], record["settings"]

    write(tmp_path / "generated", torch.load(tmp_path / "samples.pt"), levels)
    reference = tmp_path / "images" / "test"
    if levels != 256 or grey:
        from datamodules import ImageFolder

        reference = tmp_path / "reference"
        write(reference, ImageFolder(str(tmp_path / "images"), grey=grey, levels=levels).split("test").x, levels)
    sources = tmp_path / "generated", reference, inception_weights
    theirs = measured_by_torch_fidelity(capsys, monkeypatch, *sources, layer, num // blocks)

    assert settings["num_samples"] == settings["reference_count"] == num
    assert settings["extractor_digest"] == Inception(inception_weights, layer).digest
    assert ours["fd"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert {name: ours[name] for name in ("precision", "recall")} == pytest.approx(
        {name: theirs[name] for name in ("precision", "recall")}, abs=1e-6
    )
    # not at both ends, where anything would agree
    assert 0.02 < ours["precision"] < 0.98 or 0.02 < ours["recall"] < 0.98
    # a mean over disjoint blocks, and over subsets as large that overlap
    noise = theirs["kernel_inception_distance_std"] / blocks**0.5
    assert noise < ours["kid"]
    assert abs(ours["kid"] - theirs["kernel_inception_distance_mean"]) < 2 * noise
