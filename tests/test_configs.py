"""Every shipped config is short, can be parsed and built at full size, and the small experiments train."""

import contextlib
import csv
import functools
import math
import os
import zipfile
from io import BytesIO, StringIO
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from lightning_gen.__main__ import main
from lightning_gen.diffusion import NoiseSchedule
from lightning_gen.diffusion.axes import check_sampler
from lightning_gen.errors import UserError
from lightning_gen.specs import build

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted((CONFIGS / "experiment").glob("*.yaml"))
METHODS = (
    "ddpm",
    "iddpm",
    "vdm",
    "score_sde_vp",
    "score_sde_ve",
    "score_sde_subvp",
    "ncsn",
    "edm",
    "flow_matching",
    "v_prediction",
)
"""Published corners of the Gaussian diffusion: each for CIFAR-10 as published, and at the sizes of MNIST and of digits."""
LATENT = ("vae", "cvae", "conv_vae", "iwae", "hvae", "ladder", "dae")
"""Latent-variable models and the denoising autoencoder, at the sizes of MNIST and of digits."""
FLOWS = ("nice", "realnvp", "glow")
"""Normalizing flows, at the sizes of MNIST and of digits."""
DISCRETE = ("d3pm_uniform", "d3pm_absorbing", "masked_diffusion")
"""Discrete diffusions, at the sizes of MNIST and of digits."""
SMALL = {
    "mnist_diffusion": ["--data.init_args.num_train=64", "--data.init_args.num_val=8", "--data.init_args.num_test=8"],
    "cifar10_ddpm": [
        f"--data={CONFIGS / 'data' / 'cifar10_folder.yaml'}",
        "--model.init_args.network.init_args.channels=8",
    ],
}
"""What makes an experiment on data that are not shipped a matter of seconds."""
TRAINED = [file for file in EXPERIMENTS if file.stem in SMALL or not file.stem.startswith(("cifar10", "mnist"))]
"""On data that are shipped, and one of each other size."""
TRAINERS = sorted((CONFIGS / "trainer").glob("*.yaml"))
PARTS = sorted((CONFIGS / "model").glob("*.yaml")) + sorted((CONFIGS / "data").glob("*.yaml"))


def settings(file):
    return [line for line in file.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]


def part(file, key):
    """The `data` or `model` of an experiment: what stands there, or in the file named there."""
    value = yaml.safe_load(file.read_text())[key]
    return value if isinstance(value, dict) else yaml.safe_load((file.parent / value).read_text())


@functools.cache
def built(file):
    """An experiment's model at its full size, on no device and from the data's shape alone: no data are read."""
    from lightning.pytorch import LightningDataModule

    import lightning_gen.families  # noqa: F401  configs name classes without their modules
    from lightning_gen.generative_module import GenerativeModule
    from lightning_gen.specs import build

    data = build(part(file, "data"), LightningDataModule)
    given = {"shape": data.shape, "levels": data.levels, "num_classes": data.num_classes}
    module = build(part(file, "model"), GenerativeModule, **given)
    with torch.device("meta"):
        module.configure_model()
    return module


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


def named(name):
    return CONFIGS / "experiment" / f"{name}.yaml"


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda f: str(f.relative_to(CONFIGS)))
def test_configs_are_short(file):
    assert len(settings(file)) <= 30


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: f.stem)
def test_every_experiment_builds_its_model(file):
    assert num_parameters(built(file)) > 10_000


@pytest.mark.parametrize("file", [f for f in EXPERIMENTS if f not in TRAINED], ids=lambda f: f.stem)
def test_every_experiment_parses(file, capsys):
    """Those that train parse anyway."""
    with pytest.raises(SystemExit) as done:
        main(["fit", "--config", str(file), "--print_config"])
    assert done.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_steps"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_there_in_three_sizes(method):
    """The sizes differ in network and cost; what is predicted along which path, and how it is weighted, does not."""
    sizes = [built(named(f"{data}_{method}")) for data in ("digits", "mnist", "cifar10")]
    for axis in ("schedule", "path", "parameterization", "weighting", "time_sampler", "variance", "sampler"):
        assert len({type(getattr(module, axis)) for module in sizes}) == 1, axis
    digits, mnist, cifar10 = (num_parameters(module) for module in sizes)
    assert digits < 90_000 and mnist < 700_000 and cifar10 > 30e6


