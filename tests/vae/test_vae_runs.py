"""Latent-variable models from the command line: what a run leaves, and that a stop leaves no trace."""

import csv
import json
from pathlib import Path

import pytest

import lightning_gen
from lightning_gen.__main__ import main

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FIT = [
    *("fit", "--trainer.val_check_interval=4", "--trainer.log_every_n_steps=1", "--checkpoints.every_n_steps=4"),
    *("--samples={every_n_steps: 4, num: 4}", "--data.init_args.batch_size=32", "--data.init_args.eval_batch_size=100"),
]
VAE = f"--config={CONFIGS / 'experiment' / 'digits_vae.yaml'}"
KINDS = {
    "pseudo-inputs, importance weighted": [
        VAE,
        "--model.init_args.prior=VampPrior",
        "--model.init_args.prior.components=12",
        "--model.init_args.objective=IWAE",
        "--model.init_args.objective.dreg=true",
    ],
    "calibrated vectors": [
        VAE,
        f"--data={CONFIGS / 'data' / 'two_moons.yaml'}",
        "--data.init_args={num_train: 200, num_val: 50, num_test: 50}",
        "--model.init_args.observation=CalibratedGaussian",
        "--model.init_args.objective=ELBO",
        "--model.init_args.objective.warmup_steps=6",
    ],
    "ladder": [f"--config={CONFIGS / 'experiment' / 'digits_ladder.yaml'}"],
}


def fit(run: Path, kind: str, steps: int) -> int:
    return main([FIT[0], *KINDS[kind], *FIT[1:], f"--trainer.max_steps={steps}", "--run", str(run)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_stopped_is_the_one_that_did_not(kind, tmp_path, same_end):
    """Weights, averages, tracked errors, the warm-up's place and what was measured."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert fit(whole, kind, 8) == 0
    assert fit(halves, kind, 4) == 0
    assert fit(halves, kind, 8) == 0
    # the schedule of a training that was begun for fewer steps is another one
    if kind != "ladder":
        same_end(halves, whole)
        assert list((halves / "reconstructions").glob("*.png"))
    rows = [list(csv.DictReader((run / "metrics.csv").open())) for run in (whole, halves)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    names = set(rows[0][0])
    if kind == "ladder":
        assert {f"train/rate_{i}" for i in (1, 2, 3)} | {f"val/kl_{i}" for i in (1, 2, 3)} <= names
    else:
        assert {"train/rate", "train/distortion", "val/reconstruction", "val/kl"} <= names
        assert [row["val/loss"] for row in rows[0]] == [row["val/loss"] for row in rows[1]]


def test_a_run_can_be_loaded_evaluated_and_sampled(tmp_path):
    run = tmp_path / "run"
    assert fit(run, "pseudo-inputs, importance weighted", 4) == 0
    module = lightning_gen.load(run)
    assert module.prior.components == 12 and module.sample(2).shape == (2, 1, 8, 8)
    estimator = ["--likelihood.estimator=ImportanceWeightedBound", "--likelihood.estimator.samples=7"]
    assert main(["evaluate", str(run), "--num_samples=0", "--likelihood.draws=1", *estimator, "--name=iwae"]) == 0
    assert main(["evaluate", str(run), "--num_samples=0", "--likelihood.draws=1", "--name=elbo"]) == 0
    iwae, elbo = (json.loads((run / "evaluation" / f"{name}.json").read_text()) for name in ("iwae", "elbo"))
    assert (iwae["settings"]["likelihood_kind"], elbo["settings"]["likelihood_kind"]) == ("iwae-7", "elbo")
    assert iwae["metrics"]["bits_per_dim"] < elbo["metrics"]["bits_per_dim"]
    assert {"kl_nats", "reconstruction_nats", "elbo_nats"} <= elbo["metrics"].keys()
