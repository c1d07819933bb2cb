"""Every shipped config is short, can be parsed and built, and the small experiments train."""

from pathlib import Path

import pytest
import yaml

from lightning_gen.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted((CONFIGS / "experiment").glob("*.yaml"))
PARTS = sorted((CONFIGS / "model").glob("*.yaml")) + sorted((CONFIGS / "data").glob("*.yaml"))


def settings(file):
    return [line for line in file.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda f: str(f.relative_to(CONFIGS)))
def test_configs_are_short(file):
    assert len(settings(file)) <= 30


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: f.stem)
def test_every_experiment_trains(file, tmp_path):
    few = [
        "--trainer.max_steps=3",
        "--trainer.val_check_interval=2",
        "--samples.num=4",
        "--data.init_args.batch_size=16",
    ]
    sampler = "--model.init_args.sampler={class_path: lightning_gen.diffusion.DiffusionSampler, init_args: {steps: 3}}"
    assert main(["fit", "--config", str(file), "--run", str(tmp_path / "run"), *few, sampler]) == 0
    assert (tmp_path / "run" / "checkpoints" / "step_00000003.ckpt").exists()
    assert list((tmp_path / "run" / "samples").glob("*.png"))


def test_every_part_is_used_or_builds():
    """Each model config is part of an experiment; each data config builds its data module."""
    from lightning.pytorch import LightningDataModule

    from lightning_gen.specs import build

    used = [yaml.safe_load(file.read_text()) for file in EXPERIMENTS]
    named = {(CONFIGS / "experiment" / str(e[key])).resolve() for e in used for key in ("model", "data")}
    for file in PARTS:
        if file.parent.name == "data":
            data = build(yaml.safe_load(file.read_text()), LightningDataModule)
            assert data.shape
        else:
            assert file.resolve() in named, f"no experiment uses {file}"


@pytest.mark.parametrize("file", sorted((CONFIGS / "benchmark").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_cell_of_every_benchmark_parses(file, capsys):
    from lightning_gen.benchmark.grid import Plan

    plan = Plan.read(file)
    for cell in plan.cells():
        with pytest.raises(SystemExit) as done:
            main(["fit", "--config", str(plan.experiment), *cell.arguments(), "--print_config"])
        assert done.value.code == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["trainer"]["max_steps"] > 0