@pytest.mark.parametrize("model", LATENT)
def test_every_latent_model_is_there_in_two_sizes(model):
    small, large = (built(named(f"{data}_{model}")) for data in ("digits", "mnist"))
    assert type(small) is type(large) and num_parameters(small) < 200_000
    assert num_parameters(small) < num_parameters(large) < 3e6


@pytest.mark.parametrize("model", FLOWS)
def test_every_flow_is_there_in_two_sizes(model):
    small, large = (built(named(f"{data}_{model}")) for data in ("digits", "mnist"))
    assert type(small.flow) is type(large.flow) and type(small.base) is type(large.base)
    assert num_parameters(small) < 200_000 and num_parameters(small) < num_parameters(large)


@pytest.mark.parametrize("model", DISCRETE)
def test_every_discrete_diffusion_is_there_in_two_sizes(model):
    """What noise is, how it comes and what is minimised are the same."""
    small, large = (built(named(f"{data}_{model}")) for data in ("digits", "mnist"))
    for axis in ("process", "schedule", "objective", "head", "sampler"):
        assert type(getattr(small, axis)) is type(getattr(large, axis)), axis
    assert small.process.steps == large.process.steps and small.timeless == large.timeless
    assert num_parameters(small) < 250_000 and num_parameters(small) < num_parameters(large) < 3e6


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: f.stem)
def test_what_is_for_a_cpu_ends_within_minutes_at_a_rate_that_falls(file):
    """A paper's long protocol has the paper's authors in its name."""
    trainer, optimization = yaml.safe_load(file.read_text())["trainer"], part(file, "model")["init_args"]
    if trainer.get("accelerator") == "cpu" and not file.stem.endswith(("_burda", "_sonderby")):
        assert trainer["max_steps"] <= 22000
        assert trainer["max_steps"] <= 3000 or "WarmupCosine" in str(optimization["lr_schedule"])


def test_the_networks_of_nice():
    """Four of 392-1000^5-392, and a shift and a scale for each pixel."""
    network = 392 * 1000 + 4 * 1000**2 + 1000 * 392 + 5 * 1000 + 392
    assert num_parameters(built(named("mnist_nice"))) == 4 * network + 2 * 784


@pytest.mark.parametrize("name", ["digits_conv_vae", "mnist_conv_vae", "cifar10_conv_vae"])
def test_a_decoder_is_its_encoder_the_other_way(name):
    """Both name their widths from the finest size to the coarsest: the wide layers have few pixels."""
    given = part(named(name), "model")["init_args"]
    assert given["encoder"]["init_args"]["widths"] == given["decoder"]["init_args"]["widths"]


def test_the_network_of_burda():
    """784-200-200-50 and back: 784 x 200 + 200 x 200 + 200 x 100, 50 x 200 + 200 x 200 + 200 x 784, and biases."""
    weights = 2 * (784 * 200 + 200 * 200) + 200 * 100 + 50 * 200
    assert num_parameters(built(named("mnist_vae"))) == weights + 4 * 200 + 100 + 784


@pytest.mark.parametrize(
    ("method", "parameters", "nfe"),
    [
        ("ddpm", 35_746_307, 1000),
        ("iddpm", None, 4000),
        ("ncsn", None, 232 * 5 - 4),
        ("edm", 55_732_739, 35),
        ("glow", 44_051_244, 1),  # 44.0 M in the paper's code
        ("d3pm_gaussian", 35_746_307 + 3 * (9 * 128 + 1), 1000),  # DDPM's, and a second number of each channel
    ],
)
def test_published_counts(method, parameters, nfe):
    """NCSN's first level is the prior here, and its denoising at the end counts."""
    module = built(named(f"cifar10_{method}"))
    assert parameters in (None, num_parameters(module))
    assert module.sampler.nfe == nfe


