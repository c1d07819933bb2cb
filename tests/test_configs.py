"""Every shipped config is short, can be parsed and built, and the small experiments train."""

import os
from pathlib import Path

import pytest
import torch
import yaml

from lightning_gen.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted((CONFIGS / "experiment").glob("*.yaml"))
FEW_IMAGES = ["--data.init_args.num_train=64", "--data.init_args.num_val=8", "--data.init_args.num_test=8"]
SMALL = {
    "mnist_diffusion": FEW_IMAGES,
    "cifar10_ddpm": [
        f"--data={CONFIGS / 'data' / 'cifar10_folder.yaml'}",
        *FEW_IMAGES,
        "--model.init_args.network.init_args.channels=8",
    ],
}
"""What makes an experiment on data that are not shipped a matter of seconds."""
TRAINERS = sorted((CONFIGS / "trainer").glob("*.yaml"))
PARTS = sorted((CONFIGS / "model").glob("*.yaml")) + sorted((CONFIGS / "data").glob("*.yaml"))


def settings(file):
    return [line for line in file.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda f: str(f.relative_to(CONFIGS)))
def test_configs_are_short(file):
    assert len(settings(file)) <= 30


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: f.stem)
def test_every_experiment_builds_its_model(file):
    """At its full size, from the data's shape alone: no data are read, none need be there."""
    from lightning.pytorch import LightningDataModule

    import lightning_gen.diffusion.module  # noqa: F401  configs name classes without their modules
    from lightning_gen.generative_module import GenerativeModule
    from lightning_gen.specs import build

    content = yaml.safe_load(file.read_text())
    part = {key: yaml.safe_load((file.parent / content[key]).read_text()) for key in ("data", "model")}
    data = build(part["data"], LightningDataModule)
    given = {"shape": data.shape, "levels": data.levels, "num_classes": data.num_classes}
    module = build(part["model"], GenerativeModule, **given)
    with torch.device("meta"):
        module.configure_model()
    assert sum(p.numel() for p in module.parameters()) > 10_000


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: f.stem)
def test_every_experiment_trains(file, tmp_path):
    small = SMALL.get(file.stem, [])
    if small and not os.environ.get("LIGHTNING_GEN_DATA"):
        pytest.skip("needs the data in LIGHTNING_GEN_DATA")
    few = [
        "--trainer.max_steps=3",
        "--trainer.val_check_interval=2",
        "--trainer.accelerator=cpu",
        "--samples.num=4",
        "--data.init_args.batch_size=16",
        *small,
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


@pytest.mark.parametrize("file", TRAINERS, ids=lambda f: f.stem)
def test_every_trainer_config_parses(file, capsys):
    """Its settings are the Trainer's, and arrive; the devices it asks for need not be here."""
    toy = CONFIGS / "experiment" / "toy_diffusion.yaml"
    with pytest.raises(SystemExit) as done:
        main(["fit", "--config", str(toy), "--trainer", str(file), "--print_config"])
    assert done.value.code == 0
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert yaml.safe_load(file.read_text()).items() <= trainer.items()
