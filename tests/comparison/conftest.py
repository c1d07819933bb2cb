"""Evaluation files as `evaluate` writes them, without an evaluation."""

import csv
import json
import math

import pytest

SETTINGS = {
    "num_samples": 600,
    "extractor": "digits",
    "extractor_digest": "d",
    "data": "Digits",
    "levels": 17,
    "reference": "test",
    "reference_count": 4,
    "reference_fingerprint": "f",
    "draws": 16,
    "seed": 0,
    "device": "cpu",
    "sampler": {"class_path": "a.Sampler", "init_args": {"steps": 50, "solver": {"class_path": "a.DDIM"}}},
    "nfe": 50,
    "weights": "ema:0.999",
    "likelihood_kind": "elbo",
    "estimator": {"class_path": "a.Bound", "init_args": {"steps": None}},
    "step": 500,
    "version": "1",
    "commit": "c",
    "torch": "2",
}
FLOOR = {"metrics": {"fd": 1.0}, "settings": {"num_samples": 600, "source": "real data"}}
CEILING = {"metrics": {"fd": 100.0}, "settings": {"num_samples": 600, "source": "noise"}}


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A table is as wide as this, whatever the terminal that the tests are started from."""
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def evaluated(tmp_path):
    """evaluated(run, fd=..., bits=..., metrics={}, speeds=(), seed=0, recipe=run, per_example=None, name="default",
    **settings): a run's path.

    `per_example` is the bits/dim of each example; `bits` is their mean unless given.
    """

    def function(
        run,
        *,
        fd=None,
        bits=None,
        seed=0,
        recipe=None,
        per_example=None,
        name="default",
        metrics=None,
        speeds=(),
        **settings,
    ):
        folder = tmp_path / "runs" / run / "evaluation"
        folder.mkdir(parents=True, exist_ok=True)
        if per_example is not None:
            nats = [-value * 64 * math.log(2) for value in per_example]
            with open(folder / f"{name}.csv", "w", newline="") as file:
                csv.writer(file).writerows([["index", "log_prob_nats"], *enumerate(nats)])
            bits = sum(per_example) / len(per_example) if bits is None else bits
        metrics = {**(metrics or {}), **({} if fd is None else {"fd": fd})}
        if bits is not None:
            metrics |= {"bits_per_dim": bits, "bits_per_dim_se": 0.1, "elbo_nats": -bits * 64 * math.log(2)}
        how = {**SETTINGS, "training_seed": seed, "recipe_digest": recipe or run, **settings}
        content = {"metrics": metrics, "settings": how, "baselines": {"floor": FLOOR, "ceiling": CEILING}}
        (folder / f"{name}.json").write_text(json.dumps(content))
        if speeds:
            rows = "".join(f"{step},{speed}\n" for step, speed in enumerate(speeds))
            (folder.parent / "metrics.csv").write_text(f"step,throughput/images_per_s\n{rows}")
        return folder.parent

    return function


@pytest.fixture
def seeds(evaluated):
    """seeds(model, [fd of seed 0, of seed 1, ...], **settings): paths of the runs of one recipe."""

    def function(model, fds, **settings):
        return [evaluated(f"{model}-{seed}", fd=fd, seed=seed, recipe=model, **settings) for seed, fd in enumerate(fds)]

    return function