@pytest.fixture(scope="module")
def coloured_noise(tmp_path_factory):
    """A zip of 40 images of CIFAR-10's size in two class folders."""
    path = tmp_path_factory.mktemp("images") / "noise.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(40):
            image = BytesIO()
            Image.effect_noise((32, 32), 100.0).convert("RGB").save(image, "PNG")
            archive.writestr(f"{i % 2}/{i}.png", image.getvalue())
    return path


def shortened(file):
    """Arguments for a sampler of the experiment's own kind in few steps; an adaptive one takes those it needs."""
    sampler = part(file, "model")["init_args"].get("sampler")
    if sampler is None:
        return []
    kinds = ("DiffusionSampler", "Ancestral")
    fixed = sampler["class_path"].endswith(kinds) if isinstance(sampler, dict) else False
    return ["--model.init_args.sampler.init_args.steps=3"] if fixed else []


@pytest.mark.parametrize("file", TRAINED, ids=lambda f: f.stem)
def test_every_small_experiment_trains(file, tmp_path, coloured_noise):
    """It makes steps, validates with its own likelihood and samples with its own sampler."""
    if file.stem.startswith("mnist") and not os.environ.get("LIGHTNING_GEN_DATA"):
        pytest.skip("needs the data in LIGHTNING_GEN_DATA")
    few = [
        *SMALL.get(file.stem, []),
        *([f"--data.init_args.path={coloured_noise}"] if file.stem.startswith("cifar10") else []),
        "--trainer.max_steps=3",
        "--trainer.val_check_interval=2",
        "--trainer.limit_val_batches=1",
        "--trainer.accelerator=cpu",
        "--samples.num=4",
        "--data.init_args.batch_size=16",
        "--data.init_args.eval_batch_size=4",
        *shortened(file),
    ]
    assert main(["fit", "--config", str(file), "--run", str(tmp_path / "run"), *few]) == 0
    assert (tmp_path / "run" / "checkpoints" / "step_00000003.ckpt").exists()
    if yaml.safe_load(file.read_text())["samples"]["every_n_steps"] > 0:
        assert list((tmp_path / "run" / "samples").glob("step_*"))
        with (tmp_path / "run" / "metrics.csv").open() as rows:
            of_vectors = part(file, "data")["class_path"].endswith("TwoMoons")
            name = "val/log_prob_nats" if of_vectors else "val/bits_per_dim"
            name = "val/loss" if file.stem.endswith("_dae") else name  # it has no likelihood
            measured = [row[name] for row in csv.DictReader(rows)]
        assert all(math.isfinite(float(value)) for value in measured if value) and any(measured)


def test_every_part_is_used_or_builds():
    """Each model config is part of an experiment; each data config builds its data module."""
    from lightning.pytorch import LightningDataModule

    from lightning_gen.specs import build

    used = [yaml.safe_load(file.read_text()) for file in EXPERIMENTS]
    known = {
        (CONFIGS / "experiment" / e[key]).resolve() for e in used for key in ("model", "data") if str(e[key]) == e[key]
    }
    for file in PARTS:
        if file.parent.name == "data":
            data = build(yaml.safe_load(file.read_text()), LightningDataModule)
            if file.stem == "cifar10_packed":  # has a shape once it is packed
                with pytest.raises(UserError, match="lightning-gen pack"):
                    _ = data.shape
            else:
                assert data.shape
        else:
            assert file.resolve() in known, f"no experiment uses {file}"


