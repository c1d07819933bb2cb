"""One training, many evaluations, at toy size: what they share is done once, what is missing is made up for."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from lightning_gen.__main__ import main
from lightning_gen.benchmark.evaluations import Evaluation
from lightning_gen.benchmark.measurement import Measurement, measure
from lightning_gen.errors import NonFiniteSamples
from lightning_gen.evaluation.protocol import Protocol

ROOT = Path(__file__).resolve().parents[2]
PLAN = {
    "name": "swept",
    "experiment": str(ROOT / "configs" / "experiment" / "digits_diffusion.yaml"),
    "overrides": {
        "trainer.max_steps": 4,
        "trainer.log_every_n_steps": 2,
        "trainer.val_check_interval": 4,
        "checkpoints.every_n_steps": 2,
        "data.init_args.batch_size": 16,
        "samples.every_n_steps": 0,
        "model.init_args.network.init_args.channels": 8,
        "model.init_args.network.init_args.attention": [],
        "model.init_args.conditioner": "lightning_gen.networks.ClassEmbedding",
    },
    "evaluation": {"num_samples": 100, "likelihood": {"draws": 1}},
    "evaluation_axes": {
        "solver": {"ddim": {"sampler.solver": "DDIM"}, "heun": {"sampler.solver": "Heun"}},
        "nfe": {3: {"nfe": 3}, 6: {"nfe": 6}},
    },
    "columns": ["fd", "precision"],
    "baselines": {"gaussian": {"class_path": "lightning_gen.diffusion.oracles.GaussianOracle"}},
}
NAMES = ["ddim-3", "ddim-6", "heun-3", "heun-6"]


def rows(out, name="table"):
    with open(out / f"{name}.csv") as file:
        return list(csv.DictReader(file))


def started(folder, plan, *flags):
    (folder / "swept.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    return main(["benchmark", "--config", str(folder / "swept.yaml"), "--out", str(folder / "out"), *flags])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    assert started(folder, PLAN) == 0
    return folder


def evaluations(out, run="digits_diffusion"):
    folder = out / "cells" / run / "evaluation"
    return {name: json.loads((folder / f"benchmark-{name}.json").read_text()) for name in NAMES}


def test_one_training_stands_in_many_rows(made):
    out = made / "out"
    assert [run.name for run in (out / "cells").iterdir()] == ["digits_diffusion"]
    table = rows(out)
    models = [row for row in table if row["model"] == "digits_diffusion"]
    assert sorted(f"{row['solver']}-{row['nfe']}" for row in models) == NAMES
    assert {row["settings.nfe"] for row in models if row["solver"] == "heun"} == {"2", "6"}
    closed = [row for row in table if row["model"] == "gaussian"]
    assert sorted(f"{row['solver']}-{row['nfe']}" for row in closed) == NAMES
    for group in (models, closed):
        assert len({row["fd"] for row in group}) == 4 and len({row["bits_per_dim"] for row in group}) == 1
        assert all(float(row["precision"]) >= 0 and float(row["recall"]) >= 0 for row in group)
    assert table[0]["rank_low"] == "1"
    assert "| FD[digits] | Δ FD | precision | Δ precision |" in (out / "table.md").read_text()
    pictures = {file.name for file in out.glob("*.png")}
    assert {"evaluation_curves.png", "heatmap_fd.png"} <= pictures and "heatmap_bits_per_dim.png" not in pictures


def test_the_likelihood_is_taken_once(made):
    taken_up = {name: content["timing"].get("taken_up") for name, content in evaluations(made / "out").items()}
    assert taken_up.pop("ddim-3") is None
    assert {tuple(each) for each in taken_up.values()} == {("likelihood",)}
    folder = made / "out" / "cells" / "digits_diffusion" / "evaluation"
    assert not (folder / ".benchmark.parts").exists()


def test_what_is_missing_is_made_up_for(made, capsys):
    """As a kill between two evaluations leaves it: the others are not touched, nothing is trained."""
    run = made / "out" / "cells" / "digits_diffusion"
    before = evaluations(made / "out")
    (run / "evaluation" / "benchmark-heun-3.json").unlink()
    (run / "evaluation" / "benchmark-ddim-6.job").write_text("of another protocol")
    stamps = {f: f.stat().st_mtime_ns for f in [*run.glob("checkpoints/*"), *run.glob("evaluation/*.json")]}
    assert started(made, PLAN) == 0
    changed = {f.stem for f, stamp in stamps.items() if f.stat().st_mtime_ns != stamp}
    assert changed == {"benchmark-ddim-6"}
    after = evaluations(made / "out")
    assert {name: content["metrics"] for name, content in after.items()} == {
        name: pytest.approx(content["metrics"]) for name, content in before.items()
    }
    capsys.readouterr()
    assert started(made, PLAN) == 0 and "1 of 1 runs are done already" in capsys.readouterr().out


def test_compare_sees_all_of_them(made, tmp_path, capsys):
    out = made / "out"
    assert main(["compare", str(out)]) == 2 and "--across sampler" in capsys.readouterr().err
    assert main(["compare", str(out), "--across", "sampler", "--out", str(tmp_path)]) == 0
    there = sorted(row["fd"] for row in rows(out) if row["model"] == "digits_diffusion")
    assert sorted(row["fd"] for row in rows(tmp_path) if "digits_diffusion" in row["model"]) == there


def test_more_values_seeds_and_a_guidance_that_closed_forms_cannot_follow(made, capsys):
    """New evaluations of the trainings there are; a step too dear is named, and the others stand."""
    axes = {
        "scale": {
            "1.0": {"sampler.guidance": "ClassifierFree", "sampler.guidance.scale": 1.0, "nfe": 4},
            "3.0": {"sampler.guidance": "ClassifierFree", "sampler.guidance.scale": 3.0, "nfe": 4},
            "dear": {"sampler.guidance": "ClassifierFree", "nfe": 1},
        }
    }
    checkpoints = made / "out" / "cells" / "digits_diffusion" / "checkpoints"
    stamps = {f: f.stat().st_mtime_ns for f in checkpoints.iterdir()}
    assert started(made, {**PLAN, "evaluation_axes": axes}, "--seeds", "2") == 2
    assert "2 of 2 runs failed" in capsys.readouterr().err
    assert {f: f.stat().st_mtime_ns for f in checkpoints.iterdir()} == stamps
    models = [row for row in rows(made / "out") if row["model"] == "digits_diffusion"]
    assert sorted((row["scale"], row["seeds"]) for row in models) == [("1.0", "2"), ("3.0", "2")]
    text = (made / "out" / "table.md").read_text()
    assert "not done: digits_diffusion:dear, digits_diffusion-seed1:dear." in text
    log = (checkpoints.parent / "log.txt").read_text()
    assert "benchmark-dear: nfe 1 buys no step of this DiffusionSampler, whose first costs 2" in log
    [gaussian] = [row for row in rows(made / "out") if row["model"] == "gaussian"]
    assert gaussian["scale"] == "" and float(gaussian["fd"]) > 0  # its own sampler's, for it has no condition
    assert "gaussian could not be measured in 1.0, 3.0, dear; it stands as its own sampler draws it" in text


class Judge:
    """Stands where `measure` asks a judge; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def under(self, protocol: Protocol):
        self.asked.append((protocol.likelihood.estimator, protocol.sampler))
        raise NonFiniteSamples("nothing finite")


def test_evaluations_of_one_likelihood_follow_each_other_and_no_failure_stops_the_rest(tmp_path):
    loaded, judge = [], Judge()
    ways = [Evaluation({"s": s, "w": w}, {"sampler": {"s": s}, "weights": w}) for s in "ab" for w in ("ema", "raw")]
    measurements = [Measurement(tmp_path, way.file, way, "model") for way in ways]
    measurements[0].file.write_text("of another fingerprint")
    failed = measure(measurements, judge, loaded.append, {}, tmp_path / "parts")
    assert loaded == ["ema", "raw"] and [s["s"] for _, s in judge.asked] == ["a", "b", "a", "b"]
    assert set(failed) == {"a-ema", "a-raw", "b-ema", "b-raw"} and not measurements[0].file.exists()
