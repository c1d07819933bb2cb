"""The command line: composition, run directories, resume, clear errors, and a cheap --help."""

import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_gen.__main__ import main
from lightning_gen.run_directory import checkpoint_files

ROOT = Path(__file__).resolve().parents[1]
TOY = str(ROOT / "configs" / "experiment" / "toy_diffusion.yaml")
FAST = [
    "--data.init_args.num_train=512",
    "--data.init_args.num_val=64",
    "--data.init_args.num_test=100",
    "--data.init_args.batch_size=32",
    "--model.init_args.network.init_args.width=16",
    "--model.init_args.network.init_args.depth=1",
    "--trainer.val_check_interval=4",
    "--trainer.log_every_n_steps=2",
    "--samples.every_n_steps=0",
    "--checkpoints.every_n_steps=4",
]


def fit(run, *more, steps=8):
    return main(["fit", "--config", TOY, "--run", str(run), f"--trainer.max_steps={steps}", *FAST, *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One tiny finished run that the tests of later verbs share."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    assert fit(folder) == 0
    return folder


def test_bare_help_imports_nothing_heavy():
    heavy = "torch", "lightning", "jsonargparse", "numpy", "yaml", "rich"
    code = (
        "import sys; from lightning_gen.__main__ import main; main(['--help']); import lightning_gen;"
        f"sys.exit(' '.join(m for m in {heavy} if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    for verb in ("fit", "validate", "test", "predict", "evaluate", "sample", "benchmark"):
        assert f"  {verb} " in done.stdout


def test_a_run_directory_holds_what_the_design_says(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 8
    assert config["model"]["init_args"]["network"]["init_args"]["width"] == 16
    assert (run / "run_id").read_text().strip()
    assert [f.name for f in checkpoint_files(run)] == ["step_00000008.ckpt", "step_00000004.ckpt"]
    with open(run / "metrics.csv") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    assert sorted(rows) == [2, 4, 6, 8]
    assert rows[4]["val/loss"] and rows[4]["train/loss"] and rows[4]["throughput/images_per_s"]
    assert float(rows[6]["images_seen"]) == 6 * 32


def test_the_last_line_is_the_path(run, capsys, tmp_path):
    assert main(["sample", str(run), "--num", "5", "--out", str(tmp_path / "s.png")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "s.png")
    assert (tmp_path / "s.png").stat().st_size > 1000
    assert main(["evaluate", str(run), "--num_samples", "50", "--likelihood.draws", "2", "--name", "quick"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run / "evaluation" / "quick.json")


def test_evaluate_needs_no_config_and_says_how_it_measured(run):
    bare = checkpoint_files(run)[0]
    assert (
        main(
            [
                "evaluate",
                str(bare),
                "--num_samples=50",
                "--likelihood.draws=2",
                "--batch_size=7",
                "--name=bare",
                "--weights=raw",
            ]
        )
        == 0
    )
    content = json.loads((run / "evaluation" / "bare.json").read_text())
    assert content["metrics"]["fd"] > 0
    assert "bits_per_dim" not in content["metrics"]  # real vectors have densities
    assert content["settings"]["likelihood_kind"] == "density-elbo"
    assert content["settings"]["weights"] == "raw"
    for key in ("extractor", "reference", "num_samples", "nfe", "seed", "sampler", "reference_fingerprint", "step"):
        assert content["settings"][key] is not None, key
    with open(run / "evaluation" / "bare.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100  # the whole test split
    parts = [sum(float(row[name]) for name in ("prior", "diffusion", "reconstruction")) for row in rows]
    assert parts == pytest.approx([float(row["log_prob_nats"]) for row in rows])


def test_evaluation_does_not_depend_on_the_batch_size(run):
    values = []
    for size in (7, 64):
        assert (
            main(["evaluate", str(run), "--num_samples=50", "--likelihood.draws=2", f"--batch_size={size}", "--name=b"])
            == 0
        )
        values.append(json.loads((run / "evaluation" / "b.json").read_text())["metrics"])
    for key in values[0]:
        assert values[0][key] == pytest.approx(values[1][key], rel=1e-4), key


def test_sampler_can_be_overridden_in_part(run):
    assert (
        main(
            [
                "evaluate",
                str(run),
                "--num_samples=20",
                "--likelihood.draws=0",
                "--name=steps",
                '--sampler={"init_args": {"steps": 3}}',
            ]
        )
        == 0
    )
    settings = json.loads((run / "evaluation" / "steps.json").read_text())["settings"]
    assert settings["nfe"] == 3 and settings["sampler"]["init_args"]["steps"] == 3
    assert settings["sampler"]["init_args"]["solver"]["class_path"].endswith("DDIM")
    assert (
        main(
            [
                "evaluate",
                str(run),
                "--num_samples=20",
                "--likelihood.draws=0",
                "--name=dots",
                "--sampler.init_args.steps=4",
            ]
        )
        == 0
    )
    assert json.loads((run / "evaluation" / "dots.json").read_text())["settings"]["nfe"] == 4
    assert main(["evaluate", str(run), "--num_samples=20", '--sampler={"stepz": 5}']) == 2


def test_trainer_verbs_need_the_run_alone(run):
    assert main(["validate", "--run", str(run)]) == 0
    assert main(["test", "--run", str(run), "--evaluation.likelihood.draws=1"]) == 0
    assert main(["predict", f"--run={run}"]) == 0
    content = json.loads((run / "evaluation" / "test.json").read_text())
    with open(run / "evaluation" / "predict.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(100))
    values = [float(row["log_prob_nats"]) for row in rows]
    assert content["metrics"]["elbo_nats"] == pytest.approx(statistics.fmean(values), rel=1e-9)
    assert content["metrics"]["elbo_nats_se"] == pytest.approx(statistics.stdev(values) / 10, rel=1e-9)
    assert content["settings"]["weights"] == "ema:0.999"
    assert content["settings"]["likelihood_kind"] == "density-elbo"


def test_test_reports_from_inside_lightning_what_evaluate_does(run):
    how = {"num_samples": "50", "batch_size": "20", "likelihood.draws": "3", "likelihood.estimator.steps": "30"}
    assert main(["evaluate", str(run), *(f"--{key}={value}" for key, value in how.items()), "--name=both"]) == 0
    assert main(["test", "--run", str(run), *(f"--evaluation.{key}={value}" for key, value in how.items())]) == 0
    found = [json.loads((run / "evaluation" / f"{name}.json").read_text()) for name in ("test", "both")]
    inside, outside = (content["metrics"] for content in found)
    assert (
        outside.keys() <= inside.keys() and {"fd", "kid", "elbo_nats", "elbo_nats_se", "prior_nats"} <= outside.keys()
    )
    assert {key: inside[key] for key in outside} == pytest.approx(outside, rel=1e-5)
    different = {key for key, value in found[1]["settings"].items() if found[0]["settings"].get(key) != value}
    assert not different


def test_the_settings_of_test_are_those_it_measured_with(run, capsys):
    how = ["--evaluation.num_samples=20", "--evaluation.seed=5", "--evaluation.likelihood.draws=1"]
    assert main(["evaluate", str(run), "--num_samples=20", "--seed=5", "--likelihood.draws=1", "--name=five"]) == 0
    assert main(["test", "--run", str(run), *how]) == 0
    inside, outside = (json.loads((run / "evaluation" / f"{name}.json").read_text()) for name in ("test", "five"))
    assert inside["settings"]["seed"] == 5
    shared = ("fd", "elbo_nats", "diffusion_nats")
    assert [inside["metrics"][k] for k in shared] == pytest.approx([outside["metrics"][k] for k in shared], rel=1e-5)
    assert main(["test", "--run", str(run), "--evaluation.num_samples=20", "--evaluation.likelihood.draws=0"]) == 0
    metrics = json.loads((run / "evaluation" / "test.json").read_text())["metrics"]
    assert "elbo_nats" not in metrics and metrics["fd"] > 0 and metrics["loss"] > 0
    capsys.readouterr()
    assert main(["test", "--run", str(run), "--evaluation.reference=val"]) == 2
    assert "evaluate --reference val" in capsys.readouterr().err


def test_a_measurement_of_a_part_says_of_how_many_examples(run):
    """100 to test and 64 to validate, in batches of at most 30."""
    judge = ["--run", str(run), "--data.init_args.eval_batch_size=30"]
    for verb, limit, num in (("validate", "val", 22), ("test", "test", 25)):
        more = ["--evaluation.num_samples=20"] if verb == "test" else []
        for part in (True, False):
            assert main([verb, *judge, *more, *[f"--trainer.limit_{limit}_batches=1"] * part]) == 0
            settings = json.loads((run / "evaluation" / f"{verb}.json").read_text())["settings"]
            assert settings.get("num_examples") == (num if part else None)


def test_another_model_than_was_trained_is_not_judged(run, capsys):
    config = str(run / "config.yaml")
    target = "--model.init_args.parameterization=NoisePrediction"
    assert main(["test", "--config", config, "--run", str(run), target]) == 2
    assert "parameterization" in capsys.readouterr().err
    assert main(["test", "--run", str(run), "--model.init_args.eval_draws=2"]) == 0


def test_two_ranks_measure_what_one_does(run, tmp_path):
    """65 validation examples do not divide: every one counts once, at the right step, and predictions are all there."""
    two = tmp_path / "two"
    ranks = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    args = ["--config", TOY, "--run", str(two), "--trainer.max_steps=4", *FAST, "--data.init_args.num_val=65"]
    args += ["--fidelity.every_n_steps=2", "--fidelity.num_samples=200"]  # every measure there is, in a group of ranks
    start = [sys.executable, "-m", "lightning_gen"]
    options = {"cwd": ROOT, "check": True, "capture_output": True, "text": True, "timeout": 240}
    made = subprocess.run([*start, "fit", *args, *ranks], **options)
    assert made.stdout.splitlines()[-1] == str(two) and made.stdout.count(str(two)) == 1
    with open(two / "metrics.csv") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    assert sorted(rows) == [2, 4] and all(float(row["fidelity/fd"]) > 0 for row in rows.values())
    assert main(["validate", "--run", str(two)]) == 0
    alone = json.loads((two / "evaluation" / "validate.json").read_text())["metrics"]
    assert float(rows[4]["val/loss"]) == pytest.approx(alone["loss"], rel=1e-6)
    assert float(rows[4]["val/log_prob_nats"]) == pytest.approx(alone["elbo_nats"], rel=1e-6)
    assert main(["predict", "--run", str(two)]) == 0
    before = (two / "evaluation" / "predict.csv").read_text().splitlines()
    subprocess.run([*start, "predict", "--run", str(two), *ranks], **options)
    after = (two / "evaluation" / "predict.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in after] == [line.split(",")[0] for line in before]


@pytest.mark.parametrize(("steps", "every"), [(4, 4), (5, 4), (4, 100), (6, 100)])
def test_resumed_run_is_the_uninterrupted_one(run, tmp_path, steps, every):
    """Cut after some of 8 steps and started again: same weights, same averages, same CSV but for the speeds.

    The checkpoint was written at the end of a batch, or at the end of training after a validation.
    """
    import torch

    cut = tmp_path / "cut"
    assert fit(cut, f"--checkpoints.every_n_steps={every}", steps=steps) == 0
    assert fit(cut, f"--checkpoints.every_n_steps={every}") == 0
    whole, resumed = (torch.load(checkpoint_files(r)[0], weights_only=True) for r in (run, cut))
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key
    for key, value in whole["lightning_gen"]["averages"]["weights"]["0.999"].items():
        assert torch.equal(value, resumed["lightning_gen"]["averages"]["weights"]["0.999"][key]), key

    def metrics(folder):
        with open(folder / "metrics.csv") as file:
            return [{k: v for k, v in row.items() if not k.startswith("throughput")} for row in csv.DictReader(file)]

    assert metrics(cut) == metrics(run)


def test_a_run_refuses_another_config(run, capsys):
    before = (run / "config.yaml").read_text()
    assert fit(run, "--model.init_args.eval_draws=3") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "eval_draws" in message and "3 here" in message
    assert (run / "config.yaml").read_text() == before


def test_composition_and_feeding_back(tmp_path, capsys):
    """--model m.yaml --data d.yaml is the experiment; a printed config can be fed back."""
    parts = [
        f"--{part}={ROOT / 'configs' / path}"
        for part, path in (("model", "model/toy_diffusion.yaml"), ("data", "data/two_moons.yaml"))
    ]
    with pytest.raises(SystemExit):
        main(["fit", *parts, "--trainer.accelerator=cpu", "--print_config"])
    composed = yaml.safe_load(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main(["fit", "--config", TOY, "--print_config"])
    whole = yaml.safe_load(capsys.readouterr().out)
    assert composed["model"] == whole["model"] and composed["data"] == whole["data"]
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(whole))
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(file), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out) == whole