def covering(plan):
    """As few cells as have every value of every axis."""
    axes = [[str(name) for name in values] for values in plan.axes.values()]
    wanted = {tuple(names[i % len(names)] for names in axes) for i in range(max(map(len, axes), default=1))}
    return [cell for cell in plan.cells() if tuple(cell.values.values()) in wanted]


@pytest.mark.parametrize("file", sorted((CONFIGS / "benchmark").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_value_of_every_benchmark_parses(file, capsys):
    from lightning_gen.benchmark.grid import Plan

    plan = Plan.read(file)
    for cell in covering(plan):
        with pytest.raises(SystemExit) as done:
            main(["fit", "--config", str(plan.experiment), *cell.arguments(), "--print_config"])
        assert done.value.code == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["trainer"]["max_steps"] > 0


@pytest.mark.parametrize("file", sorted((CONFIGS / "benchmark").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_way_to_measure_can_be_had(file):
    """Each evaluation's sampler is built from the experiment's own, within its budget."""
    from lightning_gen.benchmark.grid import Plan
    from lightning_gen.evaluation.budget import within
    from lightning_gen.specs import overridden

    plan = Plan.read(file)
    module = built(plan.experiment)
    for evaluation in plan.evaluations():
        protocol = evaluation.protocol
        sampler = overridden(module.sampler, protocol.sampler)
        if hasattr(module, "parameterization"):
            check_sampler(sampler, module.schedule, module.path, module.levels)
        if protocol.nfe is not None:
            sampler = within(sampler, protocol.nfe)
            assert 0 < sampler.nfe <= protocol.nfe
        assert sampler.nfe <= 300


def test_cells_of_a_grid_share_their_ends():
    """In continuous time the bound depends on nothing else of a schedule: then bits/dim of a grid compare."""
    from lightning_gen.benchmark.grid import Plan

    for file in (CONFIGS / "benchmark").glob("*schedules_x_parameterizations.yaml"):
        plan, ends = Plan.read(file), set()
        for cell in plan.cells()[:: len(plan.axes["parameterization"])]:
            with pytest.raises(SystemExit), contextlib.redirect_stdout(StringIO()) as printed:
                main(["fit", "--config", str(plan.experiment), *cell.arguments(), "--print_config"])
            schedule = yaml.safe_load(printed.getvalue())["model"]["init_args"]["schedule"]
            made = build(schedule, NoiseSchedule)
            ends.add((round(made.logsnr_min, 3), round(made.logsnr_max, 3)))
        assert ends == {(-10.0, 10.0 if "digits" in file.stem else 13.3)}, file


def test_samples_of_images_keep_no_noise_that_shows():
    """Half a grey level changes every third pixel: a schedule ends below that, or the sampler takes the rest off."""
    diffusions = [module for file in EXPERIMENTS if hasattr(module := built(file), "parameterization")]
    assert len(diffusions) > 30
    for module in diffusions:
        if module.levels is not None:
            noise = math.exp(-module.schedule.logsnr_max / 2) * (module.levels - 1) / 2  # levels, of data in [-1, 1]
            assert noise < 0.5 or module.sampler.denoise, module


def test_a_gpu_changes_nothing_but_where_and_how_precisely():
    """An experiment's clipping is its own."""
    assert yaml.safe_load((CONFIGS / "trainer" / "gpu.yaml").read_text()).keys() == {
        "accelerator",
        "devices",
        "precision",
    }


@pytest.mark.parametrize("file", TRAINERS, ids=lambda f: f.stem)
def test_every_trainer_config_parses(file, capsys):
    """Its settings are the Trainer's, and arrive; the devices it asks for need not be here."""
    toy = CONFIGS / "experiment" / "toy_diffusion.yaml"
    with pytest.raises(SystemExit) as done:
        main(["fit", "--config", str(toy), "--trainer", str(file), "--print_config"])
    assert done.value.code == 0
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert yaml.safe_load(file.read_text()).items() <= trainer.items()
